use callboard_common::{Dispatcher, Event, Features, Handler, Recorder};
use tokio::time::sleep;

use super::*;
use crate::{Answers, Router};

fn session(features: Features, serving: Option<Limits>) -> Session {
    let (name, instance) = ("client".to_owned(), "i-1".to_owned());
    Session { name, instance, store: None, features, limits: Limits::default(), heartbeats: None, serving }
}

fn serving(in_flight: u64) -> Recorder {
    let limits = Limits { max_frame_bytes: 200, in_flight };
    Recorder::with_session(1, session(Features::ALL, Some(limits)))
}

struct Rig {
    conn: Recorder,
    asked: Arc<Asked>,
    peer: Peer,
}

impl Rig {
    fn new(conn: Recorder) -> Self {
        let asked = Arc::<Asked>::default();
        let peer = Peer::new(Arc::new(conn.clone()), Arc::clone(&asked), None);
        Self { conn, asked, peer }
    }

    /// What the peer answers to the last call that was sent.
    fn answer(&self, body: &str) {
        self.answer_to(self.conn.sent().last().unwrap().0.id(), body);
    }

    fn answer_to(&self, id: &[u8], body: &str) {
        Dispatcher::new()
            .on_response(Answers(Arc::clone(&self.asked)))
            .handle(&self.conn, self.conn.message(1, id, body.as_bytes()));
    }

    /// The same over a connection that this side has made.
    fn answer_as_its_own(&self, id: &[u8], body: &str) {
        self.asked.answered(&self.conn, self.conn.message(1, id, body.as_bytes()));
    }

    /// A call that was sent.
    async fn call(&self) -> tokio::task::JoinHandle<Result<i64, PeerError>> {
        let before = self.conn.sent().len();
        let peer = self.peer.clone();
        let call = tokio::spawn(async move { peer.call::<i64>("add", &[1, 2]).await });
        while self.conn.sent().len() == before && !call.is_finished() {
            sleep(Duration::from_millis(1)).await;
        }
        call
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_goes_out_and_its_first_answer_counts() {
    let rig = Rig::new(serving(8));
    let call = rig.call().await;
    let sent = rig.conn.sent().remove(0);
    assert_eq!((sent.0.kind(), sent.0.flags()), (MessageType::RpcRequest, 0));
    assert_eq!(sent.text(), r#"{"method":"add","parameters":[1,2],"meta":{"timeout_ms":5000}}"#);
    rig.answer(r#"{"rcode":0,"result":3}"#);
    rig.answer(r#"{"rcode":0,"result":4}"#);
    assert_eq!(call.await.unwrap().unwrap(), 3);
    assert_eq!(rig.conn.events(), [Event::Ignored]);
    assert_eq!(rig.conn.sent().len(), 1, "and is not given up");
}

#[tokio::test(start_paused = true)]
async fn what_is_answered_is_told() {
    let rows = [
        (r#"{"rcode":5,"error":{"message":"none","executed":"no"}}"#, Some(5), Executed::No, "none"),
        (r#"{"rcode":64,"error":{"message":"x","executed":"yes","code":7}}"#, Some(64), Executed::Yes, "7: x"),
        (r#"{"rcode":8}"#, Some(8), Executed::Unknown, ""),
        (r#"{"rcode":0,"result":"text"}"#, None, Executed::Yes, "not of the type"),
        ("{", None, Executed::Unknown, "can't be read"),
    ];
    for (body, code, executed, says) in rows {
        let rig = Rig::new(serving(8));
        let call = rig.call().await;
        rig.answer(body);
        let error = call.await.unwrap().unwrap_err();
        let text = error.to_string();
        assert_eq!((error.code().map(ResultCode::to_wire), error.executed()), (code, executed), "{text}");
        assert!(text.contains(says) && text.starts_with("method \"add\" of the caller at recorder://1: "), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_offers_nothing_is_sent_nothing() {
    for conn in [Recorder::new(1), Recorder::with_session(1, session(Features::ALL, None))] {
        let rig = Rig::new(conn);
        assert!(!rig.peer.serves());
        let error = rig.peer.call::<i64>("add", &()).await.unwrap_err();
        assert!(matches!(error.kind(), PeerErrorKind::NotServing) && error.executed() == Executed::No, "{error}");
        assert!(rig.peer.notify("add", &()).is_err());
        assert_eq!(rig.conn.sent(), []);
    }
}

#[tokio::test(start_paused = true)]
async fn no_more_calls_wait_than_the_peer_permits() {
    let rig = Rig::new(serving(1));
    let first = rig.call().await;
    let error = rig.peer.call::<i64>("add", &()).await.unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::Overloaded) && error.executed() == Executed::No, "{error}");
    rig.answer(r#"{"rcode":0,"result":1}"#);
    assert_eq!(first.await.unwrap().unwrap(), 1);
    let next = rig.call().await;
    rig.answer(r#"{"rcode":0,"result":2}"#);
    assert_eq!(next.await.unwrap().unwrap(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_can_not_be_sent_did_not_run_and_leaves_nothing() {
    let rig = Rig::new(serving(8));
    rig.conn.fill();
    let full = rig.peer.call::<i64>("add", &()).await.unwrap_err();
    assert!(matches!(full.kind(), PeerErrorKind::Overloaded), "{full}");
    rig.asked.closed(Connection::id(&rig.conn));
    let [ended, closed] = [8, 0].map(|in_flight| Rig::new(serving(in_flight)));
    for rig in [&ended, &closed] {
        rig.conn.close("gone".into());
        rig.asked.closed(Connection::id(&rig.conn));
    }
    let large = ended.peer.call::<i64>("add", &"x".repeat(200)).await.unwrap_err();
    assert!(matches!(large.kind(), PeerErrorKind::Encode), "{large}");
    let gone = ended.peer.call::<i64>("add", &()).await.unwrap_err();
    assert!(matches!(gone.kind(), PeerErrorKind::Disconnected), "{gone}");
    let none = closed.peer.call::<i64>("add", &()).await.unwrap_err();
    assert!(matches!(none.kind(), PeerErrorKind::Overloaded), "{none}");
    for error in [full, large, gone, none] {
        assert_eq!(error.executed(), Executed::No, "{error}");
    }
    assert_eq!([rig, ended, closed].map(|rig| rig.asked.connections()), [0; 3]);
}

#[tokio::test(start_paused = true)]
async fn an_answer_to_a_call_that_was_given_up_completes_no_later_one_though_another_could_not_be_sent() {
    let (bounds, too_large) = (Limits { max_frame_bytes: 1_000, in_flight: 8 }, "x".repeat(400));
    for what in ["full", "too large"] {
        let rig = Rig::new(Recorder::with_session(1, session(Features::ALL, Some(bounds))));
        // Room for one of them, and frames of less than the peer would take.
        rig.conn.set_bounds(300, if what == "full" { 100 } else { 1_000 });
        let error = rig.peer.with_timeout(Duration::from_millis(20)).call::<i64>("add", &()).await.unwrap_err();
        assert!(matches!(error.kind(), PeerErrorKind::Timeout), "{error}");
        let given_up = rig.conn.take().remove(0).0.id().to_vec();
        let error = if what == "full" {
            rig.peer.call::<i64>("add", &()).await.unwrap_err()
        } else {
            rig.peer.call::<i64>("add", &too_large).await.unwrap_err()
        };
        assert!(matches!(error.kind(), PeerErrorKind::Overloaded | PeerErrorKind::Encode), "{error}");
        rig.conn.written(usize::MAX);
        let call = rig.call().await;
        rig.answer_to(&given_up, r#"{"rcode":0,"result":1}"#);
        rig.answer(r#"{"rcode":0,"result":2}"#);
        assert_eq!((call.await.unwrap().unwrap(), rig.conn.events()), (2, vec![Event::Ignored]), "{what}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_connection_ends_what_waits() {
    let rig = Rig::new(serving(8));
    let call = rig.call().await;
    rig.conn.close("gone".into());
    Handler::<Recorder>::closed(&Answers(Arc::clone(&rig.asked)), &rig.conn);
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::Disconnected), "{error}");
    assert_eq!((error.executed(), rig.asked.connections()), (Executed::Unknown, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_nobody_waits_for_is_given_up() {
    let rig = Rig::new(serving(8));
    let error = rig.peer.with_timeout(Duration::from_millis(20)).call::<i64>("add", &()).await.unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::Timeout) && error.executed() == Executed::Unknown, "{error}");
    let call = rig.call().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let kinds: Vec<_> = rig.conn.sent().iter().map(|sent| sent.0.kind()).collect();
    let (asks, cancels) = (MessageType::RpcRequest, MessageType::Cancel);
    assert_eq!(kinds, [asks, cancels, asks, cancels]);
    let sent = rig.conn.sent();
    assert_eq!(sent[0].0.id(), sent[1].0.id());
    assert_eq!(sent[2].0.id(), sent[3].0.id());
    assert!(sent[0].text().contains(r#""timeout_ms":20"#));
}

#[tokio::test(start_paused = true)]
async fn one_that_does_not_know_of_it_is_not_told_that_a_call_is_given_up() {
    let features = Features::from_names(["serves"]);
    let rig = Rig::new(Recorder::with_session(1, session(features, Some(Limits::default()))));
    rig.call().await.abort();
    sleep(Duration::from_millis(1)).await;
    assert_eq!(rig.conn.sent().len(), 1);
}

#[test]
fn a_call_without_an_answer_is_marked_where_that_is_known() {
    let rig = Rig::new(serving(1));
    rig.peer.notify("log", &"hi").unwrap();
    rig.peer.notify("log", &"hi").unwrap();
    assert_eq!(rig.conn.take().iter().map(|sent| sent.0.flags()).collect::<Vec<_>>(), [FLAG_ONE_WAY; 2]);
    let old = Rig::new(Recorder::with_session(1, session(Features::from_names(["serves"]), Some(Limits::default()))));
    old.peer.notify("log", &"hi").unwrap();
    assert_eq!(old.conn.take().iter().map(|sent| sent.0.flags()).collect::<Vec<_>>(), [0]);
}

#[tokio::test(start_paused = true)]
async fn a_method_reaches_its_caller_by_its_context() {
    let router = Router::new().method_async_with("ask", |context, (): ()| async move {
        Ok(context.caller().call::<i64>("answer", &()).await?)
    });
    let dispatcher = Dispatcher::new().on_response(router.answers()).on_rpc(router);
    let conn = serving(8);
    dispatcher.handle(&conn, conn.message(0, b"c", br#"{"method":"ask","parameters":null}"#));
    while conn.sent().is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    let asked = conn.take().remove(0);
    assert!(asked.text().starts_with(r#"{"method":"answer","parameters":null"#), "{}", asked.text());
    dispatcher.handle(&conn, conn.message(1, asked.0.id(), br#"{"rcode":0,"result":42}"#));
    while conn.sent().is_empty() {
        sleep(Duration::from_millis(1)).await;
    }
    let answered = conn.take().remove(0);
    assert_eq!((answered.0.id(), &*answered.text()), (&b"c"[..], r#"{"rcode":0,"result":42}"#));
}

/// One that calls through a center.
fn behind(serves: bool) -> Rig {
    let conn = Recorder::with_session(1, session(Features::ALL, None));
    let asked = Arc::<Asked>::default();
    let peer = Peer::new(Arc::new(conn.clone()), Arc::clone(&asked), Some(CallerTag::new(0xa7, serves)));
    Rig { conn, asked, peer }
}

#[tokio::test(start_paused = true)]
async fn a_caller_behind_a_center_is_called_through_it_and_its_answers_are_told_from_others() {
    let rig = behind(true);
    assert!(rig.peer.serves() && rig.peer.instance().is_none());
    let rows = [
        (r#"{"rcode":0,"result":3}"#, Ok(3)),
        (r#"{"rcode":3,"error":{"message":"gone","executed":"no"}}"#, Err(("Disconnected", Executed::No))),
        (r#"{"rcode":3,"error":{"message":"gone","executed":"unknown"}}"#, Err(("Disconnected", Executed::Unknown))),
        (r#"{"rcode":5,"error":{"message":"none","executed":"no"}}"#, Err(("Remote", Executed::No))),
    ];
    for (number, (body, expected)) in (0..).zip(rows) {
        let call = rig.call().await;
        let sent = rig.conn.take().remove(0);
        assert_eq!((sent.0.kind(), sent.0.flags()), (MessageType::RpcRequest, FLAG_RELAY));
        assert_eq!(sent.0.id(), format!("b000000000000000{number}").as_bytes());
        let meta = r#""meta":{"timeout_ms":5000,"caller":"00000000000000a7"}"#;
        assert_eq!(sent.text(), format!(r#"{{"method":"add","parameters":[1,2],{meta}}}"#));
        // The client's own call has that id.
        rig.answer_as_its_own(&sent.0.id()[1..], body);
        rig.answer_as_its_own(sent.0.id(), body);
        let outcome = call.await.unwrap();
        let outcome = outcome.map_err(|error| (format!("{:?}", error.kind()), error.executed()));
        match (outcome, expected) {
            (Err((kind, executed)), Err((expected, expected_executed))) => {
                assert!(kind.starts_with(expected) && executed == expected_executed, "{kind} {executed}");
            }
            (outcome, expected) => assert_eq!(outcome.ok(), expected.ok()),
        }
    }
    assert_eq!(rig.conn.events(), [Event::Ignored; 4]);
    rig.peer.notify("add", &1).unwrap();
    let sent = rig.conn.take().remove(0);
    assert_eq!(sent.0.flags(), FLAG_RELAY | FLAG_ONE_WAY);
    let call = rig.call().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    let sent = rig.conn.take();
    assert_eq!((sent[1].0.kind(), sent[1].0.id()), (MessageType::Cancel, sent[0].0.id()));
}

#[tokio::test(start_paused = true)]
async fn a_caller_behind_a_center_that_offers_nothing_is_sent_nothing() {
    let rig = behind(false);
    assert!(!rig.peer.serves());
    let error = rig.peer.call::<i64>("add", &()).await.unwrap_err();
    assert!(matches!(error.kind(), PeerErrorKind::NotServing) && error.executed() == Executed::No, "{error}");
    assert_eq!(rig.conn.sent(), []);
}

#[tokio::test(start_paused = true)]
async fn those_behind_a_center_who_do_not_answer_leave_places_for_calls_to_others() {
    let limits = Limits { in_flight: 16, ..Limits::default() };
    let conn = Recorder::with_session(1, Session { limits, ..session(Features::ALL, None) });
    let asked = Arc::<Asked>::default();
    let begin = |number| asked.begin(Connection::id(&conn), 16, Some(CallerTag::new(number, true)));
    let mut waiting = Vec::new();
    for number in 0..4 {
        waiting.extend(std::iter::from_fn(|| begin(number)));
    }
    let of = |count: usize| waiting.len() == count;
    assert!(of(8 + 4 + 2 + 1), "{}", waiting.len());
    assert!(begin(5).is_some(), "one that has none");
    // What is answered or given up is free again.
    for (id, _) in waiting.drain(..8) {
        assert!(asked.forget(Connection::id(&conn), id));
    }
    assert_eq!(std::iter::from_fn(|| begin(1)).count(), 2);
    asked.closed(Connection::id(&conn));
}
