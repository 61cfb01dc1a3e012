//! How many calls run and wait, and what becomes of those whose callers have gone.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use tokio::sync::Semaphore;

use super::*;

/// A method of this name that notes what it is asked, and waits to be let go on.
struct Slow {
    begun: Arc<Mutex<Vec<i64>>>,
    ended: Arc<AtomicUsize>,
    go: Arc<Semaphore>,
}

impl Slow {
    fn new() -> Self {
        Self { begun: Arc::default(), ended: Arc::default(), go: Arc::new(Semaphore::new(0)) }
    }

    fn add(&self, router: Router, method: Method) -> Router {
        let (begun, ended, go) = (Arc::clone(&self.begun), Arc::clone(&self.ended), Arc::clone(&self.go));
        router.method_async(method, move |n: i64| {
            begun.lock().unwrap().push(n);
            let (ended, go) = (Arc::clone(&ended), Arc::clone(&go));
            async move {
                go.acquire().await?.forget();
                ended.fetch_add(1, SeqCst);
                Ok(n)
            }
        })
    }

    fn begun(&self) -> Vec<i64> {
        self.begun.lock().unwrap().clone()
    }
}

/// Waits for what nobody tells, in a time that is made up.
async fn until(what: &str, done: impl Fn() -> bool) {
    for _ in 0..100_000 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    panic!("it did not come about: {what}");
}

fn call(router: &Router, conn: &Recorder, method: &str, n: i64, meta: &str) {
    let body = format!(r#"{{"method":"{method}","parameters":{n}{meta}}}"#);
    router.handle(conn, conn.message(0, n.to_string().as_bytes(), body.as_bytes()));
}

fn answers(conn: &Recorder) -> Vec<String> {
    conn.take().iter().map(|sent| format!("{}: {}", String::from_utf8_lossy(sent.0.id()), sent.text())).collect()
}

fn busy(code: i64, text: &str, data: &str) -> String {
    error(code, text, "no", data)
}

#[tokio::test(start_paused = true)]
async fn past_its_limit_a_method_s_calls_wait_their_turn_and_past_its_queue_they_are_refused_and_others_are_served() {
    let (slow, other) = (Slow::new(), Slow::new());
    let router = slow.add(Router::new(), Method::new("slow").concurrency(2).queue(1));
    let router = other.add(router, Method::new("other").concurrency(1).queue(0));
    let conn = session();
    (1..=4).for_each(|n| call(&router, &conn, "slow", n, ""));
    (5..=6).for_each(|n| call(&router, &conn, "other", n, ""));
    let full = busy(
        17,
        r#"method "slow" is full (calls that run: 2, that wait: 1); call again later"#,
        r#","data":{"limit":"queue","bound":1}"#,
    );
    let alone = busy(
        17,
        r#"method "other" is full (calls that run: 1), and none of its calls may wait; call again later"#,
        r#","data":{"limit":"concurrency","bound":1}"#,
    );
    assert_eq!(answers(&conn), [format!("4: {full}"), format!("6: {alone}")]);
    assert_eq!((slow.begun(), other.begun(), conn.in_flight()), (vec![1, 2], vec![5], 4));
    slow.go.add_permits(1);
    until("the third has its turn", || slow.begun() == [1, 2, 3]).await;
    assert_eq!(answers(&conn), [format!("1: {}", result("1"))]);
    slow.go.add_permits(2);
    other.go.add_permits(2);
    until("all calls ended", || conn.in_flight() == 0).await;
    assert_eq!(answers(&conn).len(), 3);
    assert!(router.0.keeper().running.is_empty());
    assert_eq!(conn.events().iter().filter(|event| **event == Event::Overloaded).count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_does_not_wait_beyond_its_caller_s_deadline_or_for_longer_than_any_may_and_is_not_run_then() {
    let slow = Slow::new();
    let router = slow.add(Router::new().queue_age(Duration::from_secs(3)), Method::new("slow").concurrency(1));
    for conn in [session(), v1()] {
        call(&router, &conn, "slow", 1, "");
        call(&router, &conn, "slow", 2, r#","meta":{"timeout_ms":50}"#);
        call(&router, &conn, "slow", 3, r#","meta":{"timeout_ms":5000}"#);
        until("two are given up", || conn.in_flight() == 1).await;
        let too_long = r#"method "slow" is busy: it was not this call's turn within 3s; call again later"#;
        let too_long = |n: i64| {
            format!("{n}: {}", form(&conn, &busy(17, too_long, r#","data":{"limit":"queue_age_ms","bound":3000}"#)))
        };
        let expired = r#"method "slow" is busy: the caller's deadline passed before it was this call's turn"#;
        let expired = format!("2: {}", busy(16, expired, ""));
        let is_session = conn.session().is_some();
        // A v1 peer never said what its "meta" means.
        assert_eq!(answers(&conn), [if is_session { expired } else { too_long(2) }, too_long(3)]);
        let count = |wanted| conn.events().iter().filter(|event| **event == wanted).count();
        assert_eq!((count(Event::Expired), count(Event::Overloaded)), if is_session { (1, 1) } else { (0, 2) });
        slow.go.add_permits(1);
        until("the first has ended", || conn.in_flight() == 0).await;
    }
    assert_eq!(slow.begun(), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_call_that_comes_without_time_left_is_not_run() {
    let ran = Arc::new(AtomicUsize::new(0));
    let counts = || {
        let ran = Arc::clone(&ran);
        move |(): ()| Ok(ran.fetch_add(1, SeqCst))
    };
    let (inline, task, job) = (counts(), counts(), counts());
    let router = Router::new().method("inline", inline).method_blocking("blocking", job);
    let router = router.method_async("async", move |()| std::future::ready(task(())));
    for (n, method) in ["inline", "async", "blocking"].into_iter().enumerate() {
        let body = format!(r#"{{"method":"{method}","parameters":null,"meta":{{"timeout_ms":0}}}}"#);
        let (conn, v1) = (session(), v1());
        router.handle(&conn, conn.message(0, b"1", body.as_bytes()));
        let late = format!("the caller's deadline had passed when this call of {method:?} came");
        assert_eq!(answers(&conn), [format!("1: {}", busy(16, &late, ""))]);
        assert_eq!((ran.load(SeqCst), conn.events(), conn.in_flight()), (n, vec![Event::Expired], 0));
        // A v1 peer never said what its "meta" means.
        router.handle(&v1, v1.message(0, b"1", body.as_bytes()));
        until("it is answered", || !v1.sent().is_empty()).await;
        assert_eq!((answers(&v1), v1.events()), (vec![format!("1: {}", result(&n.to_string()))], vec![]));
    }
}

/// As a v1 peer or one with a session gets it.
fn form(conn: &Recorder, error: &str) -> String {
    if conn.session().is_some() { error.to_owned() } else { with_result(error) }
}

/// How the caller of some calls has gone.
#[derive(Clone, Copy, Debug)]
enum Gone {
    GaveUp,
    SendsNoMore,
    Ended,
}

impl Gone {
    fn tell(self, router: &Router, conn: &Recorder, ids: &[&[u8]]) {
        match self {
            Self::GaveUp => ids.iter().for_each(|id| router.handle(conn, conn.message(20, id, b""))),
            Self::SendsNoMore => router.ended(conn),
            Self::Ended => router.closed(conn),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_caller_has_gone_is_dropped_unless_it_has_begun_and_must_finish() {
    for gone in [Gone::GaveUp, Gone::SendsNoMore, Gone::Ended] {
        let (slow, firm) = (Slow::new(), Slow::new());
        let router = slow.add(Router::new(), Method::new("slow").concurrency(1));
        let router = firm.add(router, Method::new("firm").concurrency(1).must_finish());
        let (conn, other) = (session(), session_of(3));
        (1..=2).for_each(|n| call(&router, &conn, "slow", n, ""));
        (3..=4).for_each(|n| call(&router, &conn, "firm", n, ""));
        call(&router, &other, "slow", 5, "");
        call(&router, &other, "firm", 6, "");
        gone.tell(&router, &conn, &[b"1", b"2", b"3", b"4", b"unknown"]);
        until("the other's has its turn", || slow.begun() == [1, 5]).await;
        slow.go.add_permits(2);
        firm.go.add_permits(2);
        until("all calls ended", || conn.in_flight() + other.in_flight() == 0).await;
        let counts = (firm.begun(), firm.ended.load(SeqCst), slow.ended.load(SeqCst));
        assert_eq!(counts, (vec![3, 6], 2, 1), "{gone:?}");
        assert_eq!((answers(&conn).len(), answers(&other).len()), (1, 2), "{gone:?}");
        assert_eq!(conn.events(), [Event::Cancelled; 3], "{gone:?}");
        assert!(router.0.keeper().running.is_empty());
    }
}

#[tokio::test(start_paused = true)]
async fn who_can_t_give_calls_up_and_sends_no_more_is_still_answered() {
    let slow = Slow::new();
    let router = slow.add(Router::new(), Method::new("slow"));
    let conn = v1();
    call(&router, &conn, "slow", 1, "");
    router.ended(&conn);
    slow.go.add_permits(1);
    until("it has ended", || conn.in_flight() == 0).await;
    assert_eq!(answers(&conn), [format!("1: {}", result("1"))]);
}

#[tokio::test(start_paused = true)]
async fn a_one_way_call_outlives_its_connection_whether_it_runs_or_waits() {
    let slow = Slow::new();
    let router = slow.add(Router::new(), Method::new("slow").concurrency(1));
    let conn = session();
    for n in 1..=2 {
        let body = format!(r#"{{"method":"slow","parameters":{n}}}"#);
        router.handle(&conn, conn.message(ONE_WAY, b"", body.as_bytes()));
    }
    router.closed(&conn);
    slow.go.add_permits(2);
    until("both have ended", || conn.in_flight() == 0).await;
    assert_eq!((slow.begun(), slow.ended.load(SeqCst), conn.events()), (vec![1, 2], 2, vec![]));
}

#[tokio::test(start_paused = true)]
async fn a_caller_s_deadline_counts_from_when_its_call_came_though_it_waited() {
    let slow = Slow::new();
    let (tell, mut told) = async_mpsc::unbounded_channel();
    let router = slow.add(Router::new().concurrency(1), Method::new("slow").concurrency(1));
    let router = router.method_async_with("how_long", move |context, (): ()| {
        let _ = tell.send(context.remaining());
        async { Ok(()) }
    });
    let conn = session();
    call(&router, &conn, "slow", 1, "");
    let body = br#"{"method":"how_long","parameters":null,"meta":{"timeout_ms":5000}}"#;
    router.handle(&conn, conn.message(0, b"2", body));
    tokio::time::sleep(Duration::from_secs(2)).await;
    slow.go.add_permits(1);
    assert_eq!(told.recv().await.unwrap(), Some(Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn each_refusal_names_its_limit() {
    let one = |name: &str| Method::new(name).concurrency(1);
    let limit = |name: &str, bound: usize| format!(r#""data":{{"limit":"{name}","bound":{bound}}}"#);
    let rows = [
        (Router::new(), one("slow").queue(0), limit("concurrency", 1)),
        (Router::new(), one("slow").queue(2), limit("queue", 2)),
        (Router::new().queue(3), one("slow").queue(9), limit("total_queue", 3)),
        (Router::new().queue(0), one("slow"), limit("concurrency", 1)),
        (Router::new().concurrency(1), Method::new("slow").concurrency(9).queue(0), limit("total_concurrency", 1)),
        (Router::new().queue_bytes(100), one("slow"), limit("queue_bytes", 100)),
    ];
    for (router, method, expected) in rows {
        let slow = Slow::new();
        let (router, conn) = (slow.add(router, method), session());
        (1..=5).for_each(|n| call(&router, &conn, "slow", n, ""));
        let refused = answers(&conn);
        let last = refused.last().unwrap();
        assert!(last.contains(r#"{"rcode":17,"#) && last.contains(r#""executed":"no""#), "{last}");
        assert!(last.contains(&expected) && last.contains("call again later"), "{last} is not of {expected}");
        assert_eq!(conn.events(), vec![Event::Overloaded; refused.len()]);
        slow.go.add_permits(5);
        until("all calls ended", || conn.in_flight() == 0).await;
        assert_eq!((refused.len() + slow.begun().len(), slow.ended.load(SeqCst)), (5, slow.begun().len()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_method_that_said_nothing_leaves_half_of_all_places_to_the_others() {
    let (slow, other) = (Slow::new(), Slow::new());
    let router = slow.add(Router::new().concurrency(4), Method::new("slow"));
    let alone = router.clone();
    let router = other.add(router, Method::new("other"));
    for (router, runs) in [(&alone, 4), (&router, 2)] {
        let before = slow.begun().len();
        (1..=6).for_each(|n| call(router, &session(), "slow", n, ""));
        assert_eq!(slow.begun().len() - before, runs);
    }
    (7..=9).for_each(|n| call(&router, &session(), "other", n, ""));
    assert_eq!(other.begun(), [7, 8]);
}

fn session_of(id: u64) -> Recorder {
    let template = session();
    Recorder::with_session(id, template.session().unwrap().clone())
}

#[tokio::test]
async fn a_blocking_method_that_is_slow_leaves_threads_to_others_and_a_job_that_runs_keeps_its_own() {
    let (release, released) = mpsc::channel::<()>();
    let (released, is_running) = (Mutex::new(released), Arc::new(AtomicBool::new(false)));
    let runs = Arc::clone(&is_running);
    let slow = move |(): ()| {
        runs.store(true, SeqCst);
        released.lock().unwrap().recv()?;
        runs.store(false, SeqCst);
        Ok(())
    };
    let router =
        Router::new().blocking_threads(2).method_blocking("slow", slow).method_blocking("quick", |n: i64| Ok(n));
    let conn = session();
    for id in [b"a", b"b"] {
        router.handle(&conn, conn.message(0, id, br#"{"method":"slow","parameters":null}"#));
    }
    until("it runs", || is_running.load(SeqCst)).await;
    call(&router, &conn, "quick", 7, "");
    until("the other has its thread", || !conn.sent().is_empty()).await;
    assert_eq!(answers(&conn), [format!("7: {}", result("7"))]);
    router.handle(&conn, conn.message(20, b"a", b""));
    until("it is given up", || conn.in_flight() == 1).await;
    assert!(is_running.load(SeqCst), "what blocks can't be dropped");
    release.send(()).unwrap();
    release.send(()).unwrap();
    until("the second ran after it", || conn.in_flight() == 0).await;
    assert_eq!(answers(&conn).len(), 1);
}

/// Panics when it is dropped, in the future of a method.
#[derive(Clone, Default)]
struct Sore;

impl Drop for Sore {
    fn drop(&mut self) {
        panic!("boom")
    }
}

#[tokio::test(start_paused = true)]
async fn a_future_that_panics_as_it_is_dropped_leaves_its_place_and_is_no_longer_in_flight() {
    let go = Arc::new(Semaphore::new(0));
    let wait = Arc::clone(&go);
    let router = Router::new().method_async(Method::new("sore").concurrency(1), move |n: i64| {
        let wait = Arc::clone(&wait);
        async move {
            let _sore = Sore;
            wait.acquire().await?.forget();
            Ok(n)
        }
    });
    let conn = session();
    (1..=3).for_each(|n| call(&router, &conn, "sore", n, ""));
    // The first at its end, the second as it is given up; the third has its turn in spite of them.
    for (given_up, left) in [(None, 2), (Some(b"2"), 1), (None, 0)] {
        match given_up {
            Some(id) => router.handle(&conn, conn.message(20, id, b"")),
            None => go.add_permits(1),
        }
        until("it has ended", || conn.in_flight() == left).await;
        until("its permit is taken", || go.available_permits() == 0).await;
    }
    let panicked = r#"method "sore" panicked; its provider's log says why"#;
    let panicked = |n: i64| format!("{n}: {}", error(8, panicked, "yes", ""));
    assert_eq!(answers(&conn), [panicked(1), panicked(3)]);
    assert_eq!(conn.events(), [Event::Panicked, Event::Cancelled, Event::Panicked]);
    assert!(router.0.keeper().running.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_method_that_said_nothing_leaves_half_of_those_that_may_wait_to_the_others() {
    let (slow, other) = (Slow::new(), Slow::new());
    let router = slow.add(Router::new().concurrency(2).queue(6), Method::new("slow"));
    let alone = router.clone();
    let router = other.add(router, Method::new("other"));
    for (router, runs, waits) in [(&alone, 2, 6), (&router, 1, 3)] {
        let conn = session();
        (1..=9).for_each(|n| call(router, &conn, "slow", n, ""));
        let refused = answers(&conn);
        assert_eq!((conn.in_flight(), refused.len()), (runs + waits, 9 - runs - waits));
        let bound = format!(r#""data":{{"limit":"queue","bound":{waits}}}"#);
        assert!(refused.iter().all(|answer| answer.contains(&bound)), "{refused:?}");
    }
    let conn = session();
    (1..=4).for_each(|n| call(&router, &conn, "other", n, ""));
    assert_eq!((other.begun(), conn.in_flight(), answers(&conn).len()), (vec![1], 4, 0));
}

/// Blocking calls that find all threads of the runtime taken: by others, since the router has more of its own.
#[test]
fn a_blocking_call_whose_deadline_passes_while_it_waits_for_a_thread_is_not_run() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().max_blocking_threads(1).start_paused(true).build().unwrap();
    runtime.block_on(async {
        let (release, released) = mpsc::channel::<()>();
        let other = tokio::task::spawn_blocking(move || released.recv());
        let has_run = Arc::new(AtomicBool::new(false));
        let runs = Arc::clone(&has_run);
        let router = Router::new().method_blocking("late", move |(): ()| {
            runs.store(true, SeqCst);
            Ok(())
        });
        let conn = session();
        router.handle(&conn, conn.message(0, b"1", br#"{"method":"late","parameters":null,"meta":{"timeout_ms":50}}"#));
        tokio::time::advance(Duration::from_millis(60)).await;
        release.send(()).unwrap();
        other.await.unwrap().unwrap();
        until("it is answered", || conn.in_flight() == 0).await;
        let expired = r#"method "late" is busy: the caller's deadline passed before it was this call's turn"#;
        assert_eq!(answers(&conn), [format!("1: {}", busy(16, expired, ""))]);
        assert_eq!((has_run.load(SeqCst), conn.events()), (false, vec![Event::Expired]));
    });
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_finds_itself_does_not_grow_with_calls_that_fail_at_once() {
    for (fails, runs) in [(true, 1), (false, 2)] {
        let method = Method::new("quick").adaptive_concurrency(1, 4, Duration::from_mins(1)).queue(0);
        let router = Router::new().method_async(method, move |n: i64| async move {
            if n >= 100 {
                std::future::pending::<()>().await;
            }
            if fails { Err(MethodError::new(1, "what it needs is away")) } else { Ok(n) }
        });
        let conn = session();
        for n in 0..50 {
            call(&router, &conn, "quick", n, "");
            until("it has ended", || conn.in_flight() == 0).await;
        }
        // With one under way at a time it says nothing of more than two.
        conn.take();
        (100..106).for_each(|n| call(&router, &conn, "quick", n, ""));
        assert_eq!((answers(&conn).len(), conn.in_flight()), (6 - runs, runs), "{fails}");
    }
}
