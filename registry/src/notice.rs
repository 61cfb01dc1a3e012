use std::fmt;
use std::sync::Arc;

use callboard_common::Host;

/// A change in who provides a method.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Notice {
    /// The method that it is about.
    pub method: Arc<str>,
    /// Who came or went.
    pub host: Host,
    /// Whether the host now provides the method: `true` when it came, `false` when it went.
    pub online: bool,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, host, online } = self;
        write!(f, "{method:?} {} at {host}", if *online { "online" } else { "offline" })
    }
}
