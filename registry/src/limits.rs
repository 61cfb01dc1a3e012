use callboard_common::{ErrorInfo, ResultCode};

/// What one connection may ask a center to remember for it.
///
/// Higher bounds let one peer take more of the center's memory: about 0.2 KB for each entry that it registers or method
/// that it watches, and the method's name; and 0.3 KB for each method that nobody else names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RegistryLimits {
    /// Entries (a method at a host) that one connection may register. Default 10,000.
    pub registered_per_connection: usize,
    /// Methods that one connection may watch. Default 10,000.
    pub watched_per_connection: usize,
    /// The longest name of a method, in bytes of UTF-8. Default 4096.
    pub max_name_bytes: usize,
    /// What all connections together may take, in bytes: 200 for each entry, watched method and registration that waits,
    /// and the method's name; 260 for each method, and each registration that waits; and 150 and its length for each
    /// instance but the first that a connection names. Default 256 MiB. Past it who would take most is refused with OVERLOADED; for another one the
    /// connection that takes most is closed. So no crowd of connections keeps out one that wants less than each of them.
    pub total_bytes: usize,
}

impl Default for RegistryLimits {
    fn default() -> Self {
        Self {
            registered_per_connection: 10_000,
            watched_per_connection: 10_000,
            max_name_bytes: 4096,
            total_bytes: 256 << 20,
        }
    }
}

/// Why the table did not take an entry; nothing in it has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// The connection has registered as much as it may.
    #[error(
        "this connection has registered {bound} entries, and more are not taken: withdraw some, or raise the bound"
    )]
    Registered {
        /// [`RegistryLimits::registered_per_connection`].
        bound: usize,
    },
    /// The connection watches as many methods as it may.
    #[error(
        "this connection watches {bound} methods, and more are not taken: use another connection, or raise the bound"
    )]
    Watched {
        /// [`RegistryLimits::watched_per_connection`].
        bound: usize,
    },
    /// All connections together have taken as much as they may, and none of them more than this one would.
    #[error(
        "all that is registered and watched takes {bound} bytes, and no connection has more of it than this one would: \
         withdraw some, or raise the bound"
    )]
    Total {
        /// [`RegistryLimits::total_bytes`].
        bound: usize,
    },
    /// The method's name is too long.
    #[error("the method's name has {name_bytes} bytes, over the bound of {bound}")]
    Name {
        /// The name's length in bytes.
        name_bytes: usize,
        /// [`RegistryLimits::max_name_bytes`].
        bound: usize,
    },
}

impl Refused {
    /// The code to answer with.
    pub const fn code(&self) -> ResultCode {
        match self {
            Self::Registered { .. } | Self::Watched { .. } | Self::Total { .. } => ResultCode::Overloaded,
            Self::Name { .. } => ResultCode::TooLarge,
        }
    }

    /// The answer's `error`; its `data` names the limit: `{"limit": string, "bound": int}`.
    pub fn to_error(&self) -> ErrorInfo {
        let (limit, bound) = match *self {
            Self::Registered { bound } => ("registered_per_connection", bound),
            Self::Watched { bound } => ("watched_per_connection", bound),
            Self::Total { bound } => ("total_registry_bytes", bound),
            Self::Name { bound, .. } => ("max_name_bytes", bound),
        };
        ErrorInfo::not_executed(self.to_string()).with_limit(limit, bound)
    }
}
