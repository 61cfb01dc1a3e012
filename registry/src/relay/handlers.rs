use std::sync::Arc;

use callboard_common::{Connection, Event, FLAG_RELAY, Handler, Message, MessageType};

use super::Relay;
use super::book::Number;

/// Takes the calls of a center: those that are to be passed on, and hands all others to what serves here.
#[derive(Debug)]
pub struct RelayCalls<C: Connection, H> {
    relay: Arc<Relay<C>>,
    here: H,
}

/// Takes the answers that come to a center: those to calls that were passed on, and hands all others on.
#[derive(Debug)]
pub struct RelayAnswers<C: Connection, H> {
    relay: Arc<Relay<C>>,
    here: H,
}

impl<C: Connection, H> RelayCalls<C, H> {
    /// `here` takes the calls that are not to be passed on.
    pub fn new(relay: &Arc<Relay<C>>, here: H) -> Self {
        Self { relay: Arc::clone(relay), here }
    }
}

impl<C: Connection, H> RelayAnswers<C, H> {
    /// `here` takes the answers to calls that were not passed on.
    pub fn new(relay: &Arc<Relay<C>>, here: H) -> Self {
        Self { relay: Arc::clone(relay), here }
    }
}

impl<C: Connection, H: Handler<C>> Handler<C> for RelayCalls<C, H> {
    fn handle(&self, conn: &C, message: Message) {
        match message.kind() {
            MessageType::RpcRequest if message.flags() & FLAG_RELAY != 0 => self.relay.pass_on(conn, &message),
            MessageType::Cancel if self.relay.give_up(conn, message.id()) => {}
            _ => self.here.handle(conn, message),
        }
    }

    fn ended(&self, conn: &C) {
        self.relay.sends_no_more(conn);
        self.here.ended(conn);
    }

    fn closed(&self, conn: &C) {
        self.relay.leave(conn);
        self.here.closed(conn);
    }
}

impl<C: Connection, H: Handler<C>> Handler<C> for RelayAnswers<C, H> {
    fn handle(&self, conn: &C, message: Message) {
        let number = Some(message.id()).filter(|_| message.kind() == MessageType::RpcResponse);
        match number.and_then(Number::of_id) {
            Some(number) if self.relay.answered(conn, number, &message) => {}
            Some(_) => conn.count(Event::Ignored),
            None => self.here.handle(conn, message),
        }
    }

    fn ended(&self, conn: &C) {
        self.here.ended(conn);
    }

    fn closed(&self, conn: &C) {
        self.here.closed(conn);
    }
}
