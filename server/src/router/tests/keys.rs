//! Calls under idempotency keys.

use std::sync::Arc;

use tokio::time::sleep;

use super::*;
use crate::KeptAnswers;
use crate::caller_id::CallerId;
use crate::shelf::Placed;

mod stored;

/// Counts its runs, which wait to be let go on; one that is asked for less than nothing panics.
#[derive(Default)]
struct Counted {
    runs: Arc<AtomicUsize>,
    go: Arc<Notify>,
}

impl Counted {
    fn runs(&self) -> usize {
        self.runs.load(SeqCst)
    }

    /// In each way to run; the one that is a task waits.
    fn router(&self) -> Router {
        let count = || {
            let runs = Arc::clone(&self.runs);
            move |n: i64| {
                runs.fetch_add(1, SeqCst);
                assert!(n >= 0, "less than nothing");
                if n == 7 { Err(MethodError::new(7, "seven")) } else { Ok(n * 10) }
            }
        };
        let (waits, go) = (count(), Arc::clone(&self.go));
        Router::new()
            .method("inline", count())
            .method_blocking("blocking", count())
            .method_async("task", count_async(count()))
            .method_async(Method::new("slow").concurrency(1).queue(1), move |n: i64| {
                let (outcome, go) = (waits(n), Arc::clone(&go));
                async move {
                    go.notified().await;
                    outcome
                }
            })
    }
}

fn count_async<R: Send>(
    count: impl Fn(i64) -> Result<R, MethodError> + Send + Sync + 'static,
) -> impl Fn(i64) -> std::future::Ready<Result<R, MethodError>> + Send + Sync + 'static {
    move |n| std::future::ready(count(n))
}

fn keyed(method: &str, n: i64, key: &str) -> String {
    let key = serde_json::to_string(key).unwrap();
    format!(r#"{{"method":"{method}","parameters":{n},"meta":{{"idempotency_key":{key}}}}}"#)
}

fn send(router: &Router, conn: &Recorder, id: &str, body: &str) {
    router.handle(conn, conn.message(0, id.as_bytes(), body.as_bytes()));
}

fn answers(conn: &Recorder) -> Vec<String> {
    conn.take().iter().map(|sent| format!("{}: {}", String::from_utf8_lossy(sent.0.id()), sent.text())).collect()
}

fn cut_off(method: &str) -> String {
    let text = format!(
        "its provider ended after method \"{method}\" may have begun for the first call under this idempotency key and before it \
         had answered, and does not run it again; find out what it did, then call under a new key if need be"
    );
    error(8, &text, "unknown", "")
}

/// Waits for what nobody tells, in a time that is made up.
async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        sleep(Duration::from_millis(1)).await;
    }
    panic!("it did not come about: {what}");
}

#[tokio::test]
async fn a_repeat_gets_the_answer_of_the_first_however_the_method_runs() {
    for way in ["inline", "task", "blocking"] {
        let counted = Counted::default();
        let router = counted.router();
        let panicked = format!("method \"{way}\" panicked; its provider's log says why");
        let rows =
            [(1, result("10")), (7, error(64, "seven", "yes", r#","code":7"#)), (-1, error(8, &panicked, "yes", ""))];
        for (runs, (n, expected)) in (1..).zip(rows) {
            for _ in 0..3 {
                // Over another connection, too.
                assert_eq!(answer(&router, &session(), &keyed(way, n, &format!("key {n}"))).await, expected, "{way}");
            }
            assert_eq!(counted.runs(), runs, "{way} {n}");
        }
        assert_eq!(answer(&router, &session(), &keyed(way, 1, "another")).await, result("10"));
        assert_eq!(counted.runs(), 4, "{way}");
    }
}

#[tokio::test]
async fn the_same_key_with_other_parameters_is_a_conflict_and_is_not_executed() {
    let counted = Counted::default();
    let (router, conn) = (counted.router(), session());
    answer(&router, &conn, &keyed("inline", 1, "k")).await;
    let text = r#"method "inline" was called under this idempotency key with other parameters; take a new key"#;
    assert_eq!(answer(&router, &conn, &keyed("inline", 2, "k")).await, error(23, text, "no", ""));
    // The keys of one method are not those of another.
    assert_eq!(answer(&router, &conn, &keyed("task", 2, "k")).await, result("20"));
    assert_eq!((counted.runs(), conn.events()), (2, vec![Event::Refused]));
}

#[tokio::test]
async fn what_becomes_of_calls_under_keys_is_counted() {
    let counted = Counted::default();
    let (router, conn) = (counted.router(), session());
    for (n, key) in [(1, "k"), (1, "k"), (2, "k"), (3, "other")] {
        answer(&router, &conn, &keyed("inline", n, key)).await;
    }
    let seen = router.clone().kept_metrics();
    assert_eq!((seen.stored, seen.repeated, seen.conflicts, seen.remembered), (2, 1, 1, 2));
    assert_eq!((seen.running, seen.evicted, seen.expired), (0, 0, 0));
    assert!(seen.bytes > 512, "{seen:?}");
}

#[tokio::test]
async fn what_is_no_key_is_refused_and_peers_that_know_of_none_have_none() {
    let counted = Counted::default();
    let (router, conn) = (counted.router(), session());
    let long = "x".repeat(256);
    for bad in ["", &long] {
        let text = answer(&router, &conn, &keyed("inline", 1, bad)).await;
        assert!(text.starts_with(r#"{"rcode":2,"#) && text.contains(r#""executed":"no""#), "{text}");
    }
    let text = answer(&router, &conn, r#"{"method":"inline","parameters":1,"meta":{"idempotency_key":7}}"#).await;
    assert!(text.starts_with(r#"{"rcode":2,"#), "{text}");
    assert_eq!(counted.runs(), 0);
    assert_eq!(answer(&router, &conn, &keyed("inline", 1, &long[1..])).await, result("10"));
    for _ in 0..2 {
        assert_eq!(answer(&router, &v1(), &keyed("inline", 1, "k")).await, result("10"));
    }
    assert_eq!(counted.runs(), 3);
}

#[tokio::test(start_paused = true)]
async fn repeats_wait_for_the_first_and_one_whose_time_is_over_is_told_that_nobody_knows() {
    let counted = Counted::default();
    let (router, conn, other) = (counted.router(), session(), session());
    send(&router, &conn, "1", &keyed("slow", 1, "k"));
    until("it runs", || counted.runs() == 1).await;
    send(&router, &other, "2", &keyed("slow", 1, "k"));
    let hurried = keyed("slow", 1, "k").replace(r#""meta":{"#, r#""meta":{"timeout_ms":50,"#);
    send(&router, &conn, "3", &hurried);
    until("its time is over", || !conn.sent().is_empty()).await;
    let text = r#"method "slow" still runs for the first call under this idempotency key; ask again later"#;
    assert_eq!(answers(&conn), [format!("3: {}", error(16, text, "unknown", ""))]);
    counted.go.notify_one();
    until("both are answered", || conn.in_flight() + other.in_flight() == 0).await;
    let ten = result("10");
    assert_eq!((answers(&conn), answers(&other)), (vec![format!("1: {ten}")], vec![format!("2: {ten}")]));
    assert_eq!(counted.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn repeats_that_wait_are_bounded_in_bytes_and_leave_room_to_those_of_others() {
    let counted = Counted::default();
    let another = |id| Recorder::with_session(id, session().session().unwrap().clone());
    let (router, [greedy, other]) = (counted.router().queue_bytes(30_000), [11, 12].map(another));
    // Nobody looks at it, and it takes room.
    let large = keyed("slow", 1, "k").replace('{', &format!(r#"{{"pad":"{}","#, "x".repeat(500)));
    for runs in 1..=2 {
        let large = large.replace(r#""k""#, &format!(r#""k{runs}""#));
        send(&router, &greedy, "first", &large);
        until("it runs", || counted.runs() == runs).await;
        (0..10).for_each(|n| send(&router, &greedy, &n.to_string(), &large));
        send(&router, &other, "its own", &large);
        assert_eq!((greedy.in_flight(), other.in_flight()), (1 + 4, 1));
        let text = "method \"slow\" is busy, and no more than 30000 bytes of calls may wait; call again later";
        let refused = error(17, text, "no", r#","data":{"limit":"queue_bytes","bound":30000}"#);
        let expected: Vec<_> = (4..10).map(|n| format!("{n}: {refused}")).collect();
        assert_eq!(answers(&greedy), expected);
        counted.go.notify_one();
        until("all are answered", || greedy.in_flight() + other.in_flight() == 0).await;
        assert_eq!((answers(&greedy).len(), answers(&other).len()), (1 + 4, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_small_repeats_wait_than_there_is_memory_for_though_their_connections_come_and_go() {
    let counted = Counted::default();
    let router = counted.router().queue_bytes(1 << 20);
    for runs in 1..=2 {
        let (key, first) = (format!("k{runs}"), session());
        send(&router, &first, "first", &keyed("slow", 1, &key));
        until("it runs", || counted.runs() == runs).await;
        let conns: Vec<_> =
            (10..2_010).map(|id| Recorder::with_session(id, first.session().unwrap().clone())).collect();
        for conn in &conns {
            router.handle(conn, conn.message(ONE_WAY, b"", keyed("slow", 1, &key).as_bytes()));
            Handler::closed(&router, conn);
        }
        let waiting = || conns.iter().map(Recorder::in_flight).sum::<usize>();
        assert!((400..=512).contains(&waiting()), "{} in 1 MiB", waiting());
        counted.go.notify_one();
        until("none waits", || waiting() == 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_has_begun_goes_on_without_its_caller_and_its_answer_is_there_for_the_next() {
    let counted = Counted::default();
    let (router, conn) = (counted.router(), session());
    send(&router, &conn, "1", &keyed("slow", 1, "k"));
    until("it runs", || counted.runs() == 1).await;
    Handler::closed(&router, &conn);
    counted.go.notify_one();
    let another = Recorder::with_session(12, session().session().unwrap().clone());
    assert_eq!(answer(&router, &another, &keyed("slow", 1, "k")).await, result("10"));
    assert_eq!(counted.runs(), 1);
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_or_given_up_before_it_began_is_not_remembered_and_the_next_one_runs() {
    let counted = Counted::default();
    let another = |id| Recorder::with_session(id, session().session().unwrap().clone());
    let (router, busy, conn, other) = (counted.router(), another(11), another(12), another(13));
    send(&router, &busy, "1", &keyed("slow", 1, "busy"));
    until("it runs", || counted.runs() == 1).await;
    // One waits for its turn, another one for that.
    send(&router, &conn, "2", &keyed("slow", 2, "k"));
    send(&router, &other, "3", &keyed("slow", 2, "k"));
    sleep(Duration::from_millis(5)).await;
    let full = answer(&router, &session(), &keyed("slow", 3, "refused")).await;
    assert!(full.starts_with(r#"{"rcode":17,"#) && full.contains(r#""executed":"no""#), "{full}");
    Handler::closed(&router, &conn);
    counted.go.notify_one();
    until("the next one runs", || counted.runs() == 2).await;
    counted.go.notify_one();
    until("it is answered", || other.in_flight() == 0).await;
    assert_eq!(answers(&other), [format!("3: {}", result("20"))]);
    // What was refused can be called again, with other parameters as well.
    let bad = answer(&router, &conn, r#"{"method":"inline","parameters":"x","meta":{"idempotency_key":"p"}}"#).await;
    assert!(bad.starts_with(r#"{"rcode":4,"#), "{bad}");
    assert_eq!(answer(&router, &session(), &keyed("inline", 5, "p")).await, result("50"));
    assert_eq!(answer(&router, &session(), &keyed("inline", 5, "refused")).await, result("50"));
}

#[tokio::test(start_paused = true)]
async fn one_that_is_cut_off_is_not_run_again_and_nobody_knows_what_it_did() {
    let counted = Counted::default();
    let (router, conn, waits) = (counted.router(), session(), session());
    let first = router.0.shelf().enter(CallerId::direct(2), "slow", "k", b"1");
    let Placed::First(mut first) = first else { panic!("nobody was before it") };
    send(&router, &waits, "1", &keyed("slow", 1, "k"));
    first.begin();
    drop(first);
    until("it is told", || waits.in_flight() == 0).await;
    let unknown = cut_off("slow");
    assert_eq!(answers(&waits), [format!("1: {unknown}")]);
    assert_eq!((answer(&router, &conn, &keyed("slow", 1, "k")).await, counted.runs()), (unknown, 0));
}

#[tokio::test(start_paused = true)]
async fn repeats_that_were_given_up_leave_nothing_behind_and_the_first_ten_thousand_do_not_stop_the_next() {
    let counted = Counted::default();
    let router = counted.router();
    let first = router.0.shelf().enter(CallerId::direct(2), "inline", "k", b"1");
    for _ in 0..10_000 {
        drop(router.0.shelf().enter(CallerId::direct(2), "inline", "k", b"1"));
    }
    let waits: Vec<_> = (0..10_000).map(|_| router.0.shelf().enter(CallerId::direct(2), "inline", "k", b"1")).collect();
    // In an order in which the turn is handed to some that go in the next moment.
    drop(first);
    drop(waits);
    assert_eq!((answer(&router, &session(), &keyed("inline", 1, "k")).await, counted.runs()), (result("10"), 1));
}

#[tokio::test(start_paused = true)]
async fn the_window_is_a_setting_and_an_answer_beyond_it_is_known_to_have_been_given() {
    let counted = Counted::default();
    let kept = KeptAnswers::default().answers(2).bytes(2_000).age(Duration::from_secs(5));
    let router = counted.router().method("huge", |bytes: usize| Ok(huge(bytes))).kept_answers(kept);
    for key in ["a", "b", "c", "b", "c"] {
        answer(&router, &session(), &keyed("inline", 1, key)).await;
    }
    assert_eq!(counted.runs(), 3);
    answer(&router, &session(), &keyed("inline", 1, "a")).await;
    assert_eq!(counted.runs(), 4, "it was forgotten as the oldest");
    sleep(Duration::from_secs(5)).await;
    answer(&router, &session(), &keyed("inline", 1, "a")).await;
    assert_eq!(counted.runs(), 5, "it was forgotten after its time");
    assert_eq!(answer(&router, &session(), &keyed("huge", 3_000, "h")).await.len(), result("\"\"").len() + 3_000);
    let text = "method \"huge\" was executed for the first call under this idempotency key, but its answer of 3023 bytes was \
                too large to be kept";
    let expected = error(21, text, "yes", r#","data":{"limit":"kept_answer_bytes","bound":2000}"#);
    assert_eq!(answer(&router, &session(), &keyed("huge", 3_000, "h")).await, expected);
}

#[tokio::test]
async fn nobody_has_the_keys_of_others_forgotten_by_many_of_its_own() {
    let counted = Counted::default();
    let router = counted.router().kept_answers(KeptAnswers::default().answers(10));
    let [honest, greedy] = [1, 2].map(|id| Recorder::with_session(id, session().session().unwrap().clone()));
    answer(&router, &honest, &keyed("inline", 1, "order-17")).await;
    for key in 0..30 {
        answer(&router, &greedy, &keyed("task", 1, &key.to_string())).await;
    }
    assert_eq!(counted.runs(), 31);
    for (key, runs) in [("order-17", 31), ("other", 32), ("order-17", 32)] {
        assert_eq!(answer(&router, &honest, &keyed("inline", 1, key)).await, result("10"));
        assert_eq!(counted.runs(), runs, "{key}");
    }
}

#[tokio::test]
async fn a_one_way_call_under_a_key_is_executed_once_too() {
    let counted = Counted::default();
    let (router, conn) = (counted.router(), session());
    for _ in 0..2 {
        router.handle(&conn, conn.message(ONE_WAY, b"", keyed("inline", 1, "k").as_bytes()));
    }
    assert_eq!(answer(&router, &conn, &keyed("inline", 1, "k")).await, result("10"));
    assert_eq!(counted.runs(), 1);
}
