//! What a service manager such as systemd gives to a service, and wants to hear from it.

use std::convert::Infallible;
use std::io;
use std::net::TcpListener;

use anyhow::Context;
use callboard_center::Center;
use callboard_net::{Address, Inherited, Sockets};
use listenfd::ListenFd;
use sd_notify::NotifyState;
use socket2::{Domain, Type};

/// Adds the listening sockets that were handed over (`LISTEN_FDS`) to `sockets`; says where they listen. To be called
/// before there are threads: it takes them out of the environment.
pub(crate) fn inherit(sockets: Sockets) -> anyhow::Result<(Inherited, Vec<Address>)> {
    let mut given = ListenFd::from_env();
    let inherited = Inherited::new(sockets);
    let mut addresses = Vec::new();
    for number in 0..given.len() {
        let address = take(&mut given, number, &inherited).with_context(|| {
            format!("socket {number} of those that the service manager has handed over (LISTEN_FDS)")
        })?;
        addresses.extend(address);
    }
    Ok((inherited, addresses))
}

fn take(given: &mut ListenFd, number: usize, inherited: &Inherited) -> io::Result<Option<Address>> {
    if let Ok(Some(listener)) = given.take_tcp_listener(number) {
        return inherited.tcp(listener).map(Some);
    }
    // By its own name a TCP socket is one of IPv4 to it.
    let (family, kind) = (Domain::IPV6.into(), Type::STREAM.into());
    if let Ok(Some(listener)) = given.take_custom::<TcpListener>(number, family, kind, "TCP socket of IPv6") {
        return inherited.tcp(listener).map(Some);
    }
    given.take_unix_listener(number)?.map(|listener| inherited.unix(listener)).transpose()
}

/// It listens.
pub(crate) fn ready() {
    tell(&[NotifyState::Ready]);
}

/// It has been asked to end.
pub(crate) fn stopping() {
    tell(&[NotifyState::Stopping]);
}

/// Says twice in the time that the service manager permits (`WATCHDOG_USEC`) that every event loop takes its turns;
/// never ends.
pub(crate) async fn watchdog(center: &Center) -> Infallible {
    let Some(time) = sd_notify::watchdog_enabled().filter(|time| !time.is_zero()) else {
        return std::future::pending().await;
    };
    let mut due = tokio::time::interval(time / 2);
    loop {
        due.tick().await;
        // A loop that is stuck keeps it waiting, and the service manager hears nothing.
        center.responds().await;
        tell(&[NotifyState::Watchdog]);
    }
}

/// Nothing happens where no service manager listens.
fn tell(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::warn!(%error, "the service manager was not told (NOTIFY_SOCKET)");
    }
}
