use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a provider listens: `{"ip": string, "port": int}` on the wire.
///
/// The address is an IPv4 or IPv6 literal, never a name and never unspecified; the port is 1 to 65535. So a host that
/// exists is one that can be connected to.
///
/// ```
/// use callboard_common::Host;
/// let host: Host = "127.0.0.1:7071".parse()?;
/// assert_eq!(host.port(), 7071);
/// assert!("0.0.0.0:7071".parse::<Host>().is_err());
/// # Ok::<(), callboard_common::HostError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host {
    ip: IpAddr,
    port: u16,
}

impl Host {
    /// A host from an address and a port.
    ///
    /// # Errors
    /// The address is unspecified (0.0.0.0, ::) or the port is 0.
    pub fn new(ip: IpAddr, port: u16) -> Result<Self, HostError> {
        if ip.to_canonical().is_unspecified() {
            Err(HostError::Unspecified)
        } else if port == 0 {
            Err(HostError::Port)
        } else {
            Ok(Self { ip, port })
        }
    }

    /// The address.
    pub const fn ip(self) -> IpAddr {
        self.ip
    }

    /// The port.
    pub const fn port(self) -> u16 {
        self.port
    }

    /// Both, as the standard library has them.
    pub const fn to_socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.ip, self.port)
    }
}

/// Why something is not a [`Host`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostError {
    /// Not an IPv4 or IPv6 literal.
    #[error("the address is not an IPv4 or IPv6 literal")]
    Literal,
    /// 0.0.0.0 or ::, where nobody can be reached.
    #[error("the address is unspecified")]
    Unspecified,
    /// Not 1 to 65535.
    #[error("the port is not in 1..=65535")]
    Port,
}

impl TryFrom<SocketAddr> for Host {
    type Error = HostError;

    fn try_from(address: SocketAddr) -> Result<Self, HostError> {
        Self::new(address.ip(), address.port())
    }
}

impl FromStr for Host {
    type Err = HostError;

    fn from_str(text: &str) -> Result<Self, HostError> {
        text.parse::<SocketAddr>().map_err(|_| HostError::Literal)?.try_into()
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_socket_addr().fmt(f)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_socket_addr().fmt(f)
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut host = serializer.serialize_struct("Host", 2)?;
        host.serialize_field("ip", &self.ip)?;
        host.serialize_field("port", &self.port)?;
        host.end()
    }
}

impl<'de> Deserialize<'de> for Host {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        struct Wire {
            ip: IpAddr,
            port: u16,
        }
        let wire = Wire::deserialize(deserializer)?;
        Self::new(wire.ip, wire.port).map_err(serde::de::Error::custom)
    }
}
