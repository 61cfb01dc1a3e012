use std::fmt;
use std::sync::Arc;

use callboard_common::Host;

/// A change in who provides a method.
///
/// ```
/// use callboard_registry::Notice;
/// let notice = Notice::new("add", "127.0.0.1:7071".parse()?, true);
/// assert_eq!(notice.to_string(), "\"add\" online at 127.0.0.1:7071");
/// # Ok::<(), callboard_common::HostError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Notice {
    /// The method that it is about.
    pub method: Arc<str>,
    /// Who came or went.
    pub host: Host,
    /// Whether the host now provides the method: `true` when it came, `false` when it went.
    pub online: bool,
    /// Which run of a provider came or went, where that is known.
    pub instance: Option<Arc<str>>,
    /// Where it keeps its answers to calls under keys beyond its own end, of one that listens nowhere and has said so.
    pub store: Option<Arc<str>>,
    /// Of the method's set of providers, after this change: one more than before it. `None` if the center tells none.
    pub revision: Option<u64>,
}

impl Notice {
    /// A notice without an instance and a revision.
    pub fn new(method: impl Into<Arc<str>>, host: Host, online: bool) -> Self {
        Self { method: method.into(), host, online, instance: None, store: None, revision: None }
    }
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, host, online, .. } = self;
        write!(f, "{method:?} {} at {host}", if *online { "online" } else { "offline" })
    }
}
