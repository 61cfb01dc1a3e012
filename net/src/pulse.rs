use callboard_common::Heartbeat;
use tokio::time::Instant;

use crate::later::later;

/// Whether a peer is alive, by what was heard of it. Pure: time comes in.
///
/// Whether something came is looked at now and then only, so that a busy connection reads no clock for it: while something
/// comes, each quarter of an interval. So a peer may be taken for dead later than it is, by that much. What comes while it
/// [`waits`](Self::waits) for something is to be told at once, by a new pulse.
#[derive(Debug)]
pub(crate) struct Pulse {
    /// By when something was heard last, or listening began.
    heard: Instant,
    /// How often it was asked since.
    asked: u32,
    looks_at: Instant,
    /// The peer is not read: it is only told that this side lives.
    deaf: bool,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beat {
    Nothing,
    Ask,
    Dead,
}

impl Pulse {
    /// Listening begins.
    pub(crate) fn new(heartbeat: Heartbeat, now: Instant) -> Self {
        Self { heard: now, asked: 0, looks_at: later(now, heartbeat.interval / LOOKS), deaf: false }
    }

    /// Whether the peer is read.
    pub(crate) const fn listens(&self) -> bool {
        !self.deaf
    }

    /// From now on the peer is read, or is not: its silence counts only while it is.
    pub(crate) fn set_listens(&mut self, listens: bool, heartbeat: Heartbeat, now: Instant) {
        *self = Self::new(heartbeat, now);
        if !listens {
            self.deaf = true;
            self.looks_at = later(now, heartbeat.interval);
        }
    }

    /// Whether nothing was heard at the last look.
    pub(crate) fn waits(&self, heartbeat: Heartbeat) -> bool {
        !self.deaf && self.looks_at > later(self.heard, heartbeat.interval / LOOKS)
    }

    /// When to look next.
    pub(crate) const fn looks_at(&self) -> Instant {
        self.looks_at
    }

    /// Looks, if it is time: whether something `came` since the last look, and what is to be done. To be asked counts as
    /// done.
    pub(crate) fn look(&mut self, heartbeat: Heartbeat, asks: bool, came: bool, now: Instant) -> Beat {
        if self.deaf {
            self.looks_at = later(now, heartbeat.interval);
            return Beat::Ask;
        }
        if came {
            *self = Self::new(heartbeat, now);
            return Beat::Nothing;
        }
        if now >= later(self.heard, heartbeat.dead) {
            let stood_still = now >= later(self.looks_at, heartbeat.interval);
            if !stood_still && (!asks || self.asked > 0) {
                return Beat::Dead;
            }
            // This side did: the peer gets the time to answer, or to ask.
            self.heard = now.checked_sub(heartbeat.interval).unwrap_or(now);
            self.asked = 0;
        }
        let dead_at = later(self.heard, heartbeat.dead);
        let is_due = asks && now >= self.asks_at(heartbeat);
        self.asked += u32::from(is_due);
        self.looks_at = if asks { self.asks_at(heartbeat).min(dead_at) } else { dead_at };
        if is_due { Beat::Ask } else { Beat::Nothing }
    }

    fn asks_at(&self, heartbeat: Heartbeat) -> Instant {
        later(self.heard, heartbeat.interval.saturating_mul(self.asked.saturating_add(1)))
    }
}

/// Looks in an interval in which something comes.
const LOOKS: u32 = 4;

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PROVIDER: Heartbeat = Heartbeat::from_ms(1000, 3000);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// What a peer of which something comes until `last` is asked and when it is dead, at the times of the looks.
    fn run(asks: bool, last: u64) -> Vec<(u64, Beat)> {
        let start = Instant::now();
        let mut pulse = Pulse::new(PROVIDER, start);
        let (mut told, mut looked_at) = (Vec::new(), 0);
        loop {
            let at = u64::try_from((pulse.looks_at() - start).as_millis()).unwrap();
            let beat = pulse.look(PROVIDER, asks, looked_at < last, start + ms(at));
            looked_at = at;
            if beat != Beat::Nothing {
                told.push((at, beat));
            }
            if beat == Beat::Dead {
                return told;
            }
        }
    }

    #[test]
    fn one_who_says_nothing_is_asked_each_interval_and_then_dead() {
        assert_eq!(run(true, 0), [(1000, Beat::Ask), (2000, Beat::Ask), (3000, Beat::Dead)]);
    }

    #[test]
    fn after_the_last_word_it_takes_a_quarter_of_an_interval_longer_at_most() {
        for last in [1, 100, 250, 251, 499, 5_100, 60_000] {
            let told = run(true, last);
            let seen = last.div_ceil(250) * 250;
            let beats = [(seen + 1000, Beat::Ask), (seen + 2000, Beat::Ask), (seen + 3000, Beat::Dead)];
            assert_eq!(told, beats, "{last}");
        }
    }

    #[test]
    fn who_stood_still_asks_before_it_takes_anybody_for_dead() {
        let start = Instant::now();
        let mut pulse = Pulse::new(PROVIDER, start);
        assert_eq!(pulse.look(PROVIDER, true, false, start + ms(60_000)), Beat::Ask);
        assert_eq!(pulse.look(PROVIDER, true, false, start + ms(61_000)), Beat::Ask);
        assert_eq!(pulse.look(PROVIDER, true, false, start + ms(62_000)), Beat::Dead);
    }

    #[test]
    fn who_stood_still_waits_before_it_takes_one_for_dead_who_asks_or_was_asked() {
        for asks in [true, false] {
            let start = Instant::now();
            let mut pulse = Pulse::new(PROVIDER, start);
            pulse.look(PROVIDER, asks, true, start);
            pulse.look(PROVIDER, asks, false, start + ms(1000));
            let late = start + ms(60_000);
            assert_ne!(pulse.look(PROVIDER, asks, false, late), Beat::Dead);
            let mut at = pulse.looks_at();
            while pulse.look(PROVIDER, asks, false, at) != Beat::Dead {
                at = pulse.looks_at();
            }
            assert_eq!(at, late + ms(2000));
        }
    }

    #[test]
    fn a_peer_that_is_not_read_is_told_each_interval_that_this_side_lives() {
        for asks in [true, false] {
            let start = Instant::now();
            let mut pulse = Pulse::new(PROVIDER, start);
            pulse.set_listens(false, PROVIDER, start);
            for at in 1..60 {
                assert_eq!(pulse.looks_at(), start + ms(at * 1000));
                assert_eq!(pulse.look(PROVIDER, asks, false, start + ms(at * 1000)), Beat::Ask);
            }
            pulse.set_listens(true, PROVIDER, start + ms(60_000));
            assert_eq!(pulse.look(PROVIDER, asks, false, start + ms(60_250)), Beat::Nothing);
        }
    }

    #[test]
    fn the_side_that_is_asked_only_listens() {
        assert_eq!(run(false, 100), [(3250, Beat::Dead)]);
    }
}
