//! Those who call through a center, over the connection that all of them share.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use callboard_common::{CallerTag, Feature};
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::KeptAnswers;

/// A router whose `slow` notes what it is asked and waits to be let go on, and the way from a center to it.
struct House {
    router: Router,
    center: Recorder,
    begun: Arc<Mutex<Vec<i64>>>,
    go: Arc<Semaphore>,
}

impl House {
    fn new(slow: Method) -> Self {
        let (begun, go) = (Arc::<Mutex<Vec<i64>>>::default(), Arc::new(Semaphore::new(0)));
        let (begins, goes) = (Arc::clone(&begun), Arc::clone(&go));
        let router = Router::new()
            .kept_answers(KeptAnswers::default().answers(10))
            .method("at once", |n: i64| Ok(n))
            .method_async("soon", async |n: i64| Ok(n))
            .method_async(slow, move |n: i64| {
                begins.lock().unwrap().push(n);
                let goes = Arc::clone(&goes);
                async move {
                    goes.acquire().await?.forget();
                    Ok(n)
                }
            });
        Self { router, center: session(), begun, go }
    }

    /// Calls `method` with a number for this caller.
    fn call(&self, caller: u64, mtype: u32, method: &str, n: i64, meta: &str) {
        let (tag, body) = (CallerTag::new(caller, false), format!(r#"{{"method":"{method}","parameters":{n}{meta}}}"#));
        let id = [n.to_string().as_bytes(), &tag.to_wire()].concat();
        self.router.handle(&self.center, self.center.message(mtype, &id, body.as_bytes()));
    }

    fn give_up(&self, caller: u64, n: i64) {
        let id = [n.to_string().as_bytes(), &CallerTag::new(caller, false).to_wire()].concat();
        self.router.handle(&self.center, self.center.message(20, &id, b"{}"));
    }

    fn begun(&self) -> Vec<i64> {
        self.begun.lock().unwrap().clone()
    }

    async fn until_begun(&self, count: usize) {
        until("so many have begun", || self.begun().len() == count).await;
    }

    /// The calls that were refused, with the limit.
    fn refused(&self) -> Vec<(i64, String)> {
        let sent = self.center.take();
        let refused = sent.iter().filter_map(|sent| {
            let answer: serde_json::Value = serde_json::from_str(&sent.text()).unwrap();
            let id = String::from_utf8_lossy(sent.0.id()).into_owned();
            let limit = answer["error"]["data"]["limit"].as_str()?.to_owned();
            Some((id.split('@').next()?.parse().ok()?, limit))
        });
        refused.collect()
    }
}

#[tokio::test]
async fn callers_behind_one_center_take_turns_and_the_newest_of_whoever_waits_with_most_gives_way() {
    let house = House::new(Method::new("slow").concurrency(1).queue(4));
    (1..=6).for_each(|n| house.call(1, 0, "slow", n, ""));
    (11..=12).for_each(|n| house.call(2, 0, "slow", n, ""));
    let queue = || "queue".to_owned();
    // The last one has no room, and two give way.
    assert_eq!(house.refused(), [(6, queue())]);
    for count in 1..=5 {
        house.until_begun(count).await;
        house.go.add_permits(1);
    }
    until("all calls ended", || house.center.in_flight() == 0).await;
    assert_eq!(house.begun(), [1, 2, 11, 3, 12]);
    let mut refused = house.refused();
    refused.sort();
    assert_eq!(refused, [(4, queue()), (5, queue())]);
}

#[tokio::test]
async fn who_makes_many_calls_under_keys_has_its_own_forgotten_and_not_those_of_others_behind_the_center() {
    let house = House::new(Method::new("slow"));
    house.go.add_permits(1_000);
    let key = |caller, n| format!(r#","meta":{{"idempotency_key":"{caller} {n}"}}"#);
    let all = [(1, 0..3), (2, 3..40), (1, 0..3)];
    for (caller, numbers) in all {
        for n in numbers {
            house.call(caller, 0, "slow", n, &key(caller, n));
            until("it has ended", || house.center.in_flight() == 0).await;
        }
    }
    assert_eq!(house.begun(), (0..40).collect::<Vec<_>>(), "no repeat was run");
}

#[tokio::test]
async fn a_caller_behind_a_center_has_so_many_calls_go_on_that_nobody_waits_for_as_over_a_connection_of_its_own() {
    let key = |n| format!(r#","meta":{{"idempotency_key":"{n}"}}"#);
    for kind in ["one way", "under keys", "that must finish"] {
        let slow = Method::new("slow");
        let house = House::new(if kind == "that must finish" { slow.must_finish() } else { slow });
        // The session permits eight.
        for n in 1..=20 {
            match kind {
                "one way" => house.call(1, ONE_WAY, "slow", n, ""),
                "under keys" => house.call(1, 0, "slow", n, &key(n)),
                _ => house.call(1, 0, "slow", n, ""),
            }
            house.until_begun(usize::try_from(n.min(8)).unwrap()).await;
            house.give_up(1, n);
        }
        let in_flight = || "in_flight".to_owned();
        let refused: Vec<_> = (9..=20).map(|n| (n, in_flight())).collect();
        assert_eq!(house.refused(), if kind == "one way" { vec![] } else { refused }, "{kind}");
        let overloaded = house.center.events().iter().filter(|event| **event == Event::Overloaded).count();
        assert_eq!((house.begun().len(), overloaded), (8, 12), "{kind}");
        // Not what is answered at once, and no other caller.
        house.call(1, 0, "at once", 30, "");
        house.call(1, 0, "soon", 31, "");
        house.call(2, 0, "soon", 32, "");
        house.call(2, ONE_WAY, "slow", 33, "");
        house.until_begun(9).await;
        until("it is answered", || house.center.sent().len() == 3).await;
        assert_eq!(house.refused(), [(31, in_flight())], "{kind}");
        house.go.add_permits(9);
        until("all calls ended", || house.center.in_flight() == 0).await;
        house.center.take();
        house.call(1, 0, "soon", 34, "");
        until("it is answered", || !house.center.sent().is_empty()).await;
        assert_eq!(house.refused(), [], "{kind}");
    }
}

/// Else a caller would say that it is many, and have as many turns.
#[tokio::test]
async fn who_has_connected_to_this_side_is_one_caller_whatever_its_ids_say() {
    let accepted = Session { serving: Some(Limits::default()), ..session().session().unwrap().clone() };
    let old = Session { features: Features::ALL.without(Feature::Callers), ..session().session().unwrap().clone() };
    for session in [accepted, old] {
        let center = Recorder::with_session(7, session);
        let house = House { center, ..House::new(Method::new("slow").concurrency(1).queue(4)) };
        for n in 1..=7 {
            house.call(u64::try_from(n).unwrap(), 0, "slow", n, "");
        }
        let refused: Vec<_> = house.refused().into_iter().map(|(n, _)| n).collect();
        assert_eq!(refused, [6, 7], "none gives way");
        house.go.add_permits(5);
        until("all calls ended", || house.center.in_flight() == 0).await;
    }
}

#[tokio::test]
async fn what_goes_on_beyond_the_connection_to_a_center_is_forgotten_when_it_ends() {
    let house = House::new(Method::new("slow").must_finish());
    for n in 0..4 {
        house.call(1, if n < 2 { ONE_WAY } else { 0 }, "slow", n, "");
    }
    house.until_begun(4).await;
    house.router.closed(&house.center);
    assert!(!house.router.0.keeper().asides.has_room(crate::caller_id::CallerId::behind(2, 1), 4));
    house.go.add_permits(4);
    until("all calls ended", || house.center.in_flight() == 0).await;
    assert!(house.router.0.keeper().asides.is_empty());
}

/// A method that runs in place and takes its time: so the next calls wait for their turn.
struct InPlace {
    router: Router,
    center: Recorder,
    ran: Arc<Mutex<Vec<i64>>>,
}

impl InPlace {
    fn new(change: impl FnOnce(Router) -> Router) -> Self {
        let ran = Arc::<Mutex<Vec<i64>>>::default();
        let runs = Arc::clone(&ran);
        let router = Router::new().method("in place", move |n: i64| {
            std::thread::sleep(crate::backlog::SLICE);
            runs.lock().unwrap().push(n);
            Ok(n)
        });
        Self { router: change(router), center: session(), ran }
    }

    fn call(&self, caller: u64, mtype: u32, n: i64, meta: &str) {
        let body = format!(r#"{{"method":"in place","parameters":{n}{meta}}}"#);
        let id = [n.to_string().as_bytes(), &CallerTag::new(caller, false).to_wire()].concat();
        self.router.handle(&self.center, self.center.message(mtype, &id, body.as_bytes()));
    }

    fn give_up(&self, caller: u64, n: i64) {
        let id = [n.to_string().as_bytes(), &CallerTag::new(caller, false).to_wire()].concat();
        self.router.handle(&self.center, self.center.message(20, &id, b"{}"));
    }

    async fn ran(&self) -> Vec<i64> {
        let backlog = self.router.0.backlogs.known(self.center.id());
        let is_over = || backlog.as_ref().is_none_or(|backlog| backlog.may_run_at_once(tokio::time::Instant::now()));
        until("all calls ended", || self.center.in_flight() == 0 && is_over()).await;
        self.ran.lock().unwrap().clone()
    }

    /// The numbers of those that were answered so.
    fn answered(&self, rcode: i64) -> Vec<i64> {
        let answers =
            self.center.sent().into_iter().filter(|sent| sent.text().contains(&format!(r#""rcode":{rcode}"#)));
        let ids = answers.map(|sent| String::from_utf8_lossy(sent.0.id()).into_owned());
        ids.map(|id| id.split('@').next().unwrap().parse().unwrap()).collect()
    }
}

#[tokio::test]
async fn calls_that_run_in_place_take_turns_too_where_they_take_long() {
    let house = InPlace::new(|router| router);
    (1..=5).for_each(|n| house.call(1, 0, n, ""));
    (11..=12).for_each(|n| house.call(2, 0, n, ""));
    assert_eq!((house.ran.lock().unwrap().clone(), house.center.in_flight()), (vec![1], 6), "the first runs at once");
    assert_eq!(house.ran().await, [1, 2, 11, 3, 12, 4, 5]);
    assert_eq!(house.answered(0), house.ran().await);
    // One that has come directly waits for nobody.
    let direct = Recorder::new(9);
    (21..=22).for_each(|n| house.call(1, 0, n, ""));
    house.router.handle(&direct, direct.message(0, b"d", br#"{"method":"in place","parameters":30}"#));
    assert_eq!(house.ran.lock().unwrap()[7..], [21, 30]);
    assert_eq!(house.ran().await[7..], [21, 30, 22]);
}

#[tokio::test]
async fn a_call_that_waits_to_run_in_place_is_not_run_when_nobody_waits_for_it_or_it_has_no_room() {
    let house = InPlace::new(|router| router);
    house.call(1, 0, 1, "");
    house.call(1, 0, 2, "");
    house.call(1, 0, 3, r#","meta":{"timeout_ms":1}"#);
    house.call(1, ONE_WAY, 4, "");
    house.give_up(1, 2);
    std::thread::sleep(Duration::from_millis(2));
    assert_eq!(house.ran().await, [1, 4]);
    assert_eq!((house.answered(0), house.answered(16)), (vec![1], vec![3]));
    // Those whose connection ends, but for those that nobody waits for.
    (5..=7).for_each(|n| house.call(1, if n == 6 { ONE_WAY } else { 0 }, n, ""));
    house.router.closed(&house.center);
    assert_eq!(house.ran().await, [1, 4, 5, 6]);
    assert_eq!(house.center.events().iter().filter(|event| **event == Event::Cancelled).count(), 2);
    assert!(house.router.0.backlogs.known(house.center.id()).is_none());

    let house = InPlace::new(|router| router.queue_bytes(700).queue_age(Duration::ZERO));
    house.call(1, 0, 1, "");
    (2..=4).for_each(|n| house.call(1, ONE_WAY, n, ""));
    house.call(2, 0, 11, "");
    assert_eq!(
        house.ran().await,
        [1, 2],
        "the third and fourth find no room or give way, and the last one waits too long"
    );
    assert_eq!(house.answered(17), [11]);
}

#[tokio::test]
async fn where_calls_have_taken_long_no_answer_waits_for_the_next_one() {
    let (center, written) = (session(), Arc::new(AtomicUsize::new(0)));
    let (sends, count, wakes) = (center.clone(), Arc::clone(&written), Arc::new(Notify::new()));
    let seen = Arc::<Mutex<Vec<(i64, usize)>>>::default();
    let (begun, to_write) = (Arc::clone(&seen), Arc::clone(&wakes));
    let router = Router::new().method("in place", move |n: i64| {
        to_write.notify_one();
        begun.lock().unwrap().push((n, written.load(SeqCst)));
        if n % 2 == 1 {
            std::thread::sleep(crate::backlog::SLICE);
        }
        Ok(n)
    });
    // As who writes to a socket: woken by the first that is to be written, it has all that is there when its turn comes.
    let writer = tokio::spawn(async move {
        loop {
            wakes.notified().await;
            count.store(sends.sent().len(), SeqCst);
        }
    });
    let house = InPlace { router, center, ran: Arc::default() };
    for n in [1, 2, 3, 4, 6, 8] {
        house.call(1, 0, n, "");
    }
    house.ran().await;
    writer.abort();
    assert_eq!(seen.lock().unwrap()[3..], [(4, 3), (6, 4), (8, 5)]);
}
