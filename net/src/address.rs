use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;

/// Where to listen or to connect to.
///
/// `tcp://host:port`, or `host:port` for short; the host is a name, an IPv4 address or an IPv6 address in brackets;
/// port 0 lets the system choose when listening. `unix:///path` (or `file:///path`) is a Unix socket.
///
/// ```
/// use callboard_net::Address;
/// let address: Address = "localhost:7070".parse()?;
/// assert_eq!(address.to_string(), "tcp://localhost:7070");
/// assert_eq!("unix:///run/callboard.sock".parse::<Address>()?.to_string(), "unix:///run/callboard.sock");
/// assert!("http://localhost".parse::<Address>().is_err());
/// # Ok::<(), callboard_net::AddressError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A TCP endpoint.
    Tcp {
        /// A name or an address; an IPv6 address without its brackets.
        host: String,
        /// The port.
        port: u16,
    },
    /// A Unix socket's path.
    Unix(PathBuf),
}

/// Why a text is not an [`Address`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an address: {reason}; write tcp://host:port, host:port or unix:///path")]
pub struct AddressError {
    text: String,
    reason: &'static str,
}

impl Address {
    /// The TCP socket address, where the host is a literal and not a name.
    pub fn to_socket_addr(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp { host, port } => host.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, *port)),
            Self::Unix(_) => None,
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let wrong = |reason| AddressError { text: text.to_owned(), reason };
        if let Some(path) = text.strip_prefix("unix://").or_else(|| text.strip_prefix("file://")) {
            return if path.starts_with('/') {
                Ok(Self::Unix(PathBuf::from(path)))
            } else {
                Err(wrong("a socket's path is absolute, so three slashes follow the colon"))
            };
        }
        let rest = text.strip_prefix("tcp://").unwrap_or(text);
        if rest.contains("://") {
            return Err(wrong("unknown scheme"));
        }
        let (host, port) = rest.rsplit_once(':').ok_or_else(|| wrong("the port is missing"))?;
        let port = port.parse().map_err(|_| wrong("the port is not a number from 0 to 65535"))?;
        let bracketed = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        match bracketed {
            Some(literal) if literal.parse::<std::net::Ipv6Addr>().is_err() => {
                Err(wrong("what stands in brackets is not an IPv6 address"))
            }
            Some(literal) => Ok(Self::Tcp { host: literal.to_owned(), port }),
            None if host.is_empty() => Err(wrong("the host is missing")),
            None if host.contains(':') => Err(wrong("an IPv6 address stands in brackets")),
            None if host.contains(['/', ' ']) => Err(wrong("the host is not a name or an address")),
            None => Ok(Self::Tcp { host: host.to_owned(), port }),
        }
    }
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp { host: address.ip().to_string(), port: address.port() }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp://[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp://{host}:{port}"),
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_read_back_as_they_print() {
        let rows = [
            ("tcp://127.0.0.1:7070", "tcp://127.0.0.1:7070"),
            ("127.0.0.1:0", "tcp://127.0.0.1:0"),
            ("[::1]:7070", "tcp://[::1]:7070"),
            ("tcp://stage.example:1", "tcp://stage.example:1"),
            ("file:///tmp/a b.sock", "unix:///tmp/a b.sock"),
        ];
        for (text, printed) in rows {
            let address: Address = text.parse().unwrap();
            assert_eq!(address.to_string(), printed);
            assert_eq!(printed.parse::<Address>().unwrap(), address);
        }
    }

    #[test]
    fn bad_addresses_say_what_is_wrong() {
        let rows = [
            ("", "port is missing"),
            ("localhost", "port is missing"),
            ("localhost:", "not a number"),
            ("localhost:65536", "not a number"),
            (":7070", "host is missing"),
            ("::1:7070", "in brackets"),
            ("[localhost]:1", "not an IPv6"),
            ("http://localhost:1", "unknown scheme"),
            ("unix://relative", "absolute"),
            ("tcp://a/b:1", "not a name"),
        ];
        for (text, reason) in rows {
            let error = text.parse::<Address>().unwrap_err().to_string();
            assert!(error.contains(reason), "{error}");
        }
    }
}
