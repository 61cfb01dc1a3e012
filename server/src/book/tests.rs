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

const ONE: CallerId = CallerId::direct(1);

fn enter(book: &mut Book<u32>, key: &str, params: Digest, now: Instant, who: u32) -> Entered {
    enter_of(book, key, params, ONE, now, who)
}

fn enter_of(book: &mut Book<u32>, key: &str, params: Digest, of: CallerId, now: Instant, who: u32) -> Entered {
    book.enter(call(key), params, of, now, || who)
}

/// A call of this caller that is executed, with an answer of so many bytes.
fn execute(book: &mut Book<u32>, key: &str, of: u64, bytes: usize, now: Instant) {
    let call = runs(enter_of(book, key, 1, CallerId::direct(of), now, 0));
    book.end(&call, Kept::Answer(Bytes::from(vec![b'x'; bytes])), now);
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
    runs(book.enter(CallKey { method: "other".into(), key: "k".into() }, 1, ONE, now, || 5));
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
    assert_eq!((book.ended.len(), book.ended.bytes()), (1, cost(&running, &answer("x"))));
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

#[test]
fn who_makes_many_calls_under_keys_has_its_own_forgotten() {
    let (mut book, now) = (book(100, 100_000), Instant::now());
    for key in 0..10 {
        execute(&mut book, &key.to_string(), 1, 10, now);
    }
    for key in 0..1_000 {
        execute(&mut book, &format!("greedy {key}"), 2, 10, now);
    }
    for key in 0..10 {
        let kept = Kept::Answer(Bytes::from_static(b"xxxxxxxxxx"));
        assert_eq!(enter(&mut book, &key.to_string(), 1, now, 0), Entered::Ended(kept));
    }
    assert_eq!(book.ended.len(), 100);
    runs(enter(&mut book, "greedy 909", 1, now, 0));
    assert!(matches!(enter(&mut book, "greedy 910", 1, now, 0), Entered::Ended(_)));
    // Of a crowd that makes one each, the oldest.
    for caller in 10..300 {
        execute(&mut book, &format!("crowd {caller}"), caller, 10, now);
    }
    assert!(matches!(enter(&mut book, "crowd 299", 1, now, 0), Entered::Ended(_)));
    runs(enter(&mut book, "0", 1, now, 0));
}

#[test]
fn who_has_long_answers_has_its_own_forgotten() {
    let (mut book, now) = (book(100, 10_000), Instant::now());
    execute(&mut book, "short", 1, 3_000, now);
    for key in 0..10 {
        execute(&mut book, &format!("long {key}"), 2, 3_000, now);
    }
    assert!(matches!(enter(&mut book, "short", 1, now, 0), Entered::Ended(Kept::Answer(_))));
    // One that leaves no room for what others have is known to have been executed.
    execute(&mut book, "longest", 3, 9_000, now);
    assert_eq!(enter(&mut book, "longest", 1, now, 0), Entered::Ended(Kept::TooLarge(9_000)));
    assert!(matches!(enter(&mut book, "short", 1, now, 0), Entered::Ended(Kept::Answer(_))));
}

#[test]
fn what_becomes_of_calls_under_keys_is_counted() {
    let (mut book, now) = (book(2, 10_000), Instant::now());
    let first = runs(enter(&mut book, "k", 1, now, 0));
    waits(&enter(&mut book, "k", 1, now, 1));
    assert_eq!(enter(&mut book, "k", 2, now, 2), Entered::Conflict);
    assert_eq!(book.metrics(now), KeptMetrics { conflicts: 1, running: 1, ..KeptMetrics::default() });
    book.end(&first, answer("x"), now);
    assert!(matches!(enter(&mut book, "k", 1, now, 3), Entered::Ended(_)));
    let bytes = cost(&first, &answer("x")) as u64;
    let one = KeptMetrics { stored: 1, repeated: 2, conflicts: 1, remembered: 1, bytes, ..KeptMetrics::default() };
    assert_eq!(book.metrics(now), one);
    // Another one's takes all the room that is left, and one more call takes the first one's place.
    execute(&mut book, "large", 2, 9_600, now);
    execute(&mut book, "second", 1, 1, now);
    let metrics = book.metrics(now);
    assert_eq!((metrics.stored, metrics.remembered, metrics.evicted, metrics.shortened), (3, 2, 1, 1), "{metrics:?}");
    let metrics = book.metrics(now + 10 * MINUTE);
    assert_eq!((metrics.expired, metrics.remembered, metrics.bytes), (2, 0, 0), "{metrics:?}");
}

#[test]
fn an_answer_is_that_of_the_caller_whose_call_was_executed() {
    let (mut book, now) = (book(2, 10_000), Instant::now());
    let first = runs(enter_of(&mut book, "k", 1, CallerId::direct(2), now, 0));
    waits(&enter_of(&mut book, "k", 1, ONE, now, 7));
    assert_eq!(book.pass_on(&first), Some(7));
    book.end(&first, answer("x"), now);
    execute(&mut book, "a", 2, 1, now);
    execute(&mut book, "b", 2, 1, now);
    assert_eq!(enter(&mut book, "k", 1, now, 0), Entered::Ended(answer("x")));
}

#[derive(Clone, Debug)]
enum Step {
    Enter { key: usize, params: Digest, of: u64 },
    End { key: usize, bytes: usize },
    PassOn { key: usize },
    GiveUp { which: usize },
    Later { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..6usize, 0..2u128, 0..3u64).prop_map(|(key, params, of)| Step::Enter { key, params, of }),
        3 => (0..6usize, 0..700usize).prop_map(|(key, bytes)| Step::End { key, bytes }),
        1 => (0..6usize).prop_map(|key| Step::PassOn { key }),
        1 => (0..8usize).prop_map(|which| Step::GiveUp { which }),
        1 => (0..400u64).prop_map(|seconds| Step::Later { seconds }),
    ]
}

/// What the book should know, told in the plainest way.
#[derive(Default)]
struct Model {
    running: HashMap<usize, ModelRunning>,
    /// The oldest first.
    ended: Vec<ModelEnded>,
}

struct ModelRunning {
    params: Digest,
    of: u64,
    /// Who waits, and whose calls those are.
    waiting: Vec<(u32, u64)>,
}

struct ModelEnded {
    key: usize,
    params: Digest,
    of: u64,
    kept: Kept,
    at: Instant,
}

impl ModelEnded {
    fn bytes(&self) -> usize {
        cost(&call(&self.key.to_string()), &self.kept)
    }
}

impl Model {
    fn forget(&mut self, window: Window, now: Instant) {
        self.ended.retain(|ended| now.saturating_duration_since(ended.at) < window.age);
        while self.ended.len() > 1 {
            let bytes: usize = self.ended.iter().map(ModelEnded::bytes).sum();
            let at = if self.ended.len() > window.answers {
                self.oldest_of_most(|_| 1).filter(|(_, most)| *most > 1).map_or(0, |(at, _)| at)
            } else if bytes > window.bytes {
                self.oldest_of_most(ModelEnded::bytes).unwrap().0
            } else {
                return;
            };
            if at + 1 < self.ended.len() {
                self.ended.remove(at);
                continue;
            }
            let last = &mut self.ended[at].kept;
            match last {
                Kept::Answer(answer) => *last = Kept::TooLarge(answer.len()),
                _ => drop(self.ended.remove(0)),
            }
        }
    }

    /// Where the first one stands of whoever has most, and how much that is.
    fn oldest_of_most(&self, measure: impl Fn(&ModelEnded) -> usize) -> Option<(usize, usize)> {
        let has = |of: u64| -> usize { self.ended.iter().filter(|ended| ended.of == of).map(&measure).sum() };
        let (most, of) = self.ended.iter().map(|ended| (has(ended.of), ended.of)).max()?;
        self.ended.iter().position(|ended| ended.of == of).map(|at| (at, most))
    }
}

proptest! {
    #[test]
    fn no_key_runs_twice_while_it_is_remembered_and_the_bounds_hold(steps in vec(step(), 1..80)) {
        let window = Window { answers: 3, bytes: 3 * ENTRY_BYTES + 500, age: 10 * MINUTE };
        let (mut book, mut model, mut now) = (Book::new(window), Model::default(), Instant::now());
        let (mut numbers, mut counted) = (Vec::new(), KeptMetrics::default());
        for (who, step) in (0u32..).zip(steps) {
            match step {
                Step::Enter { key, params, of } => {
                    model.forget(window, now);
                    let entered = enter_of(&mut book, &key.to_string(), params, CallerId::direct(of), now, who);
                    let ended = model.ended.iter().find(|ended| ended.key == key);
                    counted.conflicts += u64::from(entered == Entered::Conflict);
                    counted.repeated += u64::from(matches!(entered, Entered::Ended(_)));
                    match (model.running.get_mut(&key), ended) {
                        (Some(runs), _) if runs.params != params => prop_assert_eq!(entered, Entered::Conflict),
                        (_, Some(ended)) if ended.params != params => prop_assert_eq!(entered, Entered::Conflict),
                        (Some(runs), _) => {
                            runs.waiting.push((who, of));
                            numbers.push((key, who, waits(&entered)));
                        }
                        (None, Some(ended)) => prop_assert_eq!(entered, Entered::Ended(ended.kept.clone())),
                        (None, None) => {
                            runs(entered);
                            model.running.insert(key, ModelRunning { params, of, waiting: Vec::new() });
                        }
                    }
                }
                Step::End { key, bytes } => {
                    let name = call(&key.to_string());
                    let kept = Kept::Answer(Bytes::from(vec![b'x'; bytes]));
                    let waiting = book.end(&Arc::new(name.clone()), kept.clone(), now);
                    let ran = model.running.remove(&key);
                    let expected: Vec<_> = ran.iter().flat_map(|ran| &ran.waiting).map(|(who, _)| *who).collect();
                    prop_assert_eq!(&waiting, &expected);
                    if let Some(ModelRunning { params, of, .. }) = ran {
                        counted.stored += 1;
                        counted.repeated += expected.len() as u64;
                        model.ended.push(ModelEnded { key, params, of, kept: window.bounded(&name, kept), at: now });
                        model.forget(window, now);
                    }
                }
                Step::PassOn { key } => {
                    let next = book.pass_on(&call(&key.to_string()));
                    let expected = model.running.get_mut(&key).and_then(|runs| {
                        let (who, of) = (!runs.waiting.is_empty()).then(|| runs.waiting.remove(0))?;
                        runs.of = of;
                        Some(who)
                    });
                    prop_assert_eq!(next, expected);
                    if expected.is_none() {
                        model.running.remove(&key);
                    }
                }
                Step::GiveUp { which } => {
                    if let Some((key, who, number)) = numbers.get(which).copied() {
                        book.give_up(&call(&key.to_string()), number);
                        model.running.get_mut(&key).into_iter().for_each(|runs| runs.waiting.retain(|(w, _)| *w != who));
                    }
                }
                Step::Later { seconds } => now += Duration::from_secs(seconds),
            }
            prop_assert!(book.ended.len() <= window.answers);
            prop_assert!(book.ended.bytes() <= window.bytes);
            let seen = book.metrics(now);
            let told = |metrics: &KeptMetrics| (metrics.stored, metrics.repeated, metrics.conflicts);
            prop_assert_eq!(told(&seen), told(&counted));
            prop_assert_eq!(seen.stored, seen.remembered + seen.evicted + seen.expired);
            prop_assert_eq!(seen.running, model.running.len() as u64);
            prop_assert_eq!(book.entries.len(), book.ended.len() + model.running.len());
        }
    }
}
