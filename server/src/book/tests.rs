use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::time::Instant;

use super::*;

mod stored;

const MINUTE: Duration = Duration::from_mins(1);

fn book(answers: usize, bytes: usize) -> Book<u32> {
    Book::new(Window { answers, bytes, age: 10 * MINUTE })
}

fn call(key: &str) -> CallKey {
    CallKey { method: "m".into(), key: key.into() }
}

fn enter(book: &mut Book<u32>, key: &str, params: Digest, now: Instant, who: u32) -> Entered {
    book.enter(call(key), params, now, || who)
}

fn runs(entered: Entered) -> Arc<CallKey> {
    match entered {
        Entered::Runs(call) => call,
        other => panic!("it runs, and is not {other:?}"),
    }
}

fn waits(entered: &Entered) -> u64 {
    match entered {
        Entered::Waits(_, number) => *number,
        other => panic!("it waits, and is not {other:?}"),
    }
}

fn answer(text: &'static str) -> Kept {
    Kept::Answer(Bytes::from_static(text.as_bytes()))
}

#[test]
fn a_repeat_waits_for_the_first_and_a_later_one_gets_its_answer() {
    let (mut book, now) = (book(10, 10_000), Instant::now());
    let first = runs(enter(&mut book, "k", 1, now, 0));
    let (second, gone) = (enter(&mut book, "k", 1, now, 2), enter(&mut book, "k", 1, now, 3));
    let (_, gone) = (waits(&second), waits(&gone));
    book.give_up(&first, gone);
    assert_eq!(enter(&mut book, "k", 2, now, 4), Entered::Conflict);
    runs(book.enter(CallKey { method: "other".into(), key: "k".into() }, 1, now, || 5));
    assert_eq!(book.end(&first, answer("yes"), now), [2]);
    assert_eq!(enter(&mut book, "k", 1, now, 6), Entered::Ended(answer("yes")));
    assert_eq!(enter(&mut book, "k", 2, now, 7), Entered::Conflict);
}

#[test]
fn one_that_does_not_begin_leaves_its_place_to_the_next_and_the_last_leaves_nothing() {
    let (mut book, now) = (book(10, 10_000), Instant::now());
    let first = runs(enter(&mut book, "k", 1, now, 0));
    waits(&enter(&mut book, "k", 1, now, 2));
    waits(&enter(&mut book, "k", 1, now, 3));
    assert_eq!([book.pass_on(&first), book.pass_on(&first), book.pass_on(&first)], [Some(2), Some(3), None]);
    assert!(book.entries.is_empty());
    runs(enter(&mut book, "k", 2, now, 4));
}

#[test]
fn the_oldest_answers_go_first_by_age_number_and_bytes_and_what_runs_stays() {
    let (mut book, began) = (book(2, 10_000), Instant::now());
    let running = runs(enter(&mut book, "slow", 1, began, 0));
    for (minute, key) in [(0, "a"), (1, "b"), (2, "c")] {
        let now = began + minute * MINUTE;
        let call = runs(enter(&mut book, key, 1, now, 0));
        book.end(&call, answer("x"), now);
    }
    // By number.
    runs(enter(&mut book, "a", 2, began + 2 * MINUTE, 0));
    // By age, to the moment.
    let almost = began + 11 * MINUTE - Duration::from_nanos(1);
    assert_eq!(enter(&mut book, "b", 1, almost, 0), Entered::Ended(answer("x")));
    runs(enter(&mut book, "b", 1, began + 11 * MINUTE, 0));
    assert_eq!(enter(&mut book, "c", 1, began + 11 * MINUTE, 0), Entered::Ended(answer("x")));
    waits(&enter(&mut book, "slow", 1, began + 100 * MINUTE, 0));
    assert_eq!(book.end(&running, answer("x"), began + 100 * MINUTE).len(), 1);
    assert_eq!((book.ended.len(), book.bytes), (1, cost(&running, &answer("x"))));
}

#[test]
fn of_an_answer_that_is_larger_than_all_may_be_is_known_that_it_was_given() {
    let (mut book, now) = (book(10, 2 * ENTRY_BYTES + 20), Instant::now());
    let (small, large) = (runs(enter(&mut book, "a", 1, now, 0)), runs(enter(&mut book, "b", 1, now, 0)));
    book.end(&small, answer("0123456789"), now);
    let text = Bytes::from(vec![b'x'; 2 * ENTRY_BYTES]);
    book.end(&large, Kept::Answer(text), now);
    assert_eq!(enter(&mut book, "b", 1, now, 0), Entered::Ended(Kept::TooLarge(2 * ENTRY_BYTES)));
    assert_eq!(enter(&mut book, "a", 1, now, 0), Entered::Ended(answer("0123456789")));
    // Without room for any, the last is known all the same.
    let mut tiny = self::book(10, 0);
    let call = runs(enter(&mut tiny, "k", 1, now, 0));
    tiny.end(&call, answer("x"), now);
    assert_eq!(enter(&mut tiny, "k", 1, now, 0), Entered::Ended(Kept::TooLarge(1)));
}

#[derive(Clone, Debug)]
enum Step {
    Enter { key: usize, params: Digest },
    End { key: usize, bytes: usize },
    PassOn { key: usize },
    GiveUp { which: usize },
    Later { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, 0..2u128).prop_map(|(key, params)| Step::Enter { key, params }),
        2 => (0..4usize, 0..700usize).prop_map(|(key, bytes)| Step::End { key, bytes }),
        1 => (0..4usize).prop_map(|key| Step::PassOn { key }),
        1 => (0..8usize).prop_map(|which| Step::GiveUp { which }),
        1 => (0..400u64).prop_map(|seconds| Step::Later { seconds }),
    ]
}

/// What the book should know, told in the plainest way.
#[derive(Default)]
struct Model {
    /// By key: the parameters, and who waits.
    running: HashMap<usize, (Digest, Vec<u32>)>,
    /// The oldest first: key, parameters, what is kept, when.
    ended: Vec<(usize, Digest, Kept, Instant)>,
}

impl Model {
    fn forget(&mut self, window: Window, now: Instant) {
        self.ended.retain(|(.., at)| now.saturating_duration_since(*at) < window.age);
        let bytes = |model: &Self| -> usize {
            model.ended.iter().map(|(key, _, kept, _)| cost(&call(&key.to_string()), kept)).sum()
        };
        while self.ended.len() > 1 && (self.ended.len() > window.answers || bytes(self) > window.bytes) {
            self.ended.remove(0);
        }
    }
}

proptest! {
    #[test]
    fn no_key_runs_twice_while_it_is_remembered_and_the_bounds_hold(steps in vec(step(), 1..80)) {
        let window = Window { answers: 3, bytes: 3 * ENTRY_BYTES + 500, age: 10 * MINUTE };
        let (mut book, mut model, mut now) = (Book::new(window), Model::default(), Instant::now());
        let mut numbers = Vec::new();
        for (who, step) in (0u32..).zip(steps) {
            match step {
                Step::Enter { key, params } => {
                    model.forget(window, now);
                    let entered = enter(&mut book, &key.to_string(), params, now, who);
                    let ended = model.ended.iter().find(|(known, ..)| *known == key);
                    match (model.running.get_mut(&key), ended) {
                        (Some((known, _)), _) if *known != params => prop_assert_eq!(entered, Entered::Conflict),
                        (_, Some((_, known, ..))) if *known != params => prop_assert_eq!(entered, Entered::Conflict),
                        (Some((_, waiting)), _) => {
                            waiting.push(who);
                            numbers.push((key, who, waits(&entered)));
                        }
                        (None, Some((.., kept, _))) => prop_assert_eq!(entered, Entered::Ended(kept.clone())),
                        (None, None) => {
                            runs(entered);
                            model.running.insert(key, (params, Vec::new()));
                        }
                    }
                }
                Step::End { key, bytes } => {
                    let kept = Kept::Answer(Bytes::from(vec![b'x'; bytes]));
                    let waiting = book.end(&Arc::new(call(&key.to_string())), kept.clone(), now);
                    let (params, expected) = model.running.remove(&key).map_or((None, Vec::new()), |(p, w)| (Some(p), w));
                    prop_assert_eq!(waiting, expected);
                    if let Some(params) = params {
                        model.ended.push((key, params, window.bounded(&call(&key.to_string()), kept), now));
                        model.forget(window, now);
                    }
                }
                Step::PassOn { key } => {
                    let next = book.pass_on(&call(&key.to_string()));
                    let expected = model.running.get_mut(&key).and_then(|(_, w)| (!w.is_empty()).then(|| w.remove(0)));
                    prop_assert_eq!(next, expected);
                    if expected.is_none() {
                        model.running.remove(&key);
                    }
                }
                Step::GiveUp { which } => {
                    if let Some((key, who, number)) = numbers.get(which).copied() {
                        book.give_up(&call(&key.to_string()), number);
                        model.running.get_mut(&key).into_iter().for_each(|(_, waiting)| waiting.retain(|w| *w != who));
                    }
                }
                Step::Later { seconds } => now += Duration::from_secs(seconds),
            }
            prop_assert!(book.ended.len() <= window.answers);
            prop_assert!(book.bytes <= window.bytes);
            prop_assert_eq!(book.entries.len(), book.ended.len() + model.running.len());
        }
    }
}
