//! What is measured: one kind of work at one size.
use std::fmt;

use serde::{Deserialize, Serialize};

/// One kind of work at one size, at which all peers are compared.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(tag = "job", rename_all = "lowercase")]
pub enum Cell {
    Calls {
        method: String,
        connections: u32,
        outstanding: u32,
        transport: Transport,
    },
    /// `rate` 0 is full speed.
    Topics {
        subscribers: u32,
        size: u32,
        rate: u32,
    },
    Registry {
        operation: String,
        connections: u32,
        outstanding: u32,
    },
    Notices {
        watchers: u32,
    },
    Idle {
        connections: u32,
    },
    Growth {
        over: Growth,
        count: u32,
    },
    /// From exec to serving.
    Start,
    /// A fresh release build.
    Build,
}

#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Transport {
    Tcp,
    Unix,
}

/// What grows while the load stays.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Growth {
    Methods,
    Connections,
    Subscribers,
    Watchers,
}

impl Cell {
    /// The job's name, as peers list it.
    pub fn job(&self) -> &'static str {
        match self {
            Self::Calls { .. } => "calls",
            Self::Topics { .. } => "topics",
            Self::Registry { .. } => "registry",
            Self::Notices { .. } => "notices",
            Self::Idle { .. } => "idle",
            Self::Growth { over: Growth::Methods, .. } => "grow-methods",
            Self::Growth { over: Growth::Connections, .. } => "grow-connections",
            Self::Growth { over: Growth::Subscribers, .. } => "grow-subscribers",
            Self::Growth { over: Growth::Watchers, .. } => "grow-watchers",
            Self::Start => "start",
            Self::Build => "build",
        }
    }

    pub fn transport(&self) -> Transport {
        if let Self::Calls { transport, .. } = self { *transport } else { Transport::Tcp }
    }

    /// What tells the cell from others of its job, for a column's head.
    pub fn label(&self) -> String {
        match self {
            Self::Calls { method, connections, outstanding, .. } => format!("{method} {connections}x{outstanding}"),
            Self::Topics { subscribers, size, rate: 0 } => format!("1 to {subscribers}, {}", bytes(*size)),
            Self::Topics { subscribers, size, rate } => format!("1 to {subscribers}, {}, {rate}/s", bytes(*size)),
            Self::Registry { operation, connections, outstanding } => {
                format!("{operation} {connections}x{outstanding}")
            }
            Self::Notices { watchers: count } | Self::Idle { connections: count } | Self::Growth { count, .. } => {
                count.to_string()
            }
            Self::Start | Self::Build => self.job().into(),
        }
    }

    /// The figure that sums a cell up, and its unit.
    pub fn headline(&self) -> (&'static str, &'static str) {
        match self {
            Self::Calls { .. } | Self::Growth { over: Growth::Methods | Growth::Connections, .. } => ("rps", "calls/s"),
            Self::Registry { .. } => ("rps", "operations/s"),
            Self::Topics { rate: 0, .. } | Self::Growth { over: Growth::Subscribers, .. } => {
                ("delivered_s", "delivered/s")
            }
            Self::Topics { .. } | Self::Notices { .. } | Self::Growth { over: Growth::Watchers, .. } => {
                ("p50_us", "us p50")
            }
            Self::Idle { .. } => ("per_conn_kb", "KiB a connection"),
            Self::Start => ("start_ms", "ms"),
            Self::Build => ("build_s", "s"),
        }
    }
}

/// The cell's id, for example `calls/add/16x16/tcp`.
impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let job = self.job();
        match self {
            Self::Calls { method, connections, outstanding, transport } => {
                write!(f, "{job}/{method}/{connections}x{outstanding}/{transport}")
            }
            Self::Topics { subscribers, size, rate: 0 } => write!(f, "{job}/{subscribers}/{size}/full"),
            Self::Topics { subscribers, size, rate } => write!(f, "{job}/{subscribers}/{size}/{rate}"),
            Self::Registry { operation, connections, outstanding } => {
                write!(f, "{job}/{operation}/{connections}x{outstanding}")
            }
            Self::Notices { watchers: count } | Self::Idle { connections: count } | Self::Growth { count, .. } => {
                write!(f, "{job}/{count}")
            }
            Self::Start | Self::Build => f.write_str(job),
        }
    }
}

/// A size as people read it.
pub fn bytes(count: u32) -> String {
    if count.is_multiple_of(1024) { format!("{} KiB", count / 1024) } else { format!("{count} B") }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Unix => "unix",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_labels() {
        let calls = |transport| Cell::Calls { method: "add".into(), connections: 16, outstanding: 16, transport };
        let rows = [
            (calls(Transport::Tcp), "calls/add/16x16/tcp", "add 16x16"),
            (calls(Transport::Unix), "calls/add/16x16/unix", "add 16x16"),
            (Cell::Topics { subscribers: 10, size: 1024, rate: 0 }, "topics/10/1024/full", "1 to 10, 1 KiB"),
            (Cell::Topics { subscribers: 1, size: 64, rate: 500 }, "topics/1/64/500", "1 to 1, 64 B, 500/s"),
            (Cell::Growth { over: Growth::Watchers, count: 7 }, "grow-watchers/7", "7"),
            (Cell::Start, "start", "start"),
        ];
        for (cell, id, label) in rows {
            assert_eq!((cell.to_string().as_str(), cell.label().as_str()), (id, label));
        }
    }
}
