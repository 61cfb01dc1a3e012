//! Calls under keys that are written down.

use std::sync::Condvar;

use bytes::Bytes;

use super::*;
use crate::answer_store::{AnswerStore, Change, Kept, StoreError, StoredCall};

/// A store in memory, which outlives its routers, fails and stands still as it is told to.
#[derive(Clone, Debug, Default)]
struct Disk(Arc<(Mutex<Content>, Condvar)>);

#[derive(Debug, Default)]
struct Content {
    calls: Vec<StoredCall>,
    fails: bool,
    stands_still: bool,
    /// It waits to be let go on.
    waits: bool,
    writes: usize,
}

impl AnswerStore for Disk {
    fn id(&self) -> &'static str {
        "disk-1"
    }

    fn load(&mut self) -> Result<Vec<StoredCall>, StoreError> {
        if self.content(|content| content.fails) { Err(broken()) } else { Ok(self.calls()) }
    }

    fn write(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        let (content, moves) = &*self.0;
        let mut content = content.lock().unwrap();
        while content.stands_still {
            content.waits = true;
            content = moves.wait(content).unwrap();
        }
        content.waits = false;
        if content.fails {
            return Err(broken());
        }
        content.writes += 1;
        for change in changes.iter().cloned() {
            match change {
                Change::Began { number, method, key, params } => {
                    content.calls.push(StoredCall { number, method, key, params, end: None });
                }
                Change::Ended { number, kept } => {
                    let call = content.calls.iter_mut().find(|call| call.number == number).unwrap();
                    call.end = Some((kept, Duration::ZERO));
                }
                Change::Forgotten { number } => content.calls.retain(|call| call.number != number),
            }
        }
        Ok(())
    }
}

impl Disk {
    fn content<T>(&self, with: impl FnOnce(&mut Content) -> T) -> T {
        let outcome = with(&mut self.0.0.lock().unwrap());
        self.0.1.notify_all();
        outcome
    }

    fn calls(&self) -> Vec<StoredCall> {
        self.content(|content| content.calls.clone())
    }

    fn kept(&self) -> Vec<Option<Kept>> {
        self.calls().into_iter().map(|call| call.end.map(|(kept, _)| kept)).collect()
    }

    /// A program with this store.
    fn router(&self, counted: &Counted) -> Router {
        counted.router().kept_answers(KeptAnswers::default().stored_in(self.clone()).unwrap())
    }
}

fn broken() -> StoreError {
    StoreError::Failed { place: "disk".into(), why: "broken".into() }
}

/// Waits in real time, since the store has a thread of its own.
async fn until(what: &str, done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(Duration::from_mins(1), wait).await.unwrap_or_else(|_| panic!("waited in vain until {what}"));
}

#[tokio::test]
async fn a_repeat_after_a_restart_gets_the_answer_of_before_however_the_method_runs() {
    for way in ["inline", "task", "blocking"] {
        let (disk, counted) = (Disk::default(), Counted::default());
        let panicked = format!("method \"{way}\" panicked; its provider's log says why");
        let rows =
            [(1, result("10")), (7, error(64, "seven", "yes", r#","code":7"#)), (-1, error(8, &panicked, "yes", ""))];
        for _ in 0..3 {
            let router = disk.router(&counted);
            for (n, expected) in &rows {
                assert_eq!(answer(&router, &session(), &keyed(way, *n, &format!("key {n}"))).await, *expected, "{way}");
            }
            let other = answer(&router, &session(), &keyed(way, 2, "key 1")).await;
            assert!(other.starts_with(r#"{"rcode":23"#), "{other}");
        }
        assert_eq!((counted.runs(), disk.calls().len()), (3, 3));
    }
}

#[tokio::test]
async fn a_call_is_written_down_before_it_runs_and_its_answer_before_it_is_told() {
    let (disk, counted, conn) = (Disk::default(), Counted::default(), session());
    let router = disk.router(&counted);
    disk.content(|content| content.stands_still = true);
    send(&router, &conn, "1", &keyed("slow", 1, "k"));
    until("it is being written down", || disk.content(|content| content.waits)).await;
    assert_eq!((counted.runs(), conn.in_flight()), (0, 1));
    disk.content(|content| content.stands_still = false);
    until("it runs", || counted.runs() == 1).await;
    assert_eq!(disk.kept(), [None]);
    disk.content(|content| content.stands_still = true);
    counted.go.notify_one();
    until("its answer is being written down", || disk.content(|content| content.waits)).await;
    assert!(answers(&conn).is_empty());
    disk.content(|content| content.stands_still = false);
    until("it is answered", || conn.in_flight() == 0).await;
    assert_eq!(answers(&conn), [format!("1: {}", result("10"))]);
    assert_eq!(disk.kept(), [Some(Kept::Answer(Bytes::from(result("10"))))]);
}

#[tokio::test]
async fn what_was_running_when_the_program_ended_is_not_run_again_and_nobody_knows_what_it_did() {
    let (disk, counted, conn) = (Disk::default(), Counted::default(), session());
    let router = disk.router(&counted);
    send(&router, &conn, "1", &keyed("slow", 1, "k"));
    until("it runs", || counted.runs() == 1).await;
    for _ in 0..2 {
        let next = disk.router(&counted);
        assert_eq!(answer(&next, &session(), &keyed("slow", 1, "k")).await, cut_off("slow"));
        until("it is told", || disk.kept() == [Some(Kept::CutOff)]).await;
    }
    assert_eq!(counted.runs(), 1);
    counted.go.notify_one();
    until("it ends", || conn.in_flight() == 0).await;
}

#[tokio::test]
async fn while_it_can_not_be_written_down_a_call_is_refused_and_others_are_not() {
    let (disk, counted, conn) = (Disk::default(), Counted::default(), session());
    let router = disk.router(&counted);
    disk.content(|content| content.fails = true);
    let text = "method \"inline\" was not run: its idempotency key can't be written down, and the log of this provider says \
                why; call another one, or again later";
    for _ in 0..2 {
        assert_eq!(answer(&router, &conn, &keyed("inline", 1, "k")).await, error(22, text, "no", ""));
    }
    assert_eq!(conn.events(), [Event::Refused; 2]);
    assert_eq!(answer(&router, &conn, r#"{"method":"inline","parameters":1}"#).await, result("10"));
    disk.content(|content| content.fails = false);
    assert_eq!(answer(&router, &conn, &keyed("inline", 1, "k")).await, result("10"));
    assert_eq!((counted.runs(), disk.calls().len()), (2, 1));
}

#[tokio::test]
async fn an_answer_that_can_not_be_written_down_is_told_and_remembered_until_the_program_ends() {
    let (disk, counted, conn) = (Disk::default(), Counted::default(), session());
    let router = disk.router(&counted);
    send(&router, &conn, "1", &keyed("slow", 1, "k"));
    until("it runs", || counted.runs() == 1).await;
    disk.content(|content| content.fails = true);
    counted.go.notify_one();
    until("it is answered", || conn.in_flight() == 0).await;
    assert_eq!(answers(&conn), [format!("1: {}", result("10"))]);
    assert_eq!(answer(&router, &conn, &keyed("slow", 1, "k")).await, result("10"));
    disk.content(|content| content.fails = false);
    assert_eq!(answer(&disk.router(&counted), &conn, &keyed("slow", 1, "k")).await, cut_off("slow"));
    assert_eq!(counted.runs(), 1);
}

#[tokio::test]
async fn a_disk_that_stands_still_keeps_a_call_until_its_deadline_and_then_it_is_not_run() {
    let (disk, counted, conn) = (Disk::default(), Counted::default(), session());
    let router = disk.router(&counted);
    disk.content(|content| content.stands_still = true);
    let hurried = keyed("inline", 1, "k").replace(r#""meta":{"#, r#""meta":{"timeout_ms":50,"#);
    let text =
        "method \"inline\" was not run: the caller's deadline passed before its idempotency key was written down";
    assert_eq!(answer(&router, &conn, &hurried).await, error(16, text, "no", ""));
    assert_eq!(conn.events(), [Event::Expired]);
    disk.content(|content| content.stands_still = false);
    // It is forgotten, though it was written down after all: else a restart would take it for one that may have run.
    assert_eq!(answer(&router, &conn, &keyed("inline", 2, "other")).await, result("20"));
    assert_eq!((counted.runs(), disk.kept().len()), (1, 1));
    assert_eq!(answer(&router, &conn, &keyed("inline", 1, "k")).await, result("10"));
}

#[tokio::test]
async fn a_disk_that_stands_still_keeps_no_places_from_calls_that_need_none_of_it() {
    for way in ["task", "blocking"] {
        let (disk, counted, conn) = (Disk::default(), Counted::default(), with_id(22));
        let router = disk.router(&counted).concurrency(1).blocking_threads(1);
        disk.content(|content| content.stands_still = true);
        send(&router, &conn, "1", &keyed(way, 1, "k"));
        send(&router, &conn, "2", &keyed(way, 2, "l"));
        until("one is being written down", || disk.content(|content| content.waits)).await;
        let plain = answer(&router, &session(), &format!(r#"{{"method":"{way}","parameters":3}}"#)).await;
        assert_eq!((plain, counted.runs()), (result("30"), 1));
        disk.content(|content| content.stands_still = false);
        until("they are answered", || conn.in_flight() == 0).await;
        assert_eq!((counted.runs(), disk.kept().len()), (3, 2));
    }
}

#[tokio::test]
async fn who_finds_no_room_is_not_written_down() {
    let (disk, counted, conn) = (Disk::default(), Counted::default(), with_id(23));
    let router = disk.router(&counted).concurrency(1).queue(0);
    send(&router, &conn, "1", r#"{"method":"slow","parameters":1}"#);
    until("it runs", || counted.runs() == 1).await;
    let refused = answer(&router, &session(), &keyed("slow", 2, "k")).await;
    assert!(refused.starts_with(r#"{"rcode":17,"#), "{refused}");
    assert_eq!(disk.content(|content| content.writes), 0);
    counted.go.notify_one();
    until("it is answered", || conn.in_flight() == 0).await;
}

#[tokio::test]
async fn that_a_call_was_not_executed_is_known_after_a_restart_too() {
    let (disk, counted) = (Disk::default(), Counted::default());
    let router = disk.router(&counted);
    let bad =
        answer(&router, &session(), r#"{"method":"inline","parameters":"x","meta":{"idempotency_key":"p"}}"#).await;
    assert!(bad.starts_with(r#"{"rcode":4"#), "{bad}");
    until("it is forgotten", || disk.calls().is_empty()).await;
    // So it is where there was no room for that while the program ran.
    disk.content(|content| content.stands_still = true);
    let hurried = keyed("inline", 1, "k").replace(r#""meta":{"#, r#""meta":{"timeout_ms":50,"#);
    assert!(answer(&router, &session(), &hurried).await.starts_with(r#"{"rcode":16"#));
    disk.content(|content| content.stands_still = false);
    drop(router);
    until("its thread has ended", || Arc::strong_count(&disk.0) == 1).await;
    let again = disk.router(&counted);
    assert_eq!(answer(&again, &session(), &keyed("inline", 1, "k")).await, result("10"));
}

/// The loop is late: when it looks, the call is written down and its time is over.
#[tokio::test(start_paused = true)]
async fn a_call_that_is_written_down_in_time_and_would_begin_after_it_is_not_run() {
    let (disk, counted, conn) = (Disk::default(), Counted::default(), session());
    let router = disk.router(&counted);
    disk.content(|content| content.stands_still = true);
    let hurried = keyed("inline", 1, "k").replace(r#""meta":{"#, r#""meta":{"timeout_ms":50,"#);
    send(&router, &conn, "1", &hurried);
    while !disk.content(|content| content.waits) {
        yield_now().await;
    }
    send(&router, &conn, "2", &keyed("inline", 2, "other"));
    yield_now().await;
    disk.content(|content| content.stands_still = false);
    // When the second is written, the first is told that it was.
    while disk.content(|content| content.writes) < 2 {
        std::thread::yield_now();
    }
    tokio::time::advance(Duration::from_millis(60)).await;
    while conn.in_flight() > 0 {
        yield_now().await;
    }
    let text =
        "method \"inline\" was not run: the caller's deadline passed before its idempotency key was written down";
    assert_eq!(answers(&conn), [format!("1: {}", error(16, text, "no", "")), format!("2: {}", result("20"))]);
    assert_eq!(counted.runs(), 1);
}

#[tokio::test]
async fn what_waits_for_the_disk_is_bounded() {
    let (disk, counted) = (Disk::default(), Counted::default());
    let router = disk.router(&counted);
    disk.content(|content| content.stands_still = true);
    let conns: Vec<_> = (0..).map(|n| with_id(n + 10)).take(2_000 / 8).collect();
    send(&router, &conns[0], "first", &keyed("inline", 1, "first"));
    until("it stands still", || disk.content(|content| content.waits)).await;
    for (conn, n) in conns.iter().flat_map(|conn| (0..7).map(move |n| (conn, n))).take(1_025) {
        send(&router, conn, &n.to_string(), &keyed("inline", 1, &format!("{:?} {n}", conn.id())));
    }
    let in_flight = || conns.iter().map(Recorder::in_flight).sum::<usize>();
    until("one is refused", || in_flight() == 1_025).await;
    let refused: Vec<_> = conns.iter().flat_map(answers).collect();
    let text =
        "method \"inline\" was not run: 1024 calls under idempotency keys wait to be written down; call again later";
    let expected = error(17, text, "no", r#","data":{"limit":"answer_store_queue","bound":1024}"#);
    assert!(refused.len() == 1 && refused[0].ends_with(&expected), "{refused:?}");
    disk.content(|content| content.stands_still = false);
    until("all others are answered", || in_flight() == 0).await;
    assert_eq!((counted.runs(), disk.calls().len()), (1_025, 1_025));
    let writes = disk.content(|content| content.writes);
    // The first one's begin, those of all that waited, and at most each end by itself.
    assert!(writes <= 2 + 1_025, "they are written together: {writes}");
}

/// While it is being written down, and once that is done and its task has not seen it.
#[tokio::test]
async fn what_is_given_up_before_its_handler_was_asked_is_not_run_though_it_is_written_down() {
    for is_written in [false, true] {
        for ends in [false, true] {
            let (disk, counted, conn) = (Disk::default(), Counted::default(), with_id(20));
            let router = disk.router(&counted);
            disk.content(|content| content.stands_still = true);
            send(&router, &conn, "1", &keyed("inline", 1, "k"));
            until("it is being written down", || disk.content(|content| content.waits)).await;
            let other = with_id(21);
            send(&router, &other, "2", &keyed("inline", 2, "other"));
            yield_now().await;
            disk.content(|content| content.stands_still = !is_written);
            // When the second is written, the first is told that it was.
            while is_written && disk.content(|content| content.writes) < 2 {
                std::thread::yield_now();
            }
            if ends {
                Handler::closed(&router, &conn);
            } else {
                router.handle(&conn, conn.message(MessageType::Cancel.to_wire().into(), b"1", b""));
            }
            assert_eq!((conn.in_flight(), conn.events()), (0, vec![Event::Cancelled]));
            disk.content(|content| content.stands_still = false);
            until("the other one is answered", || other.in_flight() == 0).await;
            assert_eq!(counted.runs(), 1);
            // With other parameters: nothing is remembered of the first, nor by the store once it has heard of another one.
            assert_eq!(answer(&router, &session(), &keyed("inline", 3, "k")).await, result("30"));
            let kept = ["20", "30"].map(|number| Some(Kept::Answer(Bytes::from(result(number)))));
            assert_eq!((counted.runs(), disk.kept()), (2, kept.to_vec()));
            assert_eq!(answers(&conn), Vec::<String>::new());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_time_that_a_call_is_written_down_for_says_nothing_of_how_busy_its_method_is() {
    let (disk, conn) = (Disk::default(), session());
    let method = Method::new("quick").adaptive_concurrency(1, 4, Duration::from_mins(1)).queue(0);
    let router = Router::new().method_async(method, |n: i64| async move {
        if n >= 100 {
            std::future::pending::<()>().await;
        }
        Ok(n)
    });
    let router = router.kept_answers(KeptAnswers::default().stored_in(disk.clone()).unwrap());
    disk.content(|content| content.stands_still = true);
    send(&router, &conn, "1", &keyed("quick", 1, "k"));
    while !disk.content(|content| content.waits) {
        yield_now().await;
    }
    tokio::time::advance(Duration::from_mins(2)).await;
    disk.content(|content| content.stands_still = false);
    while conn.in_flight() > 0 {
        yield_now().await;
    }
    // It has grown with a call that was quick.
    (100..104).for_each(|n| send(&router, &conn, "2", &format!(r#"{{"method":"quick","parameters":{n}}}"#)));
    assert_eq!(conn.in_flight(), 2);
}

#[tokio::test]
async fn one_whose_parameters_do_not_fit_is_forgotten_by_the_store_too() {
    let (disk, counted, conn) = (Disk::default(), Counted::default(), session());
    let router = disk.router(&counted);
    let bad = answer(&router, &conn, r#"{"method":"inline","parameters":"x","meta":{"idempotency_key":"p"}}"#).await;
    assert!(bad.starts_with(r#"{"rcode":4"#), "{bad}");
    assert_eq!(answer(&router, &conn, &keyed("inline", 5, "p")).await, result("50"));
    assert_eq!(disk.kept().len(), 1);
}

#[tokio::test]
async fn its_thread_ends_with_the_router() {
    let (disk, counted) = (Disk::default(), Counted::default());
    let router = disk.router(&counted);
    answer(&router, &session(), &keyed("inline", 1, "k")).await;
    drop(router);
    until("nobody else has the store", || Arc::strong_count(&disk.0) == 1).await;
    disk.content(|content| content.fails = true);
    let error = KeptAnswers::default().stored_in(disk).unwrap_err();
    assert_eq!(error.to_string(), "the answers in disk can't be read or written: broken");
}

fn with_id(id: u64) -> Recorder {
    Recorder::with_session(id, session().session().unwrap().clone())
}
