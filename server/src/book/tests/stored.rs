//! What a store is told, and what it tells after a restart.

use std::collections::BTreeMap;

use super::*;

/// Does what it is told, and tells how old things are.
#[derive(Clone, Debug, Default)]
struct Store(BTreeMap<u64, Held>);

/// A call, what stands for its parameters, and how and when it has ended.
type Held = (CallKey, Digest, Option<(Kept, Instant)>);

impl Store {
    fn write(&mut self, changes: impl IntoIterator<Item = Change>, now: Instant) {
        for change in changes {
            match change {
                Change::Began { number, method, key, params } => {
                    let call = CallKey { method: method.into(), key: key.into() };
                    assert!(self.0.keys().all(|known| *known < number), "{number} is not new");
                    self.0.insert(number, (call, params, None));
                }
                Change::Ended { number, kept } => {
                    let (.., end) = self.0.get_mut(&number).expect("it has begun");
                    let at = end.as_ref().map_or(now, |(_, at)| *at);
                    let is_once = end.replace((kept.clone(), at)).is_none_or(|(before, _)| {
                        matches!((before, kept), (Kept::Answer(answer), Kept::TooLarge(bytes)) if answer.len() == bytes)
                    });
                    assert!(is_once, "it ends once, and its answer may be forgotten");
                }
                Change::Forgotten { number } => drop(self.0.remove(&number)),
            }
        }
    }

    fn load(&self, now: Instant) -> Vec<StoredCall> {
        let calls = self.0.iter().map(|(number, (call, params, end))| StoredCall {
            number: *number,
            method: call.method.clone().into(),
            key: call.key.clone().into(),
            params: *params,
            end: end.as_ref().map(|(kept, at)| (kept.clone(), now.saturating_duration_since(*at))),
        });
        calls.collect()
    }
}

/// A book and its store, one after the other.
struct House {
    window: Window,
    book: Book<u32>,
    store: Store,
    now: Instant,
}

impl House {
    fn new(answers: usize) -> Self {
        let window = Window { answers, bytes: answers * ENTRY_BYTES + 500, age: 10 * MINUTE };
        Self { window, book: Book::new(window), store: Store::default(), now: Instant::now() }
    }

    fn enter(&mut self, key: &str, params: Digest) -> Entered {
        enter(&mut self.book, key, params, self.now, 0)
    }

    fn begin(&mut self, key: &str) {
        let changes = self.book.take_forgotten().into_iter().chain(self.book.begin(&call(key)));
        self.store.write(changes, self.now);
    }

    /// Of two that end at the same moment, the one that began first counts as older after a restart; so none do.
    fn end(&mut self, key: &str, kept: &Kept) {
        self.now += Duration::from_millis(1);
        let changes: Vec<_> =
            self.book.take_forgotten().into_iter().chain(self.book.ending(&call(key), kept.clone())).collect();
        self.store.write(changes, self.now);
        self.book.end(&Arc::new(call(key)), kept.clone(), self.now);
    }

    fn run(&mut self, key: &str, params: Digest, kept: &Kept) {
        runs(self.enter(key, params));
        self.begin(key);
        self.end(key, kept);
    }

    /// The program ends, and begins anew later.
    fn restart(&mut self, after: Duration) {
        self.now += after;
        self.book = Book::new(self.window);
        let changes = self.book.restore(self.store.load(self.now), self.now);
        self.store.write(changes, self.now);
    }
}

#[test]
fn after_a_restart_repeats_find_what_was_there_and_what_had_not_ended_is_not_run_again() {
    let mut house = House::new(10);
    house.run("paid", 1, &answer("yes"));
    let large = Kept::Answer(Bytes::from(vec![b'x'; 10_000]));
    house.run("large", 1, &large);
    runs(house.enter("begun", 1));
    house.begin("begun");
    runs(house.enter("waiting", 1));
    for _ in 0..2 {
        house.restart(MINUTE);
        assert_eq!(house.enter("paid", 1), Entered::Ended(answer("yes")));
        assert_eq!(house.enter("paid", 2), Entered::Conflict);
        assert_eq!(house.enter("large", 1), Entered::Ended(Kept::TooLarge(10_000)));
        assert_eq!(house.enter("begun", 1), Entered::Ended(Kept::CutOff));
        assert_eq!(house.enter("begun", 2), Entered::Conflict);
    }
    runs(house.enter("waiting", 1));
    house.begin("waiting");
    assert_eq!(house.store.0.len(), 4);
}

#[test]
fn what_is_too_old_or_too_much_is_forgotten_at_a_restart_and_by_the_store() {
    let mut house = House::new(3);
    for key in ["a", "b", "c", "d"] {
        house.now += MINUTE;
        house.run(key, 1, &answer("x"));
    }
    runs(house.enter("begun", 1));
    house.begin("begun");
    // With what was cut off just now, "b" is too much.
    house.restart(MINUTE);
    assert_eq!(house.enter("c", 1), Entered::Ended(answer("x")));
    runs(house.enter("b", 1));
    assert_eq!(house.store.0.len(), 3, "{:?}", house.store);
    house.restart(9 * MINUTE + Duration::from_secs(1));
    assert_eq!(house.enter("begun", 1), Entered::Ended(Kept::CutOff), "its age counts from the restart");
    assert_eq!(house.store.0.len(), 1, "{:?}", house.store);
    house.restart(MINUTE);
    runs(house.enter("begun", 1));
    assert!(house.store.0.is_empty());
}

#[test]
fn one_that_was_written_down_and_did_not_run_is_forgotten_and_the_next_has_another_number() {
    let mut house = House::new(3);
    runs(house.enter("k", 1));
    house.begin("k");
    waits(&house.enter("k", 1));
    assert!(house.book.pass_on(&call("k")).is_some());
    house.begin("k");
    assert_eq!(house.store.0.keys().copied().collect::<Vec<_>>(), [2]);
    assert_eq!(house.book.pass_on(&call("k")), None);
    // What was not told before the end is told at the next beginning, if it is not known any longer.
    house.restart(Duration::ZERO);
    assert_eq!(house.enter("k", 1), Entered::Ended(Kept::CutOff));
    runs(house.enter("other", 1));
    house.begin("other");
    assert_eq!(house.store.0.keys().copied().collect::<Vec<_>>(), [2, 3]);
}

#[test]
fn of_two_under_one_key_the_later_one_counts() {
    let mut house = House::new(3);
    let stored =
        |number, end| StoredCall { number, method: "m".into(), key: "k".into(), params: u128::from(number), end };
    // Clocks jump: the later one may seem to be the older one.
    let loaded = vec![stored(2, Some((answer("2"), 5 * MINUTE))), stored(1, Some((answer("1"), MINUTE)))];
    assert_eq!(house.book.restore(loaded, house.now), [Change::Forgotten { number: 1 }]);
    assert_eq!(house.enter("k", 2), Entered::Ended(answer("2")));
}

#[derive(Clone, Debug)]
enum Step {
    Enter { key: usize, params: Digest },
    Begin { key: usize },
    End { key: usize, bytes: usize },
    PassOn { key: usize },
    Restart { seconds: u64 },
    Later { seconds: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..4usize, 0..2u128).prop_map(|(key, params)| Step::Enter { key, params }),
        4 => (0..4usize).prop_map(|key| Step::Begin { key }),
        3 => (0..4usize, 0..700usize).prop_map(|(key, bytes)| Step::End { key, bytes }),
        1 => (0..4usize).prop_map(|key| Step::PassOn { key }),
        // What it cuts off ends then, and at the moment of no other.
        1 => (1..200u64).prop_map(|seconds| Step::Restart { seconds }),
        1 => (0..400u64).prop_map(|seconds| Step::Later { seconds }),
    ]
}

proptest! {
    /// However often the program ends, a book without an end and one with a store answer alike, but for what was cut off.
    #[test]
    fn a_store_holds_what_the_book_remembers(steps in vec(step(), 1..80)) {
        let mut house = House::new(3);
        // By key: whether it has begun.
        let mut running = BTreeMap::<usize, bool>::new();
        for step in steps {
            match step {
                Step::Enter { key, params } => {
                    if matches!(house.enter(&key.to_string(), params), Entered::Runs(_)) {
                        prop_assert_eq!(running.insert(key, false), None);
                    }
                }
                Step::Begin { key } => {
                    if let Some(begun @ false) = running.get_mut(&key) {
                        *begun = true;
                        house.begin(&key.to_string());
                    }
                }
                Step::End { key, bytes } => {
                    if running.get(&key) == Some(&true) {
                        running.remove(&key);
                        house.end(&key.to_string(), &Kept::Answer(Bytes::from(vec![b'x'; bytes])));
                    }
                }
                Step::PassOn { key } => {
                    if let Some(begun) = running.get_mut(&key) {
                        *begun = false;
                        if house.book.pass_on(&call(&key.to_string())).is_none() {
                            running.remove(&key);
                        }
                    }
                }
                Step::Restart { seconds } => {
                    let forgotten = house.book.take_forgotten();
                    house.store.write(forgotten, house.now);
                    let before: Vec<_> = ended(&house.book).collect();
                    let cut_off = running.iter().filter(|(_, begun)| **begun).count();
                    house.restart(Duration::from_secs(seconds));
                    let after: Vec<_> = ended(&house.book).collect();
                    // The oldest have gone, and those that were cut off have come.
                    let kept = after.len().saturating_sub(cut_off);
                    prop_assert!(before.ends_with(&after[..kept]), "{:?} {:?}", before, after);
                    prop_assert!(after[kept..].iter().all(|(_, kept)| *kept == Kept::CutOff));
                    running.clear();
                }
                Step::Later { seconds } => house.now += Duration::from_secs(seconds),
            }
            let mut store = house.store.clone();
            store.write(house.book.forgotten.clone(), house.now);
            let begun = running.values().filter(|begun| **begun).count();
            prop_assert_eq!(store.0.len(), house.book.ended.len() + begun);
            prop_assert!(house.book.ended.len() <= 3);
        }
    }
}

/// The oldest first.
fn ended(book: &Book<u32>) -> impl Iterator<Item = (Arc<CallKey>, Kept)> {
    book.ended.iter().map(|call| match &book.entries[call].state {
        State::Ended(kept) => (Arc::clone(call), kept.clone()),
        State::Running(_) => panic!("it has ended"),
    })
}
