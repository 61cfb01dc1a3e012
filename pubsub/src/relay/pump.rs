//! The task that sends.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use callboard_client::{CallError, CallErrorKind, Line};
use callboard_common::{Decode, Feature, Json, Message, Ping, ResultCode, SendError, TopicAnswer};
use tokio::task::coop::consume_budget;
use tokio::time::Instant;

use super::{Shared, bound_of};
use crate::hub::subject;
use crate::outgoing::Outgoing;

/// Whether a connection is still to be published over.
enum Served {
    Lost,
    /// Nobody has the relay any more, and all is confirmed or time is up.
    Over,
}

/// How much could be sent.
enum Sent {
    Some,
    All,
    /// The outbox is full.
    Full,
    /// As many requests as may wait for their answers.
    Busy,
}

pub(super) async fn run(shared: Arc<Shared>) {
    loop {
        let center = tokio::select! {
            biased;
            () = shared.given_up() => break,
            center = shared.centers.wait_online() => center,
        };
        let Ok(center) = center else { break };
        let line = center.line();
        let turn = shared.begin(&line);
        if let Served::Over = shared.serve(&line, turn).await {
            break;
        }
    }
    shared.progress.send_modify(|progress| progress.ended = true);
    // Who waits for an answer hears of the end when its message goes.
    shared.lock().queue = crate::unconfirmed::Unconfirmed::new();
}

impl Shared {
    /// Another connection: what is not known to have been handled is to be sent over it.
    fn begin(&self, line: &Line) -> u64 {
        self.max_frame_bytes.store(bound_of(line), Relaxed);
        let mut state = self.lock();
        state.turn += 1;
        (state.asks, state.is_to_ask) = (false, false);
        state.queue.start_over(Instant::now());
        state.turn
    }

    async fn serve(self: &Arc<Self>, line: &Line, turn: u64) -> Served {
        loop {
            consume_budget().await;
            if !line.is_online() {
                return Served::Lost;
            }
            let sent = self.send_some(line, turn);
            line.conn().leave();
            self.ask(line, turn);
            if self.is_done() {
                return Served::Over;
            }
            let wait = async {
                match sent {
                    Sent::Some => {}
                    // One that has ended meanwhile is seen above.
                    Sent::Full => drop(line.conn().room().await),
                    Sent::All | Sent::Busy => self.work.notified().await,
                }
            };
            tokio::select! {
                biased;
                () = self.given_up() => return Served::Over,
                () = line.lost() => return Served::Lost,
                () = wait => {}
            }
        }
    }

    /// Sends what is next, a part of it where there is much.
    fn send_some(self: &Arc<Self>, line: &Line, turn: u64) -> Sent {
        let next: Vec<_> = self.lock().queue.next(AT_ONCE).map(|(number, what)| (number, what.cloned())).collect();
        let quiet = knows_quiet(line);
        let (mut up_to, mut asks, mut stopped) = (0, false, None);
        for (number, outgoing) in &next {
            if let Some(outgoing) = outgoing {
                let is_quiet = quiet && !outgoing.is_awaited();
                let sent = if is_quiet {
                    self.publish_quietly(line, *number, outgoing)
                } else {
                    self.ask_to_publish(line, turn, *number, outgoing)
                };
                match sent {
                    Ok(()) => asks |= is_quiet,
                    Err(sent) => {
                        stopped = Some(sent);
                        break;
                    }
                }
            }
            up_to = *number;
        }
        let mut state = self.lock();
        state.queue.sent(up_to);
        state.is_to_ask |= asks;
        drop(state);
        stopped.unwrap_or(if next.len() < AT_ONCE { Sent::All } else { Sent::Some })
    }

    /// Publishes without an answer.
    fn publish_quietly(&self, line: &Line, number: u64, outgoing: &Outgoing) -> Result<(), Sent> {
        match line.publish_one_way(self.id(number), &outgoing.body(false), GATHER_BYTES) {
            Err(SendError::Full) => Err(Sent::Full),
            Err(SendError::Encode(why)) => {
                let (center, subject) = (line.address().to_string(), subject(outgoing.topic()));
                let why = CallError::new(CallErrorKind::Encode, center, subject, format!("it can't be sent: {why}"));
                self.undeliverable(number, outgoing, why);
                Ok(())
            }
            // That the connection has ended is seen where its end is waited for.
            Err(_) => Err(Sent::All),
            Ok(()) => Ok(()),
        }
    }

    /// Publishes, and hears the answer.
    fn ask_to_publish(
        self: &Arc<Self>,
        line: &Line,
        turn: u64,
        number: u64,
        outgoing: &Arc<Outgoing>,
    ) -> Result<(), Sent> {
        let (shared, over, what) = (Arc::clone(self), line.clone(), Arc::clone(outgoing));
        let done = move |answer: Result<Message, CallError>| shared.answered(turn, number, &over, &what, answer);
        let only_strings = line.session().is_none();
        let subject = subject(outgoing.topic());
        match line.publish_in_order(self.id(number), &subject, &outgoing.body(only_strings), done) {
            Ok(()) => Ok(()),
            Err(error) => match error.kind() {
                CallErrorKind::Overloaded => Err(Sent::Busy),
                CallErrorKind::Disconnected => Err(Sent::All),
                _ => {
                    self.undeliverable(number, outgoing, error);
                    Ok(())
                }
            },
        }
    }

    /// Asks for a sign that all has been handled, unless one is on its way.
    fn ask(self: &Arc<Self>, line: &Line, turn: u64) {
        let up_to = {
            let mut state = self.lock();
            if state.asks || !state.is_to_ask {
                return;
            }
            (state.asks, state.is_to_ask) = (true, false);
            state.queue.sent_up_to()
        };
        let (shared, over) = (Arc::clone(self), line.clone());
        let asked = line.exchange_in_order("published messages", &Ping, move |answer| {
            let is_handled = answer.is_ok();
            shared.asked(turn, is_handled);
            if is_handled {
                shared.confirm(turn, up_to, &over);
            }
        });
        if asked.is_err() {
            self.asked(turn, false);
        }
    }

    /// The sign has come, or does not come.
    fn asked(&self, turn: u64, is_handled: bool) {
        let mut state = self.lock();
        if state.turn == turn {
            state.asks = false;
            state.is_to_ask |= !is_handled;
        }
        drop(state);
        self.work.notify_one();
    }

    fn answered(&self, turn: u64, number: u64, line: &Line, outgoing: &Outgoing, answer: Result<Message, CallError>) {
        // What was not answered is published again over the next connection.
        let Ok(message) = answer else { return };
        let subject = subject(outgoing.topic());
        let outcome = match TopicAnswer::decode::<Json>(message.body()) {
            // A center that is about to end; the next one is asked.
            Ok(TopicAnswer { code: ResultCode::Unavailable, .. }) => return,
            Ok(TopicAnswer { code: ResultCode::Ok, .. }) => Ok(()),
            Ok(TopicAnswer { code, error, .. }) => Err(line.refused(&subject, code, error)),
            Err(why) => Err(line.unreadable(&subject, why)),
        };
        outgoing.answer(outcome);
        self.confirm(turn, number, line);
    }

    /// The center has handled all up to this number: it does so in order.
    fn confirm(&self, turn: u64, number: u64, line: &Line) {
        // One that is about to leave handles no more, and says so before it answers anything else.
        if !line.is_online() {
            return;
        }
        let confirmed = {
            let mut state = self.lock();
            if state.turn != turn {
                return;
            }
            state.queue.confirm(number, Instant::now());
            state.queue.confirmed_up_to()
        };
        self.confirmed(confirmed);
        self.work.notify_one();
    }
}

/// Whether what is published needs no answer of its own to be known to have been handled.
fn knows_quiet(line: &Line) -> bool {
    line.knows_one_way() && line.session().is_some_and(|session| session.features.has(Feature::Ping))
}

/// So many messages are sent before others have their turn.
const AT_ONCE: usize = 64;
/// Above so much that waits for company it leaves.
const GATHER_BYTES: usize = 64 << 10;
