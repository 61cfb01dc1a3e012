use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

type Calls = Book<u8, ()>;

fn call(caller: u8, id: &[u8], provider: u8, deadline: Option<Instant>) -> Call<u8, ()> {
    Call { caller, id: CallerId::from_slice(id), provider, deadline, at: 0, held: () }
}

#[test]
fn an_answer_comes_out_once_and_only_from_whom_it_is_due() {
    let mut book = Calls::new(8);
    let number = book.enter(call(1, b"x", 9, None), 8).unwrap();
    assert_eq!(book.answered(&8, number), None, "another provider must not answer");
    assert_eq!(book.answered(&1, number), None, "nor the caller");
    assert_eq!(book.answered(&9, number), Some(call(1, b"x", 9, None)));
    assert_eq!((book.answered(&9, number), book.len()), (None, 0));
}

#[test]
fn both_bounds_hold_and_are_told_apart() {
    let mut book = Calls::new(3);
    let first = book.enter(call(1, b"a", 9, None), 2).unwrap();
    book.enter(call(2, b"a", 9, None), 2).unwrap();
    assert_eq!(book.enter(call(1, b"b", 9, None), 2), Err(Full::Provider { bound: 2 }));
    book.enter(call(1, b"b", 8, None), 2).unwrap();
    assert_eq!(book.enter(call(1, b"c", 7, None), 2), Err(Full::Total { bound: 3 }));
    book.take(first).unwrap();
    assert!(book.enter(call(1, b"c", 9, None), 2).is_ok());
}

#[test]
fn a_caller_gives_up_its_own_calls_only_all_of_that_id() {
    let mut book = Calls::new(8);
    let numbers: Vec<_> = [(1, b"a"), (1, b"a"), (1, b"b"), (2, b"a")]
        .map(|(caller, id)| book.enter(call(caller, id, 9, None), 8).unwrap())
        .into();
    let given_up: Vec<_> = book.give_up(&1, b"a").into_iter().map(|(number, _)| number).collect();
    assert_eq!(given_up, numbers[..2]);
    assert_eq!((book.give_up(&1, b"a"), book.give_up(&3, b"a"), book.len()), (vec![], vec![], 2));
}

#[test]
fn the_end_of_a_connection_takes_its_calls_and_those_that_it_was_to_answer() {
    let mut book = Calls::new(8);
    // 2 calls 9, and is called by 1; and it calls itself.
    let pairs = [(2, 9), (1, 2), (2, 2), (1, 9)];
    let numbers = pairs.map(|(caller, provider)| book.enter(call(caller, b"x", provider, None), 8).unwrap());
    book.sent(numbers[1], 77);
    let numbers_of = |out: Vec<(Number, _)>| out.into_iter().map(|(number, _)| number).collect::<Vec<_>>();
    assert_eq!(numbers_of(book.give_up_all(&2)), [numbers[0], numbers[2]]);
    assert_eq!(book.lose(&2, 77), [], "it begins where the other one's sending ended");
    let lost = book.lose(&2, 78);
    assert_eq!(lost.iter().map(|(number, call)| (*number, call.at)).collect::<Vec<_>>(), [(numbers[1], 77)]);
    assert_eq!((book.give_up_all(&2), book.lose(&2, u64::MAX), book.len()), (vec![], vec![], 1));
}

#[test]
fn time_takes_out_what_is_due_and_the_keeper_is_only_woken_for_what_is_due_sooner() {
    let (mut book, now) = (Calls::new(8), Instant::now());
    let after = |seconds| now + Duration::from_secs(seconds);
    assert!(book.is_too_late_for(after(5)), "it sleeps without a time");
    let soon = book.enter(call(1, b"a", 9, Some(after(5))), 8).unwrap();
    book.enter(call(1, b"b", 9, Some(after(6))), 8).unwrap();
    book.enter(call(1, b"c", 9, None), 8).unwrap();
    assert_eq!(book.look_next(), Some(after(5)));
    assert!(book.is_too_late_for(after(4)) && !book.is_too_late_for(after(5)));
    assert_eq!(book.expired(after(4)), vec![]);
    assert_eq!(book.expired(after(5)).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [soon]);
    assert_eq!((book.look_next(), book.len()), (Some(after(6)), 2));
}

#[test]
fn a_number_is_read_back_and_nothing_else_is() {
    for number in [0, 1, 0xdead_beef, u64::MAX] {
        assert_eq!(Number::from_wire(&Number(number).to_wire()), Some(Number(number)));
    }
    assert_eq!(&Number(0xa0).to_wire(), b"r00000000000000a0");
    let others: [&[u8]; 6] =
        [b"", b"r", b"00000000000000a0", b"r+000000000000a0", b"r000000000000000a0", b"r0000000000000\xff\xff"];
    for wire in others {
        assert_eq!(Number::from_wire(wire), None, "{wire:?}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter { caller: u8, id: u8, provider: u8, deadline: Option<u64> },
    Answer { provider: u8, nth: usize },
    Sent { nth: usize, at: u64 },
    GiveUp { caller: u8, id: u8 },
    GiveUpAll(u8),
    Lose { provider: u8, end: u64 },
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let conn = 0..4u8;
    prop_oneof![
        6 => (conn.clone(), 0..3u8, conn.clone(), prop::option::of(0..40u64))
            .prop_map(|(caller, id, provider, deadline)| Step::Enter { caller, id, provider, deadline }),
        4 => (conn.clone(), 0..40usize).prop_map(|(provider, nth)| Step::Answer { provider, nth }),
        2 => (conn.clone(), 0..3u8).prop_map(|(caller, id)| Step::GiveUp { caller, id }),
        3 => (0..40usize, 1..9u64).prop_map(|(nth, at)| Step::Sent { nth, at }),
        1 => conn.clone().prop_map(Step::GiveUpAll),
        1 => (conn, 0..9u64).prop_map(|(provider, end)| Step::Lose { provider, end }),
        2 => (0..40u64).prop_map(Step::Time),
    ]
}

const BOUND: usize = 10;
const PROVIDER_BOUND: usize = 4;

proptest! {
    /// Held against a list that is searched from end to end.
    #[test]
    fn each_call_comes_out_once_and_for_the_right_reason(steps in prop::collection::vec(step(), 0..120)) {
        let (mut book, start) = (Calls::new(BOUND), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut model: BTreeMap<Number, Call<u8, ()>> = BTreeMap::new();
        let mut entered: Vec<Number> = Vec::new();
        let all_leave = (0..4).flat_map(|conn| [Step::GiveUpAll(conn), Step::Lose { provider: conn, end: u64::MAX }]);
        for step in steps.into_iter().chain(all_leave) {
            let mut out = Vec::new();
            let expected: Vec<Number> = match step {
                Step::Enter { caller, id, provider, deadline } => {
                    let call = call(caller, &[id], provider, deadline.map(at));
                    let of_provider = model.values().filter(|call| call.provider == provider).count();
                    match book.enter(call.clone(), PROVIDER_BOUND) {
                        Ok(number) => {
                            prop_assert!(model.len() < BOUND && of_provider < PROVIDER_BOUND);
                            prop_assert!(!entered.contains(&number), "a number is never used twice");
                            entered.push(number);
                            model.insert(number, call);
                        }
                        Err(Full::Total { .. }) => prop_assert_eq!(model.len(), BOUND),
                        Err(Full::Provider { .. }) => prop_assert_eq!(of_provider, PROVIDER_BOUND),
                    }
                    vec![]
                }
                Step::Answer { provider, nth } => {
                    let Some(number) = entered.get(nth).copied() else { continue };
                    out.extend(book.answered(&provider, number).map(|call| (number, call)));
                    model.get(&number).filter(|call| call.provider == provider).map(|_| number).into_iter().collect()
                }
                Step::GiveUp { caller, id } => {
                    out.extend(book.give_up(&caller, &[id]));
                    let is_it = |call: &Call<u8, ()>| call.caller == caller && call.id[..] == [id];
                    model.iter().filter(|(_, call)| is_it(call)).map(|(number, _)| *number).collect()
                }
                Step::Sent { nth, at } => {
                    let Some(number) = entered.get(nth).copied() else { continue };
                    book.sent(number, at);
                    model.entry(number).and_modify(|call| call.at = at);
                    vec![]
                }
                Step::GiveUpAll(caller) => {
                    out.extend(book.give_up_all(&caller));
                    model.iter().filter(|(_, call)| call.caller == caller).map(|(number, _)| *number).collect()
                }
                Step::Lose { provider, end } => {
                    out.extend(book.lose(&provider, end));
                    let is_it = |call: &Call<u8, ()>| call.provider == provider && call.at < end;
                    model.iter().filter(|(_, call)| is_it(call)).map(|(number, _)| *number).collect()
                }
                Step::Time(seconds) => {
                    out.extend(book.expired(at(seconds)));
                    let is_it = |call: &Call<u8, ()>| call.deadline.is_some_and(|deadline| deadline <= at(seconds));
                    model.iter().filter(|(_, call)| is_it(call)).map(|(number, _)| *number).collect()
                }
            };
            out.sort_by_key(|(number, _)| *number);
            prop_assert_eq!(out.iter().map(|(number, _)| *number).collect::<Vec<_>>(), expected);
            for (number, call) in out {
                prop_assert_eq!(model.remove(&number), Some(call));
            }
            prop_assert_eq!(book.len(), model.len());
            let first = model.values().filter_map(|call| call.deadline).min();
            prop_assert_eq!(book.look_next(), first);
        }
        prop_assert!(book.by_caller.is_empty() && book.by_provider.is_empty() && book.due.is_empty());
    }
}
