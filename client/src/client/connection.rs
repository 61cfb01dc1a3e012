use std::net::SocketAddr;
use std::time::Duration;

use callboard_common::{Connection, Feature, Session};
use callboard_net::{Address, Stopped};

use crate::request::{Stage, Subject};
use crate::{CallError, Client, ClientState, ClientStates};

/// The connection of the moment, and the end.
impl Client {
    /// What is known of whoever executes the calls of this handle: the peer's session; of a provider to which it
    /// [passes calls on](Self::relayed_to) only its store.
    ///
    /// For the layers above, which ask whether it knows the keys of another one.
    pub fn run(&self) -> Option<Session> {
        let session = self.session()?;
        let Some(to) = &self.to else { return Some(session) };
        Some(Session { instance: String::new(), store: to.store_name().map(Into::into), ..session })
    }

    /// What is connected to at the moment, or was last.
    pub fn address(&self) -> Address {
        self.link().address.clone()
    }

    /// Our end of the connection of the moment, where it is a TCP one.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.link().conn.local_addr()
    }

    /// The session of the moment; `None` where the peer speaks v1.
    pub fn session(&self) -> Option<Session> {
        self.link().conn.session().cloned()
    }

    /// Whether the peer of the moment opened a session.
    pub fn has_session(&self) -> bool {
        self.shared.look().conn.session().is_some()
    }

    /// Whether both sides can do this, on the connection of the moment.
    pub fn knows(&self, feature: Feature) -> bool {
        self.shared.look().conn.session().is_some_and(|session| session.features.has(feature))
    }

    /// Whether there is a connection at the moment that takes requests.
    pub fn is_online(&self) -> bool {
        let link = self.shared.look();
        !link.conn.is_closed() && !link.is_leaving()
    }

    /// Waits until there is a connection.
    ///
    /// # Errors
    /// `Disconnected`: it has ended for good.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn online(&self) -> Result<(), CallError> {
        let mut changes = self.shared.watch();
        loop {
            let link = self.link();
            if self.is_online() {
                return Ok(());
            }
            if self.is_closed() || changes.changed().await.is_err() {
                return Err(self.request(&link, Subject::Other("connection")).disconnected(Stage::Unsent));
            }
        }
    }

    /// Ends the connection of the moment; what is queued is dropped. Unless the client is told otherwise, it makes another
    /// one.
    pub fn hang_up(&self, reason: &'static str) {
        self.link().conn.end(reason);
    }

    /// Whether it has ended for good: it was closed, or is not made again.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// Waits until it has ended for good.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn closed(&self) {
        self.shared.closed().await;
    }

    /// Why it has ended for good; `None` while it lives.
    pub fn close_reason(&self) -> Option<String> {
        self.shared.close_reason()
    }

    /// What becomes of the connection.
    pub fn state(&self) -> ClientState {
        let state = self.shared.teller.state();
        match self.shared.close_reason() {
            Some(reason) if !matches!(state, ClientState::Closed { .. }) => ClientState::Closed { reason },
            _ => state,
        }
    }

    /// The state as it is now, then each change of it.
    ///
    /// ```no_run
    /// # async fn run() -> Result<(), callboard_client::CallError> {
    /// use callboard_client::{Client, ClientState};
    /// let client = Client::connect("127.0.0.1:7070").await?;
    /// let mut states = client.states();
    /// while let Some(state) = states.next().await {
    ///     match state {
    ///         ClientState::Lost { reason } => eprintln!("lost: {reason}"),
    ///         ClientState::Resumed => eprintln!("back again"),
    ///         _ => {}
    ///     }
    /// }
    /// # Ok(()) }
    /// ```
    pub fn states(&self) -> ClientStates {
        self.shared.teller.states()
    }

    /// Waits until all that was queued by now, one-way calls among it, has left for the peer; what others queue meanwhile
    /// is not waited for. Not needed before a client is
    /// dropped, but before the program, or the runtime that it connected on, ends.
    ///
    /// # Errors
    /// `Disconnected`: what had not left by then is lost.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn flush(&self) -> Result<(), CallError> {
        let link = self.link();
        let request = self.request(&link, Subject::Other("flush"));
        link.conn.flushed().await.map_err(|_| request.disconnected(Stage::Unsent))
    }

    /// How many calls of the peer to the methods that this client [serves](crate::ClientBuilder::serves) are under way.
    pub fn serving(&self) -> usize {
        self.shared.look().conn.in_flight()
    }

    /// Ends the connection for good, for all clones, once what the peer has called by now is answered, after `grace` at the
    /// latest. Says how many calls of the peer were done with, and how many were cut. Who is to lose none tells those that
    /// call before: a provider withdraws.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the connection to end by itself, within the grace.
    pub async fn finish(&self, grace: Duration) -> Stopped {
        self.shared.finish("this program has left", grace).await
    }

    /// Ends the connection for good, for all clones. Waiting calls fail at once; what is queued is dropped.
    pub fn close(&self) {
        self.shared.close("this program has closed it");
    }
}
