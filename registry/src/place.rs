use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use callboard_client::Address;
use callboard_common::Host;

/// Where a provider can be reached: hosts, the addresses that its server listens on, or its connection to the center.
///
/// ```
/// use callboard_common::Host;
/// use callboard_registry::Place;
///
/// let host: Host = "192.0.2.7:7071".parse()?;
/// assert_eq!(Place::from(host), Place::Hosts(vec![host]));
/// # Ok::<(), callboard_common::HostError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// These, as they are.
    Hosts(Vec<Host>),
    /// What a server listens on. 0.0.0.0 and :: stand for the address that the center is reached from, names are
    /// resolved, and Unix sockets are left out.
    Listening(Vec<Address>),
    /// Nowhere: the center passes calls on over the provider's own connection to it, whose client must
    /// [serve](callboard_client::ClientBuilder::serves) the methods. Callers that do not know of this, v1 programs among
    /// them, do not find such a provider, and its calls take the way through the center.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), Box<dyn std::error::Error>> {
    /// use callboard_client::Client;
    /// use callboard_registry::{Place, Provider};
    /// use callboard_server::Router;
    ///
    /// let router = Router::new().method("double", |n: i64| Ok(n * 2));
    /// let center = Client::builder().serves(router.clone()).connect("127.0.0.1:7070").await?;
    /// let provider = Provider::new(center).announce(router.names(), Place::Relay).await?;
    /// # Ok(()) }
    /// ```
    Relay,
}

/// Why a listening address can't be announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PlaceError {
    /// Port 0 is where nobody listens.
    #[error("port 0 is not known until the server listens: announce the addresses that the running server reports")]
    Port,
    /// The server listens on IPv4, the center is reached over IPv6.
    #[error(
        "it listens on all IPv4 addresses, but the center is reached over IPv6, so none of them is known: name a host"
    )]
    OtherFamily,
}

/// The host to announce for a socket that a server listens on. `local` is our end of the connection to the center, and
/// `None` where that is a Unix socket.
pub(crate) fn announced(listening: SocketAddr, local: Option<IpAddr>) -> Result<Host, PlaceError> {
    let ip = if listening.ip().to_canonical().is_unspecified() {
        reached_from(listening.ip(), local)?
    } else {
        listening.ip()
    };
    Host::new(ip, listening.port()).map_err(|_| PlaceError::Port)
}

/// The center is where callers come from, so the address that it is reached from is one that they can reach.
fn reached_from(unspecified: IpAddr, local: Option<IpAddr>) -> Result<IpAddr, PlaceError> {
    match local.map(|ip| ip.to_canonical()) {
        None => Ok(Ipv4Addr::LOCALHOST.into()),
        // A socket on :: takes IPv4 too.
        Some(ip) if ip.is_ipv4() || unspecified.is_ipv6() => Ok(ip),
        Some(ip) if ip.is_loopback() => Ok(Ipv4Addr::LOCALHOST.into()),
        Some(_) => Err(PlaceError::OtherFamily),
    }
}

impl From<Host> for Place {
    fn from(host: Host) -> Self {
        Self::Hosts(vec![host])
    }
}

impl From<Vec<Host>> for Place {
    fn from(hosts: Vec<Host>) -> Self {
        Self::Hosts(hosts)
    }
}

impl From<&[Host]> for Place {
    fn from(hosts: &[Host]) -> Self {
        Self::Hosts(hosts.to_vec())
    }
}

impl From<SocketAddr> for Place {
    fn from(listening: SocketAddr) -> Self {
        Self::Listening(vec![listening.into()])
    }
}

impl From<Address> for Place {
    fn from(listening: Address) -> Self {
        Self::Listening(vec![listening])
    }
}

impl From<Vec<Address>> for Place {
    fn from(listening: Vec<Address>) -> Self {
        Self::Listening(listening)
    }
}

impl From<&[Address]> for Place {
    fn from(listening: &[Address]) -> Self {
        Self::Listening(listening.to_vec())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_announced_can_be_reached() {
        let rows = [
            ("10.0.0.5:80", Some("10.0.0.9"), Ok("10.0.0.5:80")),
            ("[2001:db8::5]:80", Some("10.0.0.9"), Ok("[2001:db8::5]:80")),
            ("0.0.0.0:80", Some("10.0.0.9"), Ok("10.0.0.9:80")),
            ("0.0.0.0:80", None, Ok("127.0.0.1:80")),
            ("0.0.0.0:80", Some("127.0.0.1"), Ok("127.0.0.1:80")),
            ("0.0.0.0:80", Some("::1"), Ok("127.0.0.1:80")),
            ("0.0.0.0:80", Some("::ffff:10.0.0.9"), Ok("10.0.0.9:80")),
            ("0.0.0.0:80", Some("2001:db8::9"), Err(PlaceError::OtherFamily)),
            ("[::]:80", Some("2001:db8::9"), Ok("[2001:db8::9]:80")),
            ("[::]:80", Some("10.0.0.9"), Ok("10.0.0.9:80")),
            ("[::]:80", Some("::1"), Ok("[::1]:80")),
            ("[::]:80", None, Ok("127.0.0.1:80")),
            ("[::ffff:0.0.0.0]:80", Some("10.0.0.9"), Ok("10.0.0.9:80")),
            ("10.0.0.5:0", Some("10.0.0.9"), Err(PlaceError::Port)),
        ];
        for (listening, local, expected) in rows {
            let found = announced(listening.parse().unwrap(), local.map(|ip| ip.parse().unwrap()));
            assert_eq!(found.map(|host| host.to_string()), expected.map(str::to_owned), "{listening} {local:?}");
        }
    }
}
