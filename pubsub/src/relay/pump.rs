//! The task that sends.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Centers, Client, Line};
use callboard_common::{Decode, Feature, Json, Message, Ping, ResultCode, SendError, TopicAnswer};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep_until, timeout};

use super::{Shared, bound_of};
use crate::hub::subject;
use crate::outgoing::Outgoing;

/// Whether a connection is still to be published over.
enum Served {
    Lost,
    /// Its center confirms nothing, and another is there.
    Silent,
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
    // One for all: what nobody wants any more has its time once, whatever becomes of connections meanwhile.
    let mut given_up = pin!(shared.given_up());
    let mut silent = Silent::default();
    while !shared.is_done() {
        let center = tokio::select! {
            biased;
            () = &mut given_up => break,
            center = shared.centers.wait_online() => center,
        };
        let Ok(first) = center else { break };
        let (place, center) = silent.choose(&shared.centers).unwrap_or((0, first));
        let line = center.line();
        let turn = shared.begin(&line);
        let served = tokio::select! {
            biased;
            () = &mut given_up => Served::Over,
            () = shared.silent(&silent, place) => Served::Silent,
            served = shared.serve(&line, turn) => served,
        };
        match served {
            Served::Over => break,
            Served::Lost => {}
            Served::Silent => {
                tracing::warn!(center = %line.address(), "it confirms nothing; what is published goes to another center");
                silent.note(place);
            }
        }
    }
    shared.progress.send_modify(|progress| progress.ended = true);
    // Who waits for an answer hears of the end when its message goes.
    shared.lock().queue = crate::unconfirmed::Unconfirmed::new();
}

/// Which centers, by their place in the list, have confirmed nothing for too long, and when that was seen.
#[derive(Default)]
struct Silent(Vec<(usize, Instant)>);

impl Silent {
    fn note(&mut self, place: usize) {
        self.0.retain(|(noted, _)| *noted != place);
        self.0.push((place, Instant::now()));
    }

    fn has(&self, place: usize) -> bool {
        self.0.iter().any(|(noted, at)| *noted == place && at.elapsed() < SHUNNED)
    }

    /// Whether another one is online that is not silent.
    fn is_another(&self, centers: &Centers, place: usize) -> bool {
        let mut others = centers.iter().enumerate().filter(|(other, _)| *other != place && !self.has(*other));
        others.any(|(_, center)| center.is_online())
    }

    /// The first that is online, where there is one without those that are silent.
    fn choose<'a>(&self, centers: &'a Centers) -> Option<(usize, &'a Client)> {
        let mut online = centers.iter().enumerate().filter(|(_, center)| center.is_online());
        online.clone().find(|(place, _)| !self.has(*place)).or_else(|| online.next())
    }
}

impl Shared {
    /// Another connection: what is not known to have been handled is to be sent over it.
    fn begin(&self, line: &Line) -> u64 {
        self.max_frame_bytes.store(bound_of(line), Relaxed);
        let mut state = self.lock();
        state.turn += 1;
        state.waits_since = None;
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
            let is_asked = self.ask(line, turn);
            if self.is_done() {
                return Served::Over;
            }
            let wait = async {
                match sent {
                    Sent::Some => {}
                    Sent::All if is_asked => self.work.notified().await,
                    // One that has ended meanwhile is seen above.
                    Sent::Full => drop(line.conn().room().await),
                    Sent::All | Sent::Busy => self.place(line).await,
                }
            };
            tokio::select! {
                biased;
                () = line.lost() => return Served::Lost,
                () = wait => {}
            }
        }
    }

    /// Waits until one more request may be taken.
    async fn place(&self, line: &Line) {
        let _ = line.conn().room().await; // one that has ended meanwhile is seen elsewhere
        // Places for requests are shared with others, of whose answers nobody is told here.
        let _ = timeout(BUSY_PAUSE, self.work.notified()).await;
    }

    /// Waits until the center has confirmed nothing for too long and another one is there.
    async fn silent(&self, silent: &Silent, place: usize) {
        let patience = (self.centers.timeout() / 2).clamp(BUSY_PAUSE, SHUNNED);
        loop {
            let since = self.lock().waits_since;
            let is_silent = since.is_some_and(|since| since.elapsed() >= patience);
            if is_silent && silent.is_another(&self.centers, place) {
                return;
            }
            let until = since.filter(|_| !is_silent).unwrap_or_else(Instant::now) + patience;
            tokio::select! {
                biased;
                () = self.begins_to_wait.notified(), if since.is_none() => {}
                () = sleep_until(until), if since.is_some() => {}
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
        let begins = state.waits_since.is_none() && !state.queue.is_settled();
        if begins {
            state.waits_since = Some(Instant::now());
        }
        drop(state);
        if begins {
            self.begins_to_wait.notify_one();
        }
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

    /// Asks for a sign that all has been handled, unless one is on its way; false if there was no room for that.
    fn ask(self: &Arc<Self>, line: &Line, turn: u64) -> bool {
        let up_to = {
            let mut state = self.lock();
            if state.asks || !state.is_to_ask {
                return true;
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
            shared.work.notify_one();
        });
        if asked.is_err() {
            self.asked(turn, false);
        }
        asked.is_ok()
    }

    /// The sign has come, or does not come.
    fn asked(&self, turn: u64, is_handled: bool) {
        let mut state = self.lock();
        if state.turn == turn {
            state.asks = false;
            state.is_to_ask |= !is_handled;
        }
    }

    /// An answer has come, or does not come.
    fn answered(&self, turn: u64, number: u64, line: &Line, outgoing: &Outgoing, answer: Result<Message, CallError>) {
        match answer {
            Ok(message) => self.heard(turn, number, line, outgoing, &message),
            // Of one that is late a sign may still tell; what was lost is published again over the next connection.
            Err(_) if knows_quiet(line) => self.asked_late(turn),
            Err(_) => {}
        }
        // There is a place for one more.
        self.work.notify_one();
    }

    fn asked_late(&self, turn: u64) {
        let mut state = self.lock();
        state.is_to_ask |= state.turn == turn;
    }

    fn heard(&self, turn: u64, number: u64, line: &Line, outgoing: &Outgoing, message: &Message) {
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
            let now = Instant::now();
            state.queue.confirm(number, now);
            state.waits_since = (!state.queue.is_settled()).then_some(now);
            state.queue.confirmed_up_to()
        };
        self.confirmed(confirmed);
    }
}

/// Whether what is published needs no answer of its own to be known to have been handled.
fn knows_quiet(line: &Line) -> bool {
    line.knows_one_way() && line.session().is_some_and(|session| session.features.has(Feature::Ping))
}

/// A center that was silent is turned to last for so long: longer than it takes to find a connection dead.
const SHUNNED: Duration = Duration::from_secs(30);
/// After so long places for requests are looked for again.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// So many messages are sent before others have their turn.
const AT_ONCE: usize = 64;
/// Above so much that waits for company it leaves.
const GATHER_BYTES: usize = 64 << 10;
