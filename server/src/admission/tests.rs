use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

/// What there is before calls come.
#[derive(Default)]
struct Plan {
    gates: Gates,
    rooms: Vec<Room>,
}

impl Plan {
    fn gate(&mut self, passes: Passes, limit: usize) -> usize {
        self.gates.add(passes, Concurrency::Fixed(limit))
    }

    fn method(&mut self, concurrency: Concurrency, shared: &[usize], room: Room) -> usize {
        let own = self.gates.add(Passes::Method, concurrency);
        self.rooms.push(room);
        self.gates.add_method([own].into_iter().chain(shared.iter().copied()).collect())
    }

    fn admission(self, room: Room) -> Admission<u64> {
        Admission::new(Arc::new(self.gates), room, self.rooms)
    }
}

fn admission(total: usize, methods: &[(Concurrency, usize)]) -> Admission<u64> {
    let mut plan = Plan::default();
    let all = plan.gate(Passes::All, total);
    for (concurrency, max_waiting) in methods {
        plan.method(*concurrency, &[all], calls(*max_waiting));
    }
    plan.admission(calls(1_000))
}

fn calls(calls: usize) -> Room {
    Room { calls, bytes: usize::MAX }
}

const ONE: CallerId = CallerId::direct(1);
const TWO: CallerId = CallerId::direct(2);

/// Calls of a method with these numbers, all of one caller.
fn come(admission: &mut Admission<u64>, method: usize, who: impl IntoIterator<Item = u64>) -> Vec<Entered> {
    who.into_iter().map(|who| come_of(admission, ONE, method, 1, who).0).collect()
}

/// One call, and who gives way to it.
fn come_of(
    admission: &mut Admission<u64>,
    caller: CallerId,
    method: usize,
    bytes: usize,
    who: u64,
) -> (Entered, Vec<(u64, Full)>) {
    let mut gone = Vec::new();
    (admission.enter(Arrival { method, caller, bytes }, || who, &mut gone), gone)
}

#[test]
fn past_its_limit_a_method_s_calls_wait_in_order_and_past_its_queue_they_are_refused() {
    use Entered::{Refused, Runs, Waits};
    let mut admission = admission(100, &[(Concurrency::Fixed(2), 2)]);
    let full = Full::Method { running: 2, waiting: 2 };
    assert_eq!(come(&mut admission, 0, 1..=5), [Runs, Runs, Waits(1), Waits(2), Refused(full)]);
    assert_eq!(admission.load(0), (2, 2));
    assert_eq!(admission.leave(0, None), [(0, 3)]);
    assert_eq!(come(&mut admission, 0, [6]), [Waits(3)]);
    assert_eq!(admission.leave(0, None), [(0, 4)]);
    assert_eq!(admission.leave(0, None), [(0, 6)]);
    assert_eq!((admission.leave(0, None), admission.leave(0, None)), (vec![], vec![]));
    assert_eq!(admission.load(0), (0, 0));
}

#[test]
fn one_slow_method_does_not_take_the_places_of_others() {
    let mut admission = admission(10, &[(Concurrency::Fixed(4), 100), (Concurrency::Fixed(4), 100)]);
    come(&mut admission, 0, 0..50);
    assert_eq!(come(&mut admission, 1, 50..54), [Entered::Runs; 4]);
}

#[test]
fn where_all_wait_for_the_same_places_methods_take_turns() {
    let limits = [(Concurrency::Unlimited, 100), (Concurrency::Unlimited, 100)];
    let mut admission = admission(1, &limits);
    come(&mut admission, 0, 0..4);
    come(&mut admission, 1, 10..13);
    let mut runs = 0;
    for next in [1, 10, 2, 11, 3, 12] {
        let let_in = admission.leave(runs, None);
        runs = usize::from(next >= 10);
        assert_eq!(let_in, [(runs, next)]);
    }
}

#[test]
fn who_waits_for_a_thread_keeps_its_turn_while_others_come_and_go() {
    let mut plan = Plan::default();
    let threads = plan.gate(Passes::Blocking, 1);
    for (concurrency, shared) in [(9, &[threads][..]), (1, &[]), (9, &[threads])] {
        plan.method(Concurrency::Fixed(concurrency), shared, calls(100));
    }
    let mut admission = plan.admission(calls(1_000));
    for method in 0..3 {
        come(&mut admission, method, (0..10).map(|n| 100 * method as u64 + n));
    }
    // Between two turns at the thread, the other method has one of its own.
    let mut on_thread = 0;
    for next in [0, 2, 0, 2, 0, 2] {
        assert!(matches!(admission.leave(1, None)[..], [(1, _)]));
        assert!(matches!(admission.leave(on_thread, None)[..], [(method, _)] if method == next));
        on_thread = next;
    }
}

#[test]
fn who_gives_up_is_not_let_in_and_its_place_in_the_queue_is_free() {
    let mut admission = admission(100, &[(Concurrency::Fixed(1), 2)]);
    assert_eq!(come(&mut admission, 0, 1..=3), [Entered::Runs, Entered::Waits(1), Entered::Waits(2)]);
    assert_eq!(admission.give_up(0, ONE, 1), Some(2));
    assert_eq!(admission.give_up(0, ONE, 1), None, "twice is once");
    assert_eq!(come(&mut admission, 0, [4]), [Entered::Waits(3)]);
    assert_eq!(admission.leave(0, None), [(0, 3)]);
    assert_eq!(admission.give_up(0, ONE, 2), None, "it runs");
    assert_eq!(admission.give_up(0, ONE, 3), Some(4));
    assert!(admission.leave(0, None).is_empty());
}

#[test]
fn all_who_wait_are_bounded_too() {
    let mut plan = Plan::default();
    let methods: Vec<_> = (0..2).map(|_| plan.method(Concurrency::Fixed(1), &[], calls(2))).collect();
    let mut admission = plan.admission(calls(3));
    for method in &methods {
        come(&mut admission, *method, 0..2);
    }
    assert_eq!(come(&mut admission, methods[0], [9]), [Entered::Waits(3)]);
    assert_eq!(come(&mut admission, methods[1], [9]), [Entered::Refused(Full::Total { waiting: 3 })]);
}

#[test]
fn what_waits_is_bounded_in_bytes_of_each_method_and_in_all() {
    use Entered::{Refused, Runs, Waits};
    let (mut plan, own) = (Plan::default(), Room { calls: 100, bytes: 60 });
    let methods: Vec<_> = (0..2).map(|_| plan.method(Concurrency::Fixed(1), &[], own)).collect();
    let mut admission = plan.admission(Room { calls: 100, bytes: 100 });
    let mut come = |method: usize, bytes| come_of(&mut admission, ONE, methods[method], bytes, 0).0;
    assert_eq!([come(0, 1_000), come(1, 1_000)], [Runs, Runs], "what runs takes nothing of it");
    assert_eq!([come(0, 50), come(0, 11), come(0, 10)], [Waits(1), Refused(Full::MethodBytes { bound: 60 }), Waits(2)]);
    assert_eq!([come(1, 41), come(1, 40)], [Refused(Full::Bytes { bound: 100 }), Waits(3)]);
    assert_eq!(admission.leave(methods[0], None).len(), 1);
    assert_eq!(admission.give_up(methods[1], ONE, 3), Some(0));
    let mut come = |method: usize, bytes| come_of(&mut admission, ONE, methods[method], bytes, 0).0;
    assert_eq!([come(0, 50), come(1, 40)], [Waits(4), Waits(5)], "who has gone leaves room");
}

#[test]
fn where_none_may_wait_the_gate_is_named_that_has_no_room() {
    for (own, threads, all, passes) in [(1, 9, 9, Passes::Method), (9, 1, 9, Passes::Blocking), (9, 9, 1, Passes::All)]
    {
        for (of_method, of_all) in [(0, 10), (10, 0)] {
            let mut plan = Plan::default();
            let (threads, all) = (plan.gate(Passes::Blocking, threads), plan.gate(Passes::All, all));
            plan.method(Concurrency::Fixed(own), &[threads, all], calls(of_method));
            let mut admission = plan.admission(calls(of_all));
            let full = Entered::Refused(Full::Gate(Closed { passes, running: 1 }));
            assert_eq!(come(&mut admission, 0, [1, 2]), [Entered::Runs, full]);
        }
    }
}

#[test]
fn callers_that_wait_for_one_method_take_turns() {
    let mut admission = admission(100, &[(Concurrency::Fixed(1), 100)]);
    for (caller, who) in [(ONE, 0..5), (TWO, 10..12), (CallerId::direct(3), 20..21)] {
        for who in who {
            come_of(&mut admission, caller, 0, 1, who);
        }
    }
    let turns: Vec<_> = (0..7).flat_map(|_| admission.leave(0, None)).map(|(_, who)| who).collect();
    assert_eq!(turns, [1, 10, 20, 2, 11, 3, 4]);
}

#[test]
fn past_the_bounds_who_waits_with_most_gives_way_to_one_that_would_wait_with_less() {
    use Entered::{Refused, Waits};
    let mut admission = admission(100, &[(Concurrency::Fixed(1), 4)]);
    come(&mut admission, 0, 0..5);
    let full = Full::Method { running: 1, waiting: 4 };
    let mut come = |caller, who| come_of(&mut admission, caller, 0, 1, who);
    assert_eq!(come(ONE, 5), (Refused(full), vec![]));
    assert_eq!(come(TWO, 10), (Waits(5), vec![(4, full)]));
    assert_eq!(come(TWO, 11), (Waits(6), vec![(3, full)]));
    assert_eq!(come(TWO, 12), (Refused(full), vec![]), "they are equal");
    assert_eq!(come(CallerId::direct(3), 20), (Waits(7), vec![(11, full)]));
    let turns: Vec<_> = (0..4).flat_map(|_| admission.leave(0, None)).map(|(_, who)| who).collect();
    assert_eq!(turns, [1, 10, 20, 2]);
}

#[test]
fn who_holds_most_bytes_or_places_of_all_methods_gives_way_where_it_was_last() {
    use Entered::{Refused, Waits};
    let (mut plan, own) = (Plan::default(), Room { calls: 100, bytes: 400_000 });
    for _ in 0..2 {
        plan.method(Concurrency::Fixed(1), &[], own);
    }
    let mut admission = plan.admission(Room { calls: 5, bytes: 500_000 });
    for method in 0..2 {
        come_of(&mut admission, ONE, method, 1, 0);
    }
    let mut come = |caller, method, bytes, who| come_of(&mut admission, caller, method, bytes, who);
    assert_eq!([come(ONE, 0, 300_000, 1), come(ONE, 1, 100_000, 2)], [(Waits(1), vec![]), (Waits(2), vec![])]);
    let (of_method, of_all) = (Full::MethodBytes { bound: 400_000 }, Full::Bytes { bound: 500_000 });
    assert_eq!(come(TWO, 0, 400_001, 10), (Refused(of_method), vec![]), "nobody gives way to what has no room at all");
    assert_eq!(come(TWO, 1, 150_000, 11), (Waits(3), vec![(2, of_all)]));
    assert_eq!(come(TWO, 0, 50_000, 12), (Waits(4), vec![]));
    assert_eq!(come(TWO, 0, 300_000, 13), (Refused(of_method), vec![]), "it would have more");
    assert_eq!(come(CallerId::direct(3), 0, 100_000, 20), (Waits(5), vec![(1, of_method)]));
    let total = Full::Total { waiting: 5 };
    assert_eq!([come(ONE, 0, 1, 3).0, come(ONE, 0, 1, 4).0], [Waits(6), Waits(7)]);
    assert_eq!(come(CallerId::direct(4), 1, 1, 30), (Waits(8), vec![(12, total)]));
}

/// Most calls are one caller's.
fn caller_of(who: u64) -> CallerId {
    if who.is_multiple_of(4) {
        ONE
    } else if who.is_multiple_of(7) {
        TWO
    } else {
        CallerId::direct(0)
    }
}

#[derive(Clone, Debug)]
enum Step {
    Come(usize),
    End(prop::sample::Index, u64),
    GiveUp(prop::sample::Index),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..3_usize).prop_map(Step::Come),
        3 => (any::<prop::sample::Index>(), 1..100_u64).prop_map(|(which, ms)| Step::End(which, ms)),
        1 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
    ]
}

proptest! {
    #[test]
    fn nobody_is_forgotten_and_no_limit_is_passed(steps in prop::collection::vec(step(), 1..200)) {
        let limits = [
            (Concurrency::Fixed(2), 3),
            (Concurrency::Unlimited, 5),
            (Concurrency::Adaptive { least: 1, most: 4, target: Duration::from_millis(50) }, 5),
        ];
        let mut plan = Plan::default();
        let (all, threads) = (plan.gate(Passes::All, 5), plan.gate(Passes::Blocking, 3));
        for ((concurrency, room), shared) in limits.iter().zip([&[all][..], &[all, threads], &[all, threads]]) {
            plan.method(*concurrency, shared, calls(*room));
        }
        let mut admission = plan.admission(calls(1_000));
        let mut running = Vec::<(usize, u64)>::new();
        let mut waiting = Vec::<(usize, u64, Place)>::new();
        for (n, step) in (0_u64..).zip(&steps) {
            let mut let_in = Vec::new();
            match step {
                Step::Come(method) => {
                    let (entered, gone) = come_of(&mut admission, caller_of(n), *method, 1, n);
                    let held = |of: u64, waiting: &[(usize, u64, Place)]| {
                        waiting.iter().filter(|waits| waits.0 == *method && caller_of(waits.1) == caller_of(of)).count()
                    };
                    for (who, _) in gone {
                        prop_assert!((0..30).all(|other| held(other, &waiting) <= held(who, &waiting)), "most gives way");
                        prop_assert!(held(who, &waiting) > held(n, &waiting) + 1);
                        let at = waiting.iter().rposition(|waits| {
                            waits.0 == *method && caller_of(waits.1) == caller_of(who)
                        });
                        prop_assert_eq!(waiting.remove(at.expect("it waits")).1, who, "it is the newest");
                    }
                    match entered {
                        Entered::Runs => running.push((*method, n)),
                        Entered::Waits(place) => waiting.push((*method, n, place)),
                        Entered::Refused(_) => {
                            let all = waiting.iter().filter(|waits| waits.0 == *method).count();
                            prop_assert_eq!(all, limits[*method].1);
                            prop_assert!((0..30).all(|other| held(other, &waiting) <= held(n, &waiting) + 1));
                        }
                    }
                }
                Step::End(which, ms) if !running.is_empty() => {
                    let (method, _) = running.swap_remove(which.index(running.len()));
                    let_in = admission.leave(method, Some(Took::Whole(Duration::from_millis(*ms))));
                }
                Step::GiveUp(which) if !waiting.is_empty() => {
                    let (method, who, place) = waiting.remove(which.index(waiting.len()));
                    prop_assert_eq!(admission.give_up(method, caller_of(who), place), Some(who));
                }
                _ => {}
            }
            for (of, who) in let_in {
                let at = waiting.iter().position(|waits| waits.1 == who).expect("it waits");
                let (method, ..) = waiting.remove(at);
                prop_assert_eq!(method, of);
                let is_before = |waits: &(usize, u64, Place)| {
                    waits.0 == method && caller_of(waits.1) == caller_of(who) && waits.1 < who
                };
                prop_assert!(!waiting.iter().any(is_before), "in order");
                running.push((method, who));
            }
            prop_assert!(running.iter().filter(|runs| runs.0 > 0).count() <= 3);
            prop_assert!(running.len() <= 5 && running.iter().filter(|runs| runs.0 == 0).count() <= 2);
            for method in 0..3 {
                let load = (
                    running.iter().filter(|runs| runs.0 == method).count(),
                    waiting.iter().filter(|waits| waits.0 == method).count(),
                );
                prop_assert_eq!(admission.load(method), load);
            }
            for (method, ..) in &waiting {
                prop_assert!(!admission.gates.has_room(*method), "somebody waits for nothing");
            }
        }
    }
}

/// Methods that share gates, and who runs and waits, by the rules alone.
#[derive(Clone, Debug)]
struct Model {
    /// Of all, of the threads, and each method's own; and whether it needs a thread.
    limits: (usize, usize, Vec<(usize, bool)>),
    running: Vec<usize>,
    /// Who waits, and since which step the method has had no turn.
    waiting: Vec<(Vec<u64>, u64)>,
    /// Since which step a caller has had no turn of a method.
    callers: BTreeMap<(usize, CallerId), u64>,
    step: u64,
}

impl Model {
    fn has_room(&self, method: usize) -> bool {
        let (all, threads, methods) = &self.limits;
        let on_threads: usize = self.running.iter().zip(methods).filter(|(_, of)| of.1).map(|(runs, _)| runs).sum();
        let (own, blocks) = methods[method];
        let running: usize = self.running.iter().sum();
        self.running[method] < own && running < *all && (!blocks || on_threads < *threads)
    }

    fn come(&mut self, method: usize, who: u64) -> bool {
        let runs = self.waiting[method].0.is_empty() && self.has_room(method);
        if runs {
            self.running[method] += 1;
        } else {
            self.wait(method, who);
        }
        runs
    }

    fn wait(&mut self, method: usize, who: u64) {
        self.step += 1;
        if self.waiting[method].0.is_empty() {
            self.waiting[method].1 = self.step;
        }
        if !self.waiting[method].0.iter().any(|waits| caller_of(*waits) == caller_of(who)) {
            self.callers.insert((method, caller_of(who)), self.step);
        }
        self.waiting[method].0.push(who);
    }

    /// Whose turn it is: the first call of the caller that has had none for longest.
    fn next(&self, method: usize) -> Option<u64> {
        self.waiting[method].0.iter().copied().min_by_key(|who| (self.callers[&(method, caller_of(*who))], *who))
    }

    /// This one is let in; whether nobody was passed over who had waited for longer and had room.
    fn let_in(&mut self, method: usize, who: u64) -> bool {
        let since = self.waiting[method].1;
        let waits = |other: &usize| !self.waiting[*other].0.is_empty() && self.waiting[*other].1 < since;
        let passed_over = (0..self.running.len()).filter(waits).any(|other| self.has_room(other));
        let is_next = self.has_room(method) && self.next(method) == Some(who);
        self.waiting[method].0.retain(|waits| *waits != who);
        self.running[method] += 1;
        self.step += 1;
        self.waiting[method].1 = self.step;
        self.callers.insert((method, caller_of(who)), self.step);
        is_next && !passed_over
    }
}

fn model() -> impl Strategy<Value = Model> {
    let methods = prop::collection::vec((1..4_usize, any::<bool>()), 4);
    (1..6_usize, 1..4_usize, methods).prop_map(|limits| Model {
        limits: (limits.0, limits.1, limits.2),
        running: vec![0; 4],
        waiting: vec![(Vec::new(), 0); 4],
        callers: BTreeMap::new(),
        step: 0,
    })
}

fn step_of_four() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4_usize).prop_map(Step::Come),
        3 => any::<prop::sample::Index>().prop_map(|which| Step::End(which, 1)),
        1 => any::<prop::sample::Index>().prop_map(Step::GiveUp),
    ]
}

proptest! {
    /// Whoever has waited for longest, and has room, is next: so, for each place that it could have had, a method is
    /// overtaken at most once by each of the others, and so is a caller within a method. And no place is free that somebody
    /// waits for.
    #[test]
    fn no_place_is_idle_that_somebody_waits_for_and_nobody_with_room_is_passed_over(
        mut model in model(),
        steps in prop::collection::vec(step_of_four(), 1..300),
    ) {
        let mut plan = Plan::default();
        let (all, threads) = (plan.gate(Passes::All, model.limits.0), plan.gate(Passes::Blocking, model.limits.1));
        for (own, blocks) in &model.limits.2 {
            let shared = if *blocks { &[all, threads][..] } else { &[all] };
            plan.method(Concurrency::Fixed(*own), shared, calls(1_000));
        }
        let mut admission = plan.admission(calls(1_000));
        let mut places = Vec::<(usize, u64, Place)>::new();
        for (who, step) in (0_u64..).zip(&steps) {
            let mut let_in = Vec::new();
            match step {
                Step::Come(method) => {
                    let (entered, _) = come_of(&mut admission, caller_of(who), *method, 1, who);
                    prop_assert_eq!(entered == Entered::Runs, model.come(*method, who), "{:?}", entered);
                    if let Entered::Waits(place) = entered {
                        places.push((*method, who, place));
                    }
                }
                Step::End(which, _) => {
                    let run: Vec<_> = (0..4).filter(|method| model.running[*method] > 0).collect();
                    if !run.is_empty() {
                        let method = *which.get(&run);
                        model.running[method] -= 1;
                        let_in = admission.leave(method, None);
                    }
                }
                Step::GiveUp(which) if !places.is_empty() => {
                    let (method, who, place) = places.remove(which.index(places.len()));
                    prop_assert_eq!(admission.give_up(method, caller_of(who), place), Some(who));
                    model.waiting[method].0.retain(|waits| *waits != who);
                }
                Step::GiveUp(_) => {}
            }
            for (method, who) in let_in {
                prop_assert!(model.let_in(method, who), "{} of {} is not next in {:?}", who, method, model);
                places.retain(|place| place.1 != who);
            }
            for (method, ..) in &places {
                prop_assert!(!model.has_room(*method), "{} waits for nothing in {:?}", method, model);
            }
            prop_assert_eq!(admission.gates.somebody_waits(), !places.is_empty());
        }
    }
}
