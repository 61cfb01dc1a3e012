//! How long a provider waits for its first attempt while many name hosts that do not answer.

use super::*;

/// Tries hosts as the keeper does. Only the newcomer's answers.
struct Trying {
    house: House,
    under_way: BTreeMap<(Instant, u16), Attempt<u32>>,
    /// Connections whose first attempt has not begun.
    waiting: BTreeSet<u32>,
    arrivals: BTreeSet<(Instant, u32)>,
}

const NEWCOMER: u32 = 0;

fn port_of(peer: u32) -> u16 {
    1 + u16::try_from(peer).unwrap()
}

impl Trying {
    fn new(max_probes: usize) -> Self {
        let house = House::new(AvailabilityPolicy { max_probes, ..AvailabilityPolicy::default() });
        Self { house, under_way: BTreeMap::new(), waiting: BTreeSet::new(), arrivals: BTreeSet::new() }
    }

    fn begin(&mut self) {
        while let Some(attempt) = self.house.availability.next_attempt() {
            self.waiting.retain(|peer| !attempt.peers.contains(peer));
            let ends = self.house.now + self.house.availability.policy().limit(attempt.patience);
            self.under_way.insert((ends, attempt.host.port()), attempt);
        }
    }

    /// What comes first: somebody registers, or an attempt ends. One whose host did not answer asks again at once.
    fn step(&mut self) {
        let ends = self.under_way.keys().next().map(|(at, _)| *at);
        if let Some((at, peer)) = self.arrivals.first().copied().filter(|(at, _)| ends.is_none_or(|ends| *at <= ends)) {
            self.arrivals.pop_first();
            self.house.now = at;
            self.waiting.insert(peer);
            self.house.take(&Register(peer, "a", "add", port_of(peer)));
        } else if let Some(((at, _), attempt)) = self.under_way.pop_first() {
            self.house.now = at;
            self.house.availability.tried(&attempt, &Err(unreached(false)), at, &mut self.house.told);
            if attempt.patience == Patience::Full {
                self.arrivals.extend(attempt.peers.iter().map(|peer| (at, *peer)));
            }
        }
        self.begin();
    }

    /// How many were to be tried before the newcomer, and how long it has waited to be.
    fn newcomer(&mut self, comes: Instant) -> (usize, Duration) {
        while self.arrivals.first().is_some_and(|(at, _)| *at < comes)
            || self.under_way.keys().next().is_some_and(|(at, _)| *at < comes)
        {
            self.step();
        }
        let before = self.waiting.len();
        self.arrivals.retain(|(at, _)| *at > comes);
        self.arrivals.insert((comes, NEWCOMER));
        self.step();
        while self.waiting.contains(&NEWCOMER) {
            self.step();
        }
        (before, self.house.now - comes)
    }
}

proptest! {
    #[test]
    fn a_first_attempt_waits_for_a_tenth_of_the_time_for_each_round_of_others(
        silent in prop::collection::vec(0_u64..3_000, 0..300), comes in 0_u64..10_000, max_probes in 1_usize..20,
    ) {
        let mut trying = Trying::new(max_probes);
        let start = trying.house.now;
        trying.arrivals = (1_u32..).zip(silent).map(|(peer, at)| (start + Duration::from_millis(at), peer)).collect();
        let (before, waited) = trying.newcomer(start + Duration::from_millis(comes));
        let rounds = u32::try_from(before / max_probes).unwrap() + 1;
        prop_assert!(waited <= Duration::from_millis(100) * rounds, "{waited:?} behind {before} of {max_probes} at once");
    }
}

#[test]
fn who_names_hosts_that_do_not_answer_again_and_again_holds_up_others_hardly_at_all() {
    let mut trying = Trying::new(64);
    let start = trying.house.now;
    trying.arrivals = (1..=900).map(|peer| (start, peer)).collect();
    let (before, waited) = trying.newcomer(start + Duration::from_mins(1));
    assert!(before == 0 && waited.is_zero(), "{waited:?} behind {before}");
}

#[test]
fn one_that_does_not_answer_soon_is_tried_again_with_the_rest_of_the_time_and_then_refused() {
    let mut house = House::new(AvailabilityPolicy::default());
    let end = |house: &mut House, attempt: &Attempt<u32>, outcome| {
        house.availability.tried(attempt, &outcome, house.now, &mut house.told);
    };
    for step in [Discover(9, "add"), Register(1, "a", "add", 1), Register(2, "b", "add", 2)] {
        house.take(&step);
    }
    let first: Vec<_> = std::iter::from_fn(|| house.availability.next_attempt()).collect();
    assert!(first.len() == 2 && first.iter().all(|attempt| attempt.patience == Patience::Little));
    for attempt in &first {
        end(&mut house, attempt, Err(unreached(false)));
    }
    assert!(house.told.lines.is_empty(), "nothing is decided: {:?}", house.told.lines);
    let second: Vec<_> = std::iter::from_fn(|| house.availability.next_attempt()).collect();
    assert!(second.len() == 2 && second.iter().all(|attempt| attempt.patience == Patience::Full));
    end(&mut house, &second[0], Ok(()));
    end(&mut house, &second[1], Err(unreached(false)));
    assert_eq!(house.told.lines, ["9: +add 1", "1 add 1: ok", "2 add 2: no answer in time"]);
    let expected = RegistryMetrics { reached: 1, unreached: 1, late: 2, ..Default::default() };
    assert_eq!(house.availability.metrics(), expected);
    let policy = *house.availability.policy();
    assert_eq!(policy.limit(Patience::Little) + policy.limit(Patience::Full), policy.probe_timeout);
}

#[test]
fn who_has_gone_is_not_tried_again_and_whose_grace_runs_is() {
    let mut house = House::new(AvailabilityPolicy::default());
    for step in [Register(1, "a", "add", 1), Register(2, "b", "add", 2), Reached(2, 2)] {
        house.take(&step);
    }
    let gone = house.availability.next_attempt().unwrap();
    house.take(&End(1));
    house.availability.tried(&gone, &Err(unreached(false)), house.now, &mut house.told);
    house.take(&End(2));
    let departed = std::iter::from_fn(|| house.availability.next_attempt()).collect::<Vec<_>>();
    let patience = departed.iter().map(|attempt| (attempt.peers.clone(), attempt.patience)).collect::<Vec<_>>();
    assert_eq!(patience, [(vec![2], Patience::Full)]);
}

#[test]
fn what_is_withdrawn_while_it_waits_takes_no_room() {
    let mut house = House::new(AvailabilityPolicy::default());
    for port in 1..10_000 {
        house.take(&Register(1, "a", "add", port));
        house.take(&Withdraw(1, "add"));
    }
    assert_eq!(house.attempts(), []);
    house.take(&Register(1, "a", "add", 1));
    assert_eq!(house.attempts(), [(vec![1], 1)]);
}

#[test]
fn who_registers_again_is_not_judged_by_an_attempt_of_before() {
    let mut house = House::new(AvailabilityPolicy::default());
    house.take(&Register(1, "a", "add", 1));
    let before = house.availability.next_attempt().unwrap();
    house.take(&Withdraw(1, "add"));
    house.take(&Register(1, "a", "add", 1));
    house.availability.tried(&before, &Err(unreached(true)), house.now, &mut house.told);
    assert_eq!(house.told.lines, ["1 add 1: withdrawn"]);
    let after = house.availability.next_attempt().unwrap();
    house.availability.tried(&after, &Ok(()), house.now, &mut house.told);
    assert_eq!(house.told.lines, ["1 add 1: withdrawn", "1 add 1: ok"]);
}
