use std::time::Duration;

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
    /// When the first time was.
    asked_at: Option<Instant>,
    /// When this side last said something, as far as is known.
    said: Instant,
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
        let looks_at = later(now, heartbeat.interval / LOOKS);
        Self { heard: now, asked: 0, asked_at: None, said: now, looks_at, deaf: false }
    }

    /// Something came. That is no reason for the peer to have heard of this side.
    pub(crate) fn hear(&mut self, heartbeat: Heartbeat, now: Instant) {
        *self = Self { said: self.said, ..Self::new(heartbeat, now) };
    }

    /// Whether the peer is read.
    pub(crate) const fn listens(&self) -> bool {
        !self.deaf
    }

    /// From now on the peer is read, or is not: its silence counts only while it is. The side that `asks` soon tells a peer
    /// that is not read that it lives.
    pub(crate) fn set_listens(&mut self, listens: bool, heartbeat: Heartbeat, asks: bool, now: Instant) {
        self.hear(heartbeat, now);
        if !listens {
            self.deaf = true;
            self.looks_at = if asks { self.speaks_at(heartbeat) } else { later(now, heartbeat.interval) };
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

    /// By when a peer would be taken for dead that was asked, has had the time to answer, and gave no sign of life; `None`
    /// for any other. `came` is as in [`look`](Self::look).
    ///
    /// A connection that ends may so be known for one that was lost before: where only this side's packets are dropped, it
    /// is the peer that hears nothing, and gives up first.
    pub(crate) fn silent_until(&self, heartbeat: Heartbeat, came: bool, now: Instant) -> Option<Instant> {
        let asked_at = self.asked_at.filter(|_| !came && !self.deaf)?;
        // One that is asked as it ends owes nothing. The second bound is for limits that are short of two intervals.
        let answer_time = heartbeat.interval.min(heartbeat.dead.saturating_sub(heartbeat.interval) / 2);
        (now >= later(asked_at, answer_time)).then(|| later(self.heard, heartbeat.dead))
    }

    /// Looks, if it is time: whether something `came` since the last look, when something was `said` last, and what is to
    /// be done. To be asked counts as done.
    ///
    /// The side that `asks` does so too when it has said nothing for an interval, whatever it heard: the peer only listens,
    /// and would hear nothing while it sends one-way calls.
    pub(crate) fn look(&mut self, heartbeat: Heartbeat, asks: bool, came: bool, said: Instant, now: Instant) -> Beat {
        self.said = self.said.max(said);
        let mut beat = self.listen(heartbeat, asks, came, now);
        if asks && beat == Beat::Nothing && now >= self.speaks_at(heartbeat) {
            self.asked += 1;
            beat = Beat::Ask;
        }
        if beat == Beat::Ask {
            self.said = now;
            self.asked_at.get_or_insert(now);
        }
        if asks {
            self.looks_at = self.looks_at.min(self.speaks_at(heartbeat));
        }
        beat
    }

    fn listen(&mut self, heartbeat: Heartbeat, asks: bool, came: bool, now: Instant) -> Beat {
        if self.deaf {
            self.looks_at = later(now, heartbeat.interval);
            return if asks { Beat::Nothing } else { Beat::Ask };
        }
        if came {
            self.hear(heartbeat, now);
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
            self.asked_at = None;
        }
        let dead_at = later(self.heard, heartbeat.dead);
        let is_due = asks && now >= self.asks_at(heartbeat);
        self.asked += u32::from(is_due);
        self.looks_at = if asks { self.asks_at(heartbeat).min(dead_at) } else { dead_at };
        if is_due { Beat::Ask } else { Beat::Nothing }
    }

    fn speaks_at(&self, heartbeat: Heartbeat) -> Instant {
        let interval = if self.deaf { heartbeat.interval.min(TELLS_EVERY) } else { heartbeat.interval };
        later(self.said, interval)
    }

    fn asks_at(&self, heartbeat: Heartbeat) -> Instant {
        later(self.heard, heartbeat.interval.saturating_mul(self.asked.saturating_add(1)))
    }
}

/// So often the side that asks tells a peer that it does not read, and that may wait for an answer, that it lives.
const TELLS_EVERY: Duration = Duration::from_millis(250);
/// Looks in an interval in which something comes.
const LOOKS: u32 = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const PROVIDER: Heartbeat = Heartbeat::from_ms(1000, 3000);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    /// A look of a side that has just said something.
    fn look(pulse: &mut Pulse, asks: bool, came: bool, now: Instant) -> Beat {
        pulse.look(PROVIDER, asks, came, now, now)
    }

    /// What a peer of which something comes until `last` is asked and when it is dead, at the times of the looks.
    fn run(asks: bool, last: u64) -> Vec<(u64, Beat)> {
        let start = Instant::now();
        let mut pulse = Pulse::new(PROVIDER, start);
        let (mut told, mut looked_at) = (Vec::new(), 0);
        loop {
            let at = u64::try_from((pulse.looks_at() - start).as_millis()).unwrap();
            let beat = look(&mut pulse, asks, looked_at < last, start + ms(at));
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
        assert_eq!(look(&mut pulse, true, false, start + ms(60_000)), Beat::Ask);
        assert_eq!(look(&mut pulse, true, false, start + ms(61_000)), Beat::Ask);
        assert_eq!(look(&mut pulse, true, false, start + ms(62_000)), Beat::Dead);
    }

    #[test]
    fn who_stood_still_waits_before_it_takes_one_for_dead_who_asks_or_was_asked() {
        for asks in [true, false] {
            let start = Instant::now();
            let mut pulse = Pulse::new(PROVIDER, start);
            look(&mut pulse, asks, true, start);
            look(&mut pulse, asks, false, start + ms(1000));
            let late = start + ms(60_000);
            assert_ne!(look(&mut pulse, asks, false, late), Beat::Dead);
            let mut at = pulse.looks_at();
            while look(&mut pulse, asks, false, at) != Beat::Dead {
                at = pulse.looks_at();
            }
            assert_eq!(at, late + ms(2000));
        }
    }

    #[test]
    fn a_peer_that_is_not_read_is_told_that_this_side_lives_and_soon_by_the_side_that_asks() {
        for (asks, every) in [(true, 250), (false, 1000)] {
            let start = Instant::now();
            let mut pulse = Pulse::new(PROVIDER, start);
            pulse.set_listens(false, PROVIDER, asks, start);
            for at in 1..240 {
                assert_eq!(pulse.looks_at(), start + ms(at * every));
                assert_eq!(pulse.look(PROVIDER, asks, false, start, start + ms(at * every)), Beat::Ask);
            }
            pulse.set_listens(true, PROVIDER, asks, start + ms(240 * every));
            assert_eq!(look(&mut pulse, asks, false, start + ms(240 * every + 250)), Beat::Nothing);
        }
    }

    #[test]
    fn a_peer_that_is_not_read_is_told_so_too_if_it_is_read_for_a_moment_now_and_then() {
        let start = Instant::now();
        let (mut pulse, mut asked) = (Pulse::new(PROVIDER, start), Vec::new());
        for at in (0..1200).step_by(100) {
            pulse.set_listens(false, PROVIDER, true, start + ms(at));
            let is_due = pulse.looks_at() <= start + ms(at);
            if is_due && pulse.look(PROVIDER, true, false, start, start + ms(at)) == Beat::Ask {
                asked.push(at);
            }
            pulse.set_listens(true, PROVIDER, true, start + ms(at + 90));
        }
        assert_eq!(asked, [300, 600, 900]);
    }

    /// When a peer is asked of which something comes all the time, or nothing, while something else is said to it at these
    /// times.
    fn asked(comes: bool, says: &[u64], until: u64) -> Vec<u64> {
        let start = Instant::now();
        let (mut pulse, mut asked) = (Pulse::new(PROVIDER, start), Vec::new());
        loop {
            let at = u64::try_from((pulse.looks_at() - start).as_millis()).unwrap();
            if at > until {
                return asked;
            }
            let said = says.iter().chain(&asked).filter(|time| **time <= at).max().unwrap_or(&0);
            if pulse.look(PROVIDER, true, comes, start + ms(*said), start + ms(at)) == Beat::Ask {
                asked.push(at);
            }
        }
    }

    #[test]
    fn who_only_sends_hears_once_an_interval_that_this_side_lives() {
        assert_eq!(asked(true, &[], 5_000), [1000, 2000, 3000, 4000, 5000]);
        assert_eq!(asked(true, &[300, 1_100, 2_000], 5_500), [3000, 4000, 5000]);
        let often: Vec<_> = (0..50).map(|n| n * 990).collect();
        assert!(asked(true, &often, 49_000).is_empty());
    }

    #[test]
    fn who_answers_is_asked_once_an_interval_and_no_more() {
        let start = Instant::now();
        let (mut pulse, mut asked, mut heard) = (Pulse::new(PROVIDER, start), 0, false);
        while pulse.looks_at() <= start + ms(60_000) {
            let at = pulse.looks_at();
            let came = std::mem::replace(&mut heard, false);
            if pulse.look(PROVIDER, true, came, start, at) == Beat::Ask {
                asked += 1;
                // The answer comes between two looks.
                pulse.hear(PROVIDER, at + ms(1));
                heard = asked % 2 == 0;
            }
        }
        assert_eq!(asked, 60);
    }

    /// By when a peer is dead that was heard of last at the beginning, if its connection ends after so many milliseconds.
    fn silent_until(heartbeat: Heartbeat, ends: u64) -> Option<u64> {
        let start = Instant::now();
        let mut pulse = Pulse::new(heartbeat, start);
        while pulse.looks_at() <= start + ms(ends) {
            let at = pulse.looks_at();
            if pulse.look(heartbeat, true, false, start, at) == Beat::Dead {
                break;
            }
        }
        let until = pulse.silent_until(heartbeat, false, start + ms(ends))?;
        Some(u64::try_from((until - start).as_millis()).unwrap())
    }

    #[test]
    fn who_was_asked_and_gave_no_sign_has_what_is_left_of_its_time() {
        let rows = [
            ("not asked yet", 999, None),
            ("asked just now", 1_000, None),
            ("as long as an answer may take", 1_999, None),
            ("longer", 2_000, Some(3_000)),
            ("as long as the peer waits for us", 2_999, Some(3_000)),
            ("dead", 3_001, Some(3_000)),
        ];
        for (name, ends, until) in rows {
            assert_eq!(silent_until(PROVIDER, ends), until, "{name}");
        }
        let eager = Heartbeat::from_ms(100, 400);
        assert_eq!([199, 200, 399].map(|ends| silent_until(eager, ends)), [None, Some(400), Some(400)]);
        // Where the limit is short of two intervals, it is dead soon after it was asked.
        let short = Heartbeat::from_ms(1_000, 1_500);
        assert_eq!([1_249, 1_250, 1_499].map(|ends| silent_until(short, ends)), [None, Some(1_500), Some(1_500)]);
    }

    #[test]
    fn a_sign_of_life_counts_though_nobody_has_looked_yet() {
        let start = Instant::now();
        let mut pulse = Pulse::new(PROVIDER, start);
        assert_eq!(look(&mut pulse, true, false, start + ms(1_000)), Beat::Ask);
        let end = start + ms(2_900);
        assert!(pulse.silent_until(PROVIDER, false, end).is_some());
        assert_eq!(
            pulse.silent_until(PROVIDER, true, end),
            None,
            "this side stood still, and reads answer and end at once"
        );
        pulse.hear(PROVIDER, start + ms(1_100));
        assert_eq!(pulse.silent_until(PROVIDER, false, end), None, "it was not asked since");
    }

    #[test]
    fn who_is_not_read_or_was_asked_late_owes_nothing() {
        let start = Instant::now();
        let mut pulse = Pulse::new(PROVIDER, start);
        assert_eq!(look(&mut pulse, true, false, start + ms(60_000)), Beat::Ask, "this side stood still");
        assert_eq!(pulse.silent_until(PROVIDER, false, start + ms(60_900)), None);
        assert!(pulse.silent_until(PROVIDER, false, start + ms(61_000)).is_some());
        pulse.set_listens(false, PROVIDER, true, start + ms(61_000));
        for second in 62..70 {
            assert_eq!(pulse.look(PROVIDER, true, false, start, start + ms(second * 1_000)), Beat::Ask);
            assert_eq!(pulse.silent_until(PROVIDER, false, start + ms(second * 1_000 + 999)), None);
        }
    }

    /// What is owed by a peer that says something at these times, and gives up and ends the connection when it has heard
    /// nothing for as long as this side waits for it.
    fn owed_by_one_that_gives_up(heartbeat: Heartbeat, says: &[Instant], ends: Instant, start: Instant) -> Instant {
        let (mut pulse, mut says, mut came) = (Pulse::new(heartbeat, start), says.iter().copied().peekable(), false);
        loop {
            let at = says.peek().copied().unwrap_or(ends).min(pulse.looks_at());
            if says.next_if_eq(&at).is_some() {
                if pulse.waits(heartbeat) {
                    pulse.hear(heartbeat, at);
                } else {
                    came = true;
                }
            } else if at == ends {
                return pulse.silent_until(heartbeat, came, ends).expect("it was asked for long enough");
            } else {
                assert_ne!(pulse.look(heartbeat, true, std::mem::take(&mut came), start, at), Beat::Dead);
            }
        }
    }

    #[test]
    fn one_that_gives_up_first_is_dead_when_it_would_have_been_and_at_most_a_quarter_of_an_interval_later() {
        for heartbeat in [PROVIDER, Heartbeat::from_ms(100, 400), Heartbeat::from_ms(1_000, 2_000)] {
            let (interval, start) = (u64::try_from(heartbeat.interval.as_millis()).unwrap(), Instant::now());
            for first in 0..40 {
                for second in 0..40 {
                    // The last word is its answer to what it has heard last.
                    let says = [first, first + second].map(|part| start + ms(interval * part / 20 + 1));
                    let until = owed_by_one_that_gives_up(heartbeat, &says, says[1] + heartbeat.dead - ms(1), start);
                    let dead = says[1] + heartbeat.dead;
                    assert!(
                        until >= dead && until <= dead + heartbeat.interval / LOOKS,
                        "{heartbeat:?} {first} {second}"
                    );
                }
            }
        }
    }

    #[test]
    fn the_side_that_is_asked_only_listens() {
        assert_eq!(run(false, 100), [(3250, Beat::Dead)]);
    }
}
