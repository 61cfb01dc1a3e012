use callboard_common::Message;
use callboard_net::Conn;
use tokio::sync::oneshot;

use crate::guard::guarded;
use crate::request::Stage;

/// Who waits for an answer.
pub(crate) enum Waiter {
    /// A task; it learns of the connection's end by the sender's drop.
    Task {
        answer: oneshot::Sender<Told>,
        /// The answer may be kept for long, so it must not hold the buffer that it arrived in.
        kept: bool,
    },
    /// Code that runs on the connection's task.
    InOrder(Box<dyn FnOnce(Outcome) + Send>),
    /// Nobody: the answer only frees the place, and so does time.
    Nobody,
}

/// What a task is told.
#[derive(Debug)]
pub(crate) enum Told {
    Answer(Message),
    Late,
}

/// How the wait of a [`Waiter::InOrder`] ended.
pub(crate) enum Outcome {
    Answered(Message),
    Disconnected(Stage),
    Late,
}

impl Waiter {
    /// A task that waits, and the end at which it does.
    #[inline]
    pub(crate) fn task(kept: bool) -> (oneshot::Receiver<Told>, Self) {
        let (answer, waits) = oneshot::channel();
        (waits, Self::Task { answer, kept })
    }

    /// Tells the waiter; to be called without the lock.
    pub(crate) fn wake(self, conn: &Conn, outcome: Outcome) {
        match (self, outcome) {
            // It may have given up meanwhile; then there is nobody to tell.
            (Self::Task { answer, kept }, Outcome::Answered(message)) => {
                let _ = answer.send(Told::Answer(if kept { message.detach() } else { message }));
                conn.woke();
            }
            (Self::Task { answer, .. }, Outcome::Late) => {
                let _ = answer.send(Told::Late);
            }
            (Self::InOrder(done), outcome) => guarded(conn, "a call's continuation", || done(outcome)),
            _ => {}
        }
    }
}
