use std::time::Duration;

use proptest::prelude::*;

use super::*;

fn admission(total: usize, methods: &[(Concurrency, usize)]) -> Admission<u64> {
    let mut admission = Admission::new(calls(1_000));
    let all = admission.add_gate(Passes::All, Concurrency::Fixed(total));
    for (concurrency, max_waiting) in methods {
        admission.add_method(*concurrency, &[all], calls(*max_waiting));
    }
    admission
}

fn calls(calls: usize) -> Room {
    Room { calls, bytes: usize::MAX }
}

/// Calls of method 0 with these numbers.
fn come(admission: &mut Admission<u64>, method: usize, who: impl IntoIterator<Item = u64>) -> Vec<Entered> {
    who.into_iter().map(|who| admission.enter(method, 1, || who)).collect()
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
    let order: Vec<_> = (0..6).flat_map(|_| admission.leave(0, None)).map(|(_, who)| who).collect();
    assert_eq!(order, [1, 10, 2, 11, 3, 12]);
}

#[test]
fn who_waits_for_a_thread_keeps_its_turn_while_others_come_and_go() {
    let mut admission = Admission::new(calls(1_000));
    let threads = admission.add_gate(Passes::Blocking, Concurrency::Fixed(1));
    for (concurrency, shared) in [(9, &[threads][..]), (1, &[]), (9, &[threads])] {
        admission.add_method(Concurrency::Fixed(concurrency), shared, calls(100));
    }
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
    assert_eq!(admission.give_up(0, 1), Some(2));
    assert_eq!(admission.give_up(0, 1), None, "twice is once");
    assert_eq!(come(&mut admission, 0, [4]), [Entered::Waits(3)]);
    assert_eq!(admission.leave(0, None), [(0, 3)]);
    assert_eq!(admission.give_up(0, 2), None, "it runs");
    assert_eq!(admission.give_up(0, 3), Some(4));
    assert!(admission.leave(0, None).is_empty());
}

#[test]
fn all_who_wait_are_bounded_too() {
    let mut admission = Admission::new(calls(3));
    let methods: Vec<_> = (0..2).map(|_| admission.add_method(Concurrency::Fixed(1), &[], calls(2))).collect();
    for method in &methods {
        come(&mut admission, *method, 0..2);
    }
    assert_eq!(come(&mut admission, methods[0], [9]), [Entered::Waits(3)]);
    assert_eq!(come(&mut admission, methods[1], [9]), [Entered::Refused(Full::Total { waiting: 3 })]);
}

#[test]
fn what_waits_is_bounded_in_bytes_of_each_method_and_in_all() {
    use Entered::{Refused, Runs, Waits};
    let mut admission = Admission::new(Room { calls: 100, bytes: 100 });
    let own = Room { calls: 100, bytes: 60 };
    let methods: Vec<_> = (0..2).map(|_| admission.add_method(Concurrency::Fixed(1), &[], own)).collect();
    let mut come = |method: usize, bytes| admission.enter(methods[method], bytes, || 0);
    assert_eq!([come(0, 1_000), come(1, 1_000)], [Runs, Runs], "what runs takes nothing of it");
    assert_eq!([come(0, 50), come(0, 11), come(0, 10)], [Waits(1), Refused(Full::Bytes { bound: 60 }), Waits(2)]);
    assert_eq!([come(1, 41), come(1, 40)], [Refused(Full::Bytes { bound: 100 }), Waits(3)]);
    assert_eq!(admission.leave(methods[0], None).len(), 1);
    assert_eq!(admission.give_up(methods[1], 3), Some(0));
    let mut come = |method: usize, bytes| admission.enter(methods[method], bytes, || 0);
    assert_eq!([come(0, 50), come(1, 40)], [Waits(4), Waits(5)], "who has gone leaves room");
}

#[test]
fn where_none_may_wait_the_gate_is_named_that_has_no_room() {
    for (own, threads, all, passes) in [(1, 9, 9, Passes::Method), (9, 1, 9, Passes::Blocking), (9, 9, 1, Passes::All)]
    {
        for (of_method, of_all) in [(0, 10), (10, 0)] {
            let mut admission = Admission::new(calls(of_all));
            let threads = admission.add_gate(Passes::Blocking, Concurrency::Fixed(threads));
            let all = admission.add_gate(Passes::All, Concurrency::Fixed(all));
            admission.add_method(Concurrency::Fixed(own), &[threads, all], calls(of_method));
            let full = Entered::Refused(Full::Gate { passes, running: 1 });
            assert_eq!(come(&mut admission, 0, [1, 2]), [Entered::Runs, full]);
        }
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
        let mut admission = Admission::new(calls(1_000));
        let all = admission.add_gate(Passes::All, Concurrency::Fixed(5));
        let threads = admission.add_gate(Passes::Blocking, Concurrency::Fixed(3));
        for ((concurrency, room), shared) in limits.iter().zip([&[all][..], &[all, threads], &[all, threads]]) {
            admission.add_method(*concurrency, shared, calls(*room));
        }
        let mut running = Vec::<(usize, u64)>::new();
        let mut waiting = Vec::<(usize, u64, Place)>::new();
        for (n, step) in (0_u64..).zip(&steps) {
            let mut let_in = Vec::new();
            match step {
                Step::Come(method) => match admission.enter(*method, 1, || n) {
                    Entered::Runs => running.push((*method, n)),
                    Entered::Waits(place) => waiting.push((*method, n, place)),
                    Entered::Refused(_) => {
                        let held = waiting.iter().filter(|waits| waits.0 == *method).count();
                        prop_assert_eq!(held, limits[*method].1);
                    }
                },
                Step::End(which, ms) if !running.is_empty() => {
                    let (method, _) = running.swap_remove(which.index(running.len()));
                    let_in = admission.leave(method, Some(Took::Whole(Duration::from_millis(*ms))));
                }
                Step::GiveUp(which) if !waiting.is_empty() => {
                    let (method, who, place) = waiting.remove(which.index(waiting.len()));
                    prop_assert_eq!(admission.give_up(method, place), Some(who));
                }
                _ => {}
            }
            for (of, who) in let_in {
                let at = waiting.iter().position(|waits| waits.1 == who).expect("it waits");
                let (method, ..) = waiting.remove(at);
                prop_assert_eq!(method, of);
                prop_assert!(waiting.iter().all(|waits| waits.0 != method || waits.1 > who), "in order");
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
                prop_assert!(!admission.has_room(*method), "somebody waits for nothing");
            }
        }
    }
}
