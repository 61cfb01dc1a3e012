//! The task that sends.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Line};
use callboard_common::{Decode, Executed, Feature, Json, Message, Ping, ResultCode, SendError, TopicAnswer};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, timeout};

use super::shunned::{SHUNNED, Shunned};
use super::signs::{Look, Signs};
use super::{Asks, Shared, bound_of};
use crate::hub::subject;
use crate::outgoing::Outgoing;
use crate::unconfirmed::Unconfirmed;

/// Whether a connection is still to be published over.
enum Served {
    Lost,
    /// Its center gives no sign of life, and another is there.
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
    let mut shunned = Shunned::default();
    while !shared.is_done() {
        let center = tokio::select! {
            biased;
            () = &mut given_up => break,
            center = shared.centers.wait_online() => center,
        };
        if center.is_err() {
            break;
        }
        // Between the two looks the last one may have gone.
        consume_budget().await;
        let Some((place, center)) = shunned.choose(&shared.centers) else { continue };
        // A request that is late would not confirm what it stands behind.
        let line = center.with_timeout(center.timeout().saturating_mul(LATE)).line();
        let turn = shared.begin(&line);
        let served = tokio::select! {
            biased;
            () = &mut given_up => Served::Over,
            () = shared.falls_silent(&line, &shunned, place) => Served::Silent,
            served = shared.serve(&line, turn) => served,
        };
        match served {
            Served::Over => break,
            Served::Lost => {}
            Served::Silent => {
                let center = line.address();
                tracing::warn!(%center, "it gives no sign of life; what is published goes to another center");
                shunned.add(place);
            }
        }
    }
    shared.progress.send_modify(|progress| progress.ended = true);
    // Who waits for an answer hears of the end when its message goes.
    let dropped = std::mem::replace(&mut shared.lock().queue, Unconfirmed::new()).waiting();
    if dropped > 0 {
        tracing::warn!(messages = dropped, "no center has confirmed what was published last; it may be lost");
    }
}

impl Shared {
    /// Another connection: what is not known to have been handled is to be sent over it.
    fn begin(&self, line: &Line) -> u64 {
        self.max_frame_bytes.store(bound_of(line), Relaxed);
        let mut state = self.lock();
        state.turn += 1;
        (state.asks, state.lives) = (Asks::default(), false);
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

    /// Waits until the center has given no sign of life for too long, while something waits to be confirmed, and another
    /// one is there. One that is held back by slow subscribers lives, however long it confirms nothing.
    async fn falls_silent(&self, line: &Line, shunned: &Shunned, place: usize) {
        let mut signs = Signs::new(Look::at(line));
        loop {
            while self.lock().queue.is_settled() {
                self.begins_to_wait.notified().await;
                signs = Signs::new(Look::at(line));
            }
            sleep(LOOKS_EVERY).await;
            if signs.look(Look::at(line)) {
                // Who waits for room goes on doing so.
                self.progress.send_modify(|_| {});
            }
            let is_silent = LOOKS_EVERY * signs.missing() >= self.patience();
            {
                let mut state = self.lock();
                state.lives = signs.missing() == 0 || (state.lives && !is_silent);
            }
            if is_silent && shunned.is_another(&self.centers, place) {
                return;
            }
        }
    }

    /// How long a center may give no sign of life, so that half of a request's time is left though all others but one give
    /// none either. Last words have less time.
    fn patience(&self) -> Duration {
        let others = u32::try_from(self.centers.len() - 1).unwrap_or(u32::MAX).max(1);
        let patience = (self.centers.timeout() / others.saturating_mul(2)).clamp(LEAST_PATIENCE, SHUNNED);
        if *self.dropped.borrow() { patience.min(LAST_PATIENCE) } else { patience }
    }

    /// Sends what is next, a part of it where there is much.
    fn send_some(self: &Arc<Self>, line: &Line, turn: u64) -> Sent {
        let next: Vec<_> = self.lock().queue.next(AT_ONCE).map(|(number, what)| (number, what.cloned())).collect();
        let quiet = knows_quiet(line);
        let (mut up_to, mut quiet_bytes, mut stopped) = (0, 0, None);
        for (number, outgoing) in &next {
            if let Some(outgoing) = outgoing {
                let is_quiet = quiet && !outgoing.is_awaited();
                let sent = if is_quiet {
                    self.publish_quietly(line, *number, outgoing)
                } else {
                    self.ask_to_publish(line, turn, *number, outgoing)
                };
                match sent {
                    Ok(()) if is_quiet => quiet_bytes += outgoing.frame_bytes(),
                    Ok(()) => {}
                    Err(sent) => {
                        stopped = Some(sent);
                        break;
                    }
                }
            }
            up_to = *number;
            if quiet_bytes >= ASK_BYTES {
                stopped = Some(Sent::Some);
                break;
            }
        }
        let mut state = self.lock();
        state.queue.sent(up_to);
        state.asks.sent(quiet_bytes);
        let waits = !state.queue.is_settled();
        drop(state);
        if waits {
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

    /// Asks for a sign that all has been handled, unless enough are on their way; false if there was no room for that.
    fn ask(self: &Arc<Self>, line: &Line, turn: u64) -> bool {
        let up_to = {
            let mut state = self.lock();
            if !state.asks.begin() {
                return true;
            }
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
            state.asks.end(is_handled);
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
        if state.turn == turn {
            state.asks.is_due = true;
        }
    }

    fn heard(&self, turn: u64, number: u64, line: &Line, outgoing: &Outgoing, message: &Message) {
        let subject = subject(outgoing.topic());
        let outcome = match TopicAnswer::decode::<Json>(message.body()) {
            // A center that is about to end; the next one is asked.
            Ok(TopicAnswer { code: ResultCode::Unavailable, .. }) => return,
            Ok(TopicAnswer { code: ResultCode::Ok, .. }) => Ok(()),
            Ok(TopicAnswer { code, error, .. }) => {
                return self.refused(turn, number, line, outgoing, line.refused(&subject, code, error));
            }
            Err(why) => Err(line.unreadable(&subject, why)),
        };
        outgoing.answer(outcome);
        self.confirm(turn, number, line);
    }

    /// The center does not publish it, and no other one is to do so when this was told.
    fn refused(&self, turn: u64, number: u64, line: &Line, outgoing: &Outgoing, why: CallError) {
        let is_in_doubt = {
            let mut state = self.lock();
            if state.turn != turn || !line.is_online() {
                return; // the next center is asked, or was already
            }
            state.queue.refuse(number, Instant::now())
        };
        outgoing.answer(Err(if is_in_doubt { why.with_executed(Executed::Unknown) } else { why }));
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
    }
}

/// Whether what is published needs no answer of its own to be known to have been handled.
fn knows_quiet(line: &Line) -> bool {
    line.knows_one_way() && line.session().is_some_and(|session| session.features.has(Feature::Ping))
}

/// While something waits to be confirmed, signs of life are looked for so often.
const LOOKS_EVERY: Duration = Duration::from_millis(125);
/// So long a center may give none, however short a time requests have.
const LEAST_PATIENCE: Duration = Duration::from_millis(500);
/// And no longer once nobody has the relay any more.
const LAST_PATIENCE: Duration = Duration::from_secs(1);
/// So many times as long as others a request of the relay may take.
const LATE: u32 = 4;
/// A sign that all was handled is asked for each time that so much was published, and when none is on its way.
pub(super) const ASK_BYTES: usize = 64 << 10;
/// After so long places for requests are looked for again.
const BUSY_PAUSE: Duration = Duration::from_millis(10);
/// So many messages are sent before others have their turn.
const AT_ONCE: usize = 64;
/// Above so much that waits for company it leaves.
const GATHER_BYTES: usize = 64 << 10;
