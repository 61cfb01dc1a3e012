use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

type Calls = Book<u8, ()>;

fn call(caller: u8, id: &[u8], provider: u8, deadline: Option<Instant>) -> Call<u8, ()> {
    Call {
        caller,
        id: CallerId::from_slice(id),
        tag: None,
        provider,
        method: "m".into(),
        deadline,
        goes_back: false,
        bytes: 100,
        at: 0,
        held: (),
    }
}

fn call_of(method: &str, caller: u8) -> Call<u8, ()> {
    Call { method: method.into(), ..call(caller, b"x", 9, None) }
}

fn permits(calls: usize) -> Permits {
    Permits { calls, methods: 1, bytes: usize::MAX }
}

/// Enters as many as there is room for; how many that were.
fn fill(calls: &mut Calls, call: &Call<u8, ()>, permits: Permits) -> usize {
    (0..5000).take_while(|_| calls.enter(call.clone(), permits).is_ok()).count()
}

#[test]
fn an_answer_comes_out_once_and_only_from_whom_it_is_due() {
    let mut book = Calls::new(8);
    let number = book.enter(call(1, b"x", 9, None), permits(8)).unwrap().number;
    assert_eq!(book.answered(&8, number), None, "another provider must not answer");
    assert_eq!(book.answered(&1, number), None, "nor the caller");
    assert_eq!(book.answered(&9, number), Some(call(1, b"x", 9, None)));
    assert_eq!((book.answered(&9, number), book.len()), (None, 0));
}

#[test]
fn both_bounds_hold_and_are_told_apart() {
    let mut book = Calls::new(3);
    let first = book.enter(call(1, b"a", 9, None), permits(2)).unwrap().number;
    book.enter(call(2, b"a", 9, None), permits(2)).unwrap();
    assert_eq!(book.enter(call(1, b"b", 9, None), permits(2)), Err(Full::Provider { bound: 2 }));
    book.enter(call(3, b"b", 8, None), permits(2)).unwrap();
    assert_eq!(book.enter(call(4, b"c", 7, None), permits(2)), Err(Full::Total { bound: 3 }));
    book.take(first).unwrap();
    assert!(book.enter(call(4, b"c", 9, None), permits(2)).is_ok());
}

#[test]
fn however_many_calls_one_makes_and_whatever_method_is_slow_newcomers_find_room() {
    // What is permitted, for how many methods, and what one caller gets of it for one method, and for all.
    let rows =
        [(1, 1, 1, 1), (2, 1, 1, 1), (16, 1, 8, 8), (1024, 1, 512, 512), (1024, 2, 512, 512), (1024, 10, 512, 512)];
    for (calls, methods, of_one, of_all) in rows {
        let (mut book, permits) = (Calls::new(usize::MAX), Permits { calls, methods, bytes: usize::MAX });
        let names: Vec<_> = (0..methods).map(|number| number.to_string()).collect();
        let taken: Vec<_> = names.iter().map(|name| fill(&mut book, &call_of(name, 1), permits)).collect();
        assert_eq!((taken[0], taken.iter().sum()), (of_one, of_all), "{calls} {methods}");
        let bound = calls;
        let refused = if calls > 1 { Full::Share { bound } } else { Full::Provider { bound } };
        assert_eq!(book.enter(call_of("0", 1), permits), Err(refused));
        for name in names.iter().filter(|_| calls > 2) {
            assert!(book.enter(call_of(name, 2), permits).is_ok(), "{calls} {methods}");
        }
    }
}

#[test]
fn however_many_fill_one_method_another_one_has_room_and_who_has_none_gets_one_in() {
    let (mut book, permits) = (Calls::new(usize::MAX), Permits { calls: 1024, methods: 2, bytes: usize::MAX });
    let taken: usize = (0..100).map(|caller| fill(&mut book, &call_of("slow", caller), permits)).sum();
    assert_eq!((taken, book.len()), (512 + 99, 512), "each of the others has one");
    let newest = *book.calls.keys().filter(|number| book.calls[*number].caller == 0).max().unwrap();
    let entered = book.enter(call_of("slow", 100), permits).unwrap();
    assert_eq!(entered.gave_way, Some((newest, call_of("slow", 0))));
    assert_eq!(book.enter(call_of("slow", 100), permits), Err(Full::Share { bound: 1024 }), "one only");
    assert_eq!(fill(&mut book, &call_of("quick", 101), permits), 256);
    assert_eq!(book.enter(call_of("quick", 102), permits).unwrap().gave_way, None);
}

#[test]
fn who_has_none_at_a_provider_that_is_full_gets_one_in_where_another_has_several() {
    let (mut book, permits) = (Calls::new(usize::MAX), Permits { calls: 8, methods: 1, bytes: usize::MAX });
    let taken: Vec<_> = (0..4).map(|caller| fill(&mut book, &call_of("m", caller), permits)).collect();
    assert_eq!(taken, [4, 2, 1, 1]);
    let gave_way: Vec<_> = (4..8).map(|caller| book.enter(call_of("m", caller), permits).unwrap().gave_way).collect();
    let callers: Vec<_> = gave_way.into_iter().map(|gave_way| gave_way.unwrap().1.caller).collect();
    assert_eq!(callers, [0, 0, 1, 0]);
    assert_eq!(book.enter(call_of("m", 8), permits), Err(Full::Provider { bound: 8 }), "all have one");
}

#[test]
fn where_much_is_to_be_written_to_a_provider_who_has_little_waiting_there_calls_on() {
    let (mut book, much) = (Calls::new(usize::MAX), Permits { calls: 64, methods: 1, bytes: 350 });
    assert_eq!(fill(&mut book, &call_of("m", 1), permits(64)), 32, "of 100 bytes each");
    assert_eq!(book.enter(call_of("m", 1), much), Err(Full::Bytes { bound: 350 }));
    assert_eq!(fill(&mut book, &call_of("m", 2), much), 3);
    let large = Call { bytes: 1_000, ..call_of("m", 3) };
    assert_eq!(fill(&mut book, &large, much), 1, "however large it is");
    for (_, call) in book.give_up_all(&1) {
        assert_eq!(call.bytes, 100);
    }
    assert_eq!(fill(&mut book, &call_of("m", 1), much), 3);
}

#[test]
fn where_as_many_wait_as_may_the_newest_of_whoever_has_most_gives_way_to_one_that_has_fewer() {
    let mut book = Calls::new(6);
    let numbers: Vec<_> = [1, 1, 1, 1, 2, 2]
        .map(|caller| book.enter(call(caller, b"x", caller + 10, None), permits(8)).unwrap().number)
        .into();
    for number in [3, 2] {
        let entered = book.enter(call(3, b"x", 9, None), permits(8)).unwrap();
        assert_eq!(entered.gave_way, Some((numbers[number], call(1, b"x", 11, None))));
    }
    assert_eq!(book.enter(call(3, b"x", 9, None), permits(8)), Err(Full::Total { bound: 6 }), "all have as many");
    assert_eq!(book.enter(call(4, b"x", 9, None), permits(8)).unwrap().gave_way.map(|(_, call)| call.caller), Some(3));
    assert_eq!(book.len(), 6);
}

/// One that was made to look at all calls of the caller took hundreds of times as long.
#[test]
fn giving_up_costs_the_same_however_many_calls_wait() {
    let shortest = |waiting: usize| {
        let mut book = Calls::new(usize::MAX);
        for number in 0..waiting {
            book.enter(call(1, &number.to_be_bytes(), 9, None), permits(usize::MAX)).unwrap();
        }
        let time = || {
            let began = std::time::Instant::now();
            assert!((0..500).all(|_| book.give_up(&1, b"another").is_empty()));
            began.elapsed()
        };
        std::iter::repeat_with(time).take(20).min().unwrap()
    };
    let (few, many) = (shortest(1), shortest(5000));
    assert!(many < few * 20, "{many:?} and {few:?}");
}

#[test]
fn a_caller_gives_up_its_own_calls_only_all_of_that_id() {
    let mut book = Calls::new(8);
    let numbers: Vec<_> = [(1, b"a"), (1, b"a"), (1, b"b"), (2, b"a")]
        .map(|(caller, id)| book.enter(call(caller, id, 9, None), permits(8)).unwrap().number)
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
    let numbers =
        pairs.map(|(caller, provider)| book.enter(call(caller, b"x", provider, None), permits(8)).unwrap().number);
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
    let soon = book.enter(call(1, b"a", 9, Some(after(5))), permits(8)).unwrap().number;
    book.enter(call(1, b"b", 9, Some(after(6))), permits(8)).unwrap();
    book.enter(call(1, b"c", 9, None), permits(8)).unwrap();
    assert_eq!(book.look_next(None), Some(after(5)));
    assert!(book.is_too_late_for(after(4)) && !book.is_too_late_for(after(5)));
    assert_eq!(book.expired(after(4), usize::MAX), vec![]);
    assert_eq!(book.expired(after(5), usize::MAX).iter().map(|(number, _)| *number).collect::<Vec<_>>(), [soon]);
    assert_eq!((book.look_next(None), book.len()), (Some(after(6)), 2));
}

#[test]
fn a_number_is_read_back_and_nothing_else_is() {
    for number in [0, 1, 0xdead_beef, u64::MAX] {
        for tag in [None, Some(CallerTag::new(!number, true)), Some(CallerTag::new(number, false))] {
            let id = Number(number).id_of(tag);
            assert_eq!((Number::of_id(&id), id.len()), (Some(Number(number)), Number::id_bytes(tag.is_some())));
            assert_eq!(CallerTag::from_id(&id), tag);
        }
    }
    assert_eq!(&Number(0xa0).id_of(None)[..], b"r00000000000000a0");
    assert_eq!(&Number(0xa0).id_of(Some(CallerTag::new(7, true)))[..], b"r00000000000000a0+0000000000000007");
    let others: [&[u8]; 9] = [
        b"",
        b"r",
        b"00000000000000a0",
        b"r+000000000000a0",
        b"r000000000000000a0",
        b"r0000000000000\xff\xff",
        b"r00000000000000a0@",
        b"r00000000000000a0-0000000000000007",
        b"r00000000000000a0 +0000000000000007",
    ];
    for wire in others {
        assert_eq!(Number::of_id(wire), None, "{wire:?}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Enter { caller: u8, id: u8, provider: u8, method: u8, methods: usize, deadline: Option<u64> },
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
        6 => (conn.clone(), 0..3u8, conn.clone(), 0..2u8, 1..3usize, prop::option::of(0..40u64))
            .prop_map(|(caller, id, provider, method, methods, deadline)| {
                Step::Enter { caller, id, provider, method, methods, deadline }
            }),
        4 => (conn.clone(), 0..40usize).prop_map(|(provider, nth)| Step::Answer { provider, nth }),
        2 => (conn.clone(), 0..3u8).prop_map(|(caller, id)| Step::GiveUp { caller, id }),
        3 => (0..40usize, 1..9u64).prop_map(|(nth, at)| Step::Sent { nth, at }),
        1 => conn.clone().prop_map(Step::GiveUpAll),
        1 => (conn, 0..9u64).prop_map(|(provider, end)| Step::Lose { provider, end }),
        2 => (0..40u64).prop_map(Step::Time),
    ]
}

const BOUND: usize = 10;
const PROVIDER_BOUND: usize = 6;

/// Who gives way to the call, or why it is not entered.
fn enters(model: &BTreeMap<Number, Call<u8, ()>>, call: &Call<u8, ()>, methods: usize) -> Result<Option<Number>, Full> {
    let count = |is_it: &dyn Fn(&Call<u8, ()>) -> bool| model.values().filter(|other| is_it(other)).count();
    let free = PROVIDER_BOUND - count(&|other| other.provider == call.provider);
    let of_method = |other: &Call<u8, ()>| other.provider == call.provider && other.method == call.method;
    let at_provider = |other: &Call<u8, ()>| other.provider == call.provider;
    let own = count(&|other| at_provider(other) && other.caller == call.caller);
    let in_method = if methods > 1 { count(&of_method) } else { 0 };
    // The newest call of whoever but the caller has most of these, if that is more than it would have.
    let newest_of_largest = |is_it: &dyn Fn(&Call<u8, ()>) -> bool| {
        let has = |caller: u8| count(&|other| is_it(other) && other.caller == caller);
        let others = (0..4_u8).filter(|caller| *caller != call.caller);
        let largest = others.max_by_key(|caller| has(*caller)).filter(|other| has(*other) > has(call.caller) + 1)?;
        let newest = model.iter().rev().find(|(_, call)| is_it(call) && call.caller == largest);
        newest.map(|(number, _)| *number)
    };
    let full = if free == 0 { Full::Provider { bound: PROVIDER_BOUND } } else { Full::Share { bound: PROVIDER_BOUND } };
    let is_half = in_method * 2 >= PROVIDER_BOUND;
    let has_share = if own == 0 { is_half } else { in_method > 0 && in_method >= free };
    match (own < free && !has_share, own == 0, is_half) {
        (true, ..) if model.len() < BOUND => Ok(None),
        (true, ..) => newest_of_largest(&|_| true).map(Some).ok_or(Full::Total { bound: BOUND }),
        (false, true, true) => newest_of_largest(&of_method).map(Some).ok_or(full),
        (false, true, false) => newest_of_largest(&at_provider).map(Some).ok_or(full),
        (false, false, _) => Err(full),
    }
}

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
                Step::Enter { caller, id, provider, method, methods, deadline } => {
                    let method = method.to_string();
                    let call = Call { method: (*method).into(), ..call(caller, &[id], provider, deadline.map(at)) };
                    let expected = enters(&model, &call, methods);
                    match book.enter(call.clone(), Permits { calls: PROVIDER_BOUND, methods, bytes: usize::MAX }) {
                        Ok(Entered { number, gave_way }) => {
                            prop_assert!(!entered.contains(&number), "a number is never used twice");
                            entered.push(number);
                            out.extend(gave_way);
                            let gave_way: Vec<_> = out.iter().map(|(number, _)| *number).collect();
                            prop_assert_eq!(Ok(gave_way.first().copied()), expected);
                            model.insert(number, call);
                            gave_way
                        }
                        Err(full) => {
                            prop_assert_eq!(Err(full), expected);
                            vec![]
                        }
                    }
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
                    out.extend(book.expired(at(seconds), usize::MAX));
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
            prop_assert_eq!(book.look_next(None), first);
        }
        prop_assert!(book.by_caller.is_empty() && book.by_provider.is_empty() && book.due.is_empty());
        prop_assert!(book.by_id.is_empty());
    }
}
