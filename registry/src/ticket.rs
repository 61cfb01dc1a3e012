use callboard_common::{
    Connection, ErrorInfo, Event, InFlight, Message, MessageType, Refusal, ResultCode, ServiceAnswer, ServiceOp,
};

use crate::availability::NotEntered;

/// A registration that was not answered yet. It counts as a request in flight of its connection.
#[derive(Debug)]
pub(crate) struct Ticket<C: Connection> {
    conn: C,
    /// A copy, since the message may share its memory with many others.
    id: Box<[u8]>,
    is_one_way: bool,
    in_flight: InFlight<C>,
}

impl<C: Connection> Ticket<C> {
    /// `None` if the peer has as many requests in flight as it may.
    pub(crate) fn new(conn: &C, message: &Message) -> Option<Self> {
        let in_flight = conn.begin_request()?;
        Some(Self { conn: conn.clone(), id: message.id().into(), is_one_way: message.is_one_way(), in_flight })
    }

    pub(crate) fn answer(self, outcome: Result<(), NotEntered>) {
        let Self { conn, id, is_one_way, in_flight } = self;
        let Err(why) = outcome else {
            conn.set_provider();
            if !is_one_way {
                // The peer may have gone meanwhile; then there is nobody to tell.
                let _ = conn.answer(&id, &ServiceAnswer::ok(ServiceOp::Register));
            }
            return drop(in_flight);
        };
        // Of these there is one line for all.
        let is_told = matches!(why, NotEntered::Unreached { .. });
        let (code, error) = why.into_answer();
        if !is_told {
            tracing::info!(peer = conn.peer(), why = %error.message, "a provider was not entered");
        }
        conn.count(if code == ResultCode::Overloaded { Event::Overloaded } else { Event::Refused });
        if !is_one_way {
            let request = MessageType::ServiceRequest;
            let optype = Some(ServiceOp::Register.to_wire());
            let _ = conn.answer(&id, &Refusal { code, request, optype, error: &error, v1: false });
        }
        drop(in_flight);
    }
}

impl NotEntered {
    fn into_answer(self) -> (ResultCode, ErrorInfo) {
        match self {
            Self::Refused(why) => (why.code(), why.to_error()),
            Self::Unreached { method, host, why } => {
                let message = format!(
                    "{method:?} was not registered: the center can't reach {host} ({why}); listen there first, or name a \
                     host that the center can reach"
                );
                (ResultCode::Unavailable, ErrorInfo::not_executed(message))
            }
            Self::Withdrawn => {
                let message = "it was withdrawn before the center had reached its host";
                (ResultCode::Cancelled, ErrorInfo::not_executed(message))
            }
            Self::Draining => {
                let message = "this center is about to end: register at another one, or when it is back";
                (ResultCode::Unavailable, ErrorInfo::not_executed(message))
            }
        }
    }
}
