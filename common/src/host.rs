use std::fmt;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use serde::ser::SerializeStruct;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Where a provider is called: where it listens, `{"ip": string, "port": int}` on the wire, or behind a center that passes
/// calls on to it.
///
/// Of one that listens the address is an IPv4 or IPv6 literal, never a name and never unspecified; the port is 1 to 65535.
/// So it is one that can be connected to. What stands for one that is [relayed](Self::relayed) can't be.
///
/// ```
/// use callboard_common::Host;
/// let host: Host = "127.0.0.1:7071".parse()?;
/// assert_eq!(host.port(), 7071);
/// assert!("0.0.0.0:7071".parse::<Host>().is_err());
/// # Ok::<(), callboard_common::HostError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Host(Place);

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    Listens {
        ip: IpAddr,
        port: u16,
    },
    /// What its instance amounts to.
    Relayed([u8; 16]),
}

impl Host {
    /// What stands for a provider without an address: a center passes calls on to the one of this instance.
    ///
    /// ```
    /// use callboard_common::Host;
    /// let host = Host::relayed("i-1");
    /// assert!(host.is_relayed() && host == Host::relayed("i-1") && host != Host::relayed("i-2"));
    /// ```
    pub fn relayed(instance: &str) -> Self {
        // FNV-1a: the same everywhere and at all times. Whoever finds two instances that amount to the same could as well
        // name the other's.
        let hash = instance.bytes().fold(FNV_BASIS, |hash, byte| (hash ^ u128::from(byte)).wrapping_mul(FNV_PRIME));
        Self(Place::Relayed(hash.to_be_bytes()))
    }

    /// Whether it can't be connected to, but is called through a center.
    pub const fn is_relayed(self) -> bool {
        matches!(self.0, Place::Relayed(_))
    }

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
            Ok(Self(Place::Listens { ip, port }))
        }
    }

    /// The address; an unspecified one where it is [relayed](Self::is_relayed).
    pub const fn ip(self) -> IpAddr {
        match self.0 {
            Place::Listens { ip, .. } => ip,
            Place::Relayed(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        }
    }

    /// The port; 0 where it is [relayed](Self::is_relayed).
    pub const fn port(self) -> u16 {
        match self.0 {
            Place::Listens { port, .. } => port,
            Place::Relayed(_) => 0,
        }
    }

    /// Both, as the standard library has them.
    pub const fn to_socket_addr(self) -> SocketAddr {
        SocketAddr::new(self.ip(), self.port())
    }
}

/// In one piece where it can be: a keyed hash takes its time for each.
impl Hash for Place {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match *self {
            Self::Listens { ip: IpAddr::V4(ip), port } => {
                state.write_u64((u64::from(ip.to_bits()) << 16) | u64::from(port));
            }
            Self::Listens { ip: IpAddr::V6(ip), port } => {
                state.write_u128(ip.to_bits());
                state.write_u16(port);
            }
            Self::Relayed(instance) => state.write_u128(u128::from_ne_bytes(instance)),
        }
    }
}

const FNV_BASIS: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const FNV_PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

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

/// One that is relayed as `relay:` and 16 hex digits, by which people tell it from others.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Place::Listens { .. } => self.to_socket_addr().fmt(f),
            Place::Relayed(hash) => write!(f, "relay:{:016x}", u128::from_be_bytes(hash) >> 64),
        }
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Host {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.is_relayed() {
            let mut host = serializer.serialize_struct("Host", 1)?;
            host.serialize_field("relay", &true)?;
            return host.end();
        }
        let mut host = serializer.serialize_struct("Host", 2)?;
        host.serialize_field("ip", &self.ip())?;
        host.serialize_field("port", &self.port())?;
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
