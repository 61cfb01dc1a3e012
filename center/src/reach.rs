use std::io;

use callboard_common::Host;
use callboard_net::{Address, Transport};
use callboard_registry::Reach;

/// Connects to providers over what the center listens on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Connecting<T>(pub(crate) T);

impl<T: Transport> Reach for Connecting<T> {
    async fn reach(&self, host: Host) -> io::Result<()> {
        self.0.connect(&Address::from(host.to_socket_addr())).await.map(drop)
    }
}
