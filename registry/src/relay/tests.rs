mod callers;
mod returns;
mod stores;

use callboard_common::{Dispatcher, FLAG_ONE_WAY, Features, Handler, Limits, Recorder, RequestId, Sent, Session};

use super::*;
use crate::{AvailabilityPolicy, RegistryLimits};

/// What comes for nobody else.
#[derive(Default)]
struct Here(Arc<Mutex<Vec<u16>>>);

impl Handler<Recorder> for Here {
    fn handle(&self, _conn: &Recorder, message: Message) {
        self.0.lock().unwrap().push(message.kind().to_wire());
    }
}

type Service = Arc<RegistryService<Recorder>>;

struct House {
    relay: Arc<Relay<Recorder>>,
    center: Dispatcher<
        RelayCalls<Recorder, Here>,
        callboard_common::Unhandled,
        Service,
        callboard_common::Unhandled,
        RelayAnswers<Recorder, Here>,
    >,
    here: Arc<Mutex<Vec<u16>>>,
}

fn session(id: u64, instance: &str, features: Features, serving: Option<Limits>) -> Recorder {
    let (name, instance, limits) = (String::new(), instance.to_owned(), Limits::default());
    Recorder::with_session(id, Session { name, instance, store: None, features, limits, heartbeats: None, serving })
}

fn provider(id: u64, instance: &str) -> Recorder {
    session(id, instance, Features::ALL, Some(Limits { max_frame_bytes: 300, in_flight: 4 }))
}

fn caller(id: u64) -> Recorder {
    session(id, "caller", Features::ALL, None)
}

const REGISTER: &str = r#"{"method":"add","optype":0}"#;
const CALL: &str = r#"{"method":"add", "parameters":[1,2],"meta":{"timeout_ms":5000,"instance":"i-1"}}"#;
const RELAY: u32 = 0b100 << 24;
const ONE_WAY: u32 = 1 << 24;

impl House {
    fn new() -> Self {
        Self::with_bound(64)
    }

    fn with_bound(bound: usize) -> Self {
        Self::with(Service::default(), RelayLimits { calls: bound, ..RelayLimits::default() })
    }

    /// Providers may be back for two seconds.
    fn patient(limits: RelayLimits) -> Self {
        let policy = AvailabilityPolicy { provider_grace: Duration::from_secs(2), ..AvailabilityPolicy::trusting() };
        Self::with(Arc::new(RegistryService::with_policy(RegistryLimits::default(), policy)), limits)
    }

    fn with(registry: Service, limits: RelayLimits) -> Self {
        let relay = Arc::new(Relay::new(Arc::clone(&registry), limits));
        let here = Arc::default();
        let center = Dispatcher::new()
            .on_rpc(RelayCalls::new(&relay, Here(Arc::clone(&here))))
            .on_service(registry)
            .on_response(RelayAnswers::new(&relay, Here(Arc::clone(&here))));
        Self { relay, center, here }
    }

    fn send(&self, conn: &Recorder, mtype: u32, id: &[u8], body: &str) {
        self.center.handle(conn, conn.message(mtype, id, body.as_bytes()));
    }

    /// What it is answered.
    fn ask(&self, conn: &Recorder, mtype: u32, body: &str) -> String {
        self.send(conn, mtype, b"ask", body);
        conn.take().pop().map(|sent| sent.text().into_owned()).unwrap_or_default()
    }

    /// A provider that has registered `add`.
    fn provider(&self, id: u64, instance: &str) -> Recorder {
        let provider = provider(id, instance);
        assert_eq!(self.ask(&provider, 4, REGISTER), r#"{"rcode":0,"optype":0}"#);
        provider
    }

    /// The frame that a call becomes.
    fn passed_on(&self, caller: &Recorder, id: &[u8], provider: &Recorder) -> Sent {
        self.send(caller, RELAY, id, CALL);
        provider.take().pop().expect("it is passed on")
    }
}

fn code(answer: &str) -> (u64, String, String) {
    let answer: serde_json::Value = serde_json::from_str(answer).unwrap_or_default();
    let text = |name: &str| answer["error"][name].as_str().unwrap_or_default().to_owned();
    let limit = answer["error"]["data"]["limit"].as_str().unwrap_or_default().to_owned();
    (answer["rcode"].as_u64().unwrap_or(99), text("executed"), limit)
}

fn refused(rcode: u64, limit: &str) -> (u64, String, String) {
    (rcode, "no".to_owned(), limit.to_owned())
}

#[test]
fn a_call_and_its_answer_pass_with_their_bodies_untouched() {
    let house = House::new();
    let (provider, caller) = (house.provider(1, "i-1"), caller(2));
    let passed = house.passed_on(&caller, b"mine", &provider);
    assert_eq!((passed.0.kind(), passed.0.flags(), &*passed.text()), (MessageType::RpcRequest, 0, CALL));
    assert_eq!((house.relay.metrics().passed_on, caller.in_flight()), (1, 1));
    let answer = r#"{ "rcode":0 , "result":[ 3 ], "more":1}"#;
    house.send(&provider, 1, passed.0.id(), answer);
    let answered = caller.take().pop().unwrap();
    assert_eq!(
        (answered.0.kind(), answered.0.id(), &*answered.text()),
        (MessageType::RpcResponse, &b"mine"[..], answer)
    );
    assert_eq!((house.relay.metrics().passed_on, caller.in_flight()), (0, 0));
    house.send(&provider, 1, passed.0.id(), answer);
    assert_eq!((caller.take(), provider.events()), (vec![], vec![Event::Ignored]), "the first answer counts");
}

#[test]
fn an_answer_counts_from_the_provider_that_was_asked_only() {
    let house = House::new();
    let (first, second, caller) = (house.provider(1, "i-1"), house.provider(3, "i-2"), caller(2));
    let passed = house.passed_on(&caller, b"mine", &first);
    for other in [&second, &caller] {
        house.send(other, 1, passed.0.id(), r#"{"rcode":0,"result":"forged"}"#);
        assert_eq!((caller.take(), other.events()), (vec![], vec![Event::Ignored]));
    }
    house.send(&first, 1, passed.0.id(), r#"{"rcode":0,"result":3}"#);
    assert_eq!(caller.take().len(), 1);
}

#[test]
fn what_is_not_to_be_passed_on_is_handled_here() {
    let house = House::new();
    let (provider, caller, v1) = (house.provider(1, "i-1"), caller(2), Recorder::new(3));
    house.send(&caller, 0, b"a", CALL);
    house.send(&v1, 0, b"a", CALL);
    house.send(&caller, 20, b"a", "");
    house.send(&provider, 1, b"0000000000000000", "{}");
    house.send(&provider, 1, b"r", "{}");
    assert_eq!(*house.here.lock().unwrap(), [0, 0, 20, 1, 1]);
    assert_eq!((provider.take(), house.relay.metrics().passed_on), (vec![], 0));
    // Without the feature the flag means nothing.
    let old = session(4, "old", Features::ALL.without(Feature::Relay), None);
    for conn in [&v1, &old] {
        assert_eq!(code(&house.ask(conn, RELAY, CALL)), refused(2, ""));
    }
    assert_eq!(code(&house.ask(&caller, 2 | RELAY, r#"{"topic_key":"t","optype":4,"topic_msg":1}"#)), refused(2, ""));
}

#[test]
fn a_call_is_refused_where_it_can_not_be_passed_on() {
    let house = House::new();
    let (_provider, caller) = (house.provider(1, "i-1"), caller(2));
    let rows = [
        ("{", 1, ""),
        ("[]", 2, ""),
        (r#"{"parameters":1,"meta":{"instance":"i-1"}}"#, 2, ""),
        (r#"{"method":"add"}"#, 2, ""),
        (r#"{"method":"add","meta":{"instance":7}}"#, 2, ""),
        (r#"{"method":"add","meta":{"instance":"i-2"}}"#, 22, ""),
        (r#"{"method":"sub","meta":{"instance":"i-1"}}"#, 22, ""),
        (r#"{"method":"add","meta":{"timeout_ms":0,"instance":"i-1"}}"#, 16, ""),
        (
            &format!(r#"{{"method":"add","parameters":"{}","meta":{{"instance":"i-1"}}}}"#, "x".repeat(300)),
            21,
            "max_frame_bytes",
        ),
    ];
    for (body, rcode, limit) in rows {
        assert_eq!(code(&house.ask(&caller, RELAY, body)), refused(rcode, limit), "{body}");
    }
    assert_eq!((house.relay.metrics().passed_on, caller.in_flight()), (0, 0));
}

#[test]
fn a_call_under_a_key_is_passed_on_to_one_that_knows_keys_only() {
    let house = House::new();
    let (knowing, caller) = (house.provider(1, "i-1"), caller(2));
    let serving = Some(Limits { max_frame_bytes: 300, in_flight: 2 });
    let other = session(3, "i-2", Features::ALL.without(Feature::Keys), serving);
    house.ask(&other, 4, REGISTER);
    let keyed =
        |instance: &str| format!(r#"{{"method":"add","meta":{{"instance":"{instance}","idempotency_key":"k"}}}}"#);
    assert_eq!(code(&house.ask(&caller, RELAY, &keyed("i-2"))), refused(2, ""), "a repeat might run twice");
    assert!(other.take().is_empty());
    assert_eq!(house.ask(&caller, RELAY, &keyed("i-1")), "");
    assert_eq!(knowing.take().pop().unwrap().text(), keyed("i-1"));
}

#[test]
fn each_bound_is_told_and_an_answer_makes_room() {
    let house = House::with_bound(3);
    let (slow, other, caller) = (house.provider(1, "i-1"), house.provider(3, "i-2"), caller(2));
    let first = house.passed_on(&caller, b"1", &slow);
    house.passed_on(&caller, b"2", &slow);
    assert_eq!(code(&house.ask(&caller, RELAY, CALL)), refused(17, "provider_in_flight"));
    let to_other = CALL.replace("i-1", "i-2");
    house.send(&caller, RELAY, b"3", &to_other);
    assert_eq!(other.take().len(), 1, "a slow provider harms itself only");
    assert_eq!(code(&house.ask(&caller, RELAY, &to_other)), refused(17, "relayed_calls"));
    house.send(&slow, 1, first.0.id(), r#"{"rcode":0,"result":3}"#);
    caller.take();
    house.passed_on(&caller, b"4", &slow);
    // Its outbox is full: what comes next is refused, and what waits still waits.
    house.send(&caller, 20, b"4", "");
    slow.fill();
    assert_eq!(code(&house.ask(&caller, RELAY, CALL)), refused(17, ""));
    assert_eq!((house.relay.metrics().passed_on, caller.in_flight()), (2, 2));
}

#[test]
fn whose_call_gives_way_to_another_callers_is_told_and_so_is_its_provider() {
    let house = House::with_bound(3);
    let (first, second) = (house.provider(1, "i-1"), house.provider(3, "i-2"));
    let (greedy, newcomer) = (caller(2), caller(4));
    house.passed_on(&greedy, b"1", &first);
    house.passed_on(&greedy, b"2", &first);
    house.send(&greedy, RELAY, b"3", &CALL.replace("i-1", "i-2"));
    let newest = second.take().pop().unwrap();
    house.passed_on(&newcomer, b"x", &first);
    let told = greedy.take().pop().unwrap();
    assert_eq!((told.0.id(), code(&told.text())), (&b"3"[..], (17, "unknown".to_owned(), String::new())));
    let cancelled = second.take().pop().unwrap();
    assert_eq!((cancelled.0.kind(), cancelled.0.id()), (MessageType::Cancel, newest.0.id()));
    assert_eq!((house.relay.metrics().passed_on, greedy.in_flight(), newcomer.in_flight()), (3, 2, 1));
}

#[test]
fn one_way_calls_are_passed_on_and_nothing_waits_for_them() {
    let house = House::new();
    let (provider, caller) = (house.provider(1, "i-1"), caller(2));
    house.send(&caller, RELAY | ONE_WAY, b"x", CALL);
    let passed = provider.take().pop().unwrap();
    assert_eq!((passed.0.is_one_way(), &*passed.text()), (true, CALL));
    assert_eq!((house.relay.metrics().passed_on, caller.in_flight(), caller.take()), (0, 0, vec![]));
    house.send(&caller, RELAY | ONE_WAY, b"x", &CALL.replace("i-1", "i-2"));
    assert_eq!((caller.take(), caller.events()), (vec![], vec![Event::Refused]));
    let old = session(5, "i-5", Features::ALL.without(Feature::OneWay), Some(Limits::default()));
    house.ask(&old, 4, REGISTER);
    house.send(&caller, RELAY | ONE_WAY, b"x", &CALL.replace("i-1", "i-5"));
    let passed = old.take().pop().unwrap();
    assert!(!passed.0.is_one_way());
    house.send(&old, 1, passed.0.id(), r#"{"rcode":0}"#);
    assert_eq!(caller.take(), []);
}

#[test]
fn what_its_caller_gives_up_is_given_up_at_its_provider() {
    let house = House::new();
    let (provider, caller) = (house.provider(1, "i-1"), caller(2));
    let given_up = |house: &House, end: &dyn Fn(&House)| {
        let passed = house.passed_on(&caller, b"mine", &provider);
        end(house);
        let told = provider.take().pop().unwrap();
        assert_eq!((told.0.kind(), told.0.id(), told.0.body()), (MessageType::Cancel, passed.0.id(), &b""[..]));
        assert_eq!((house.relay.metrics().passed_on, caller.in_flight(), caller.take()), (0, 0, vec![]));
    };
    given_up(&house, &|house| house.send(&caller, 20, b"mine", ""));
    given_up(&house, &|house| house.center.ended(&caller));
    given_up(&house, &|house| house.center.closed(&caller));
    assert_eq!(caller.events(), [Event::Cancelled; 3]);
}

#[test]
fn the_end_of_a_provider_is_told_with_what_may_have_run() {
    let house = House::new();
    for (id, is_held_back, executed) in [(1, false, "unknown"), (3, true, "no")] {
        let (provider, caller) = (house.provider(id, "i-1"), caller(id + 1));
        if is_held_back {
            provider.hold_back();
        }
        house.passed_on(&caller, b"mine", &provider);
        house.center.closed(&provider);
        let told = caller.take().pop().unwrap();
        assert_eq!((told.0.id(), code(&told.text())), (&b"mine"[..], (3, executed.to_owned(), String::new())));
        assert_eq!((house.relay.metrics().passed_on, caller.in_flight()), (0, 0));
        assert_eq!(code(&house.ask(&caller, RELAY, CALL)), refused(22, ""), "and later ones are not passed on");
    }
}

#[test]
fn nothing_is_said_of_what_may_still_leave_to_a_provider_that_sends_no_more() {
    let house = House::new();
    let (provider, caller) = (house.provider(1, "i-1"), caller(2));
    house.passed_on(&caller, b"left", &provider);
    house.center.ended(&provider);
    let told = |id: &[u8], executed: &str| {
        let told = caller.take().pop().unwrap();
        assert_eq!((told.0.id(), code(&told.text())), (id, (3, executed.to_owned(), String::new())));
    };
    told(b"left", "unknown");
    assert_eq!(code(&house.ask(&caller, RELAY, CALL)), refused(22, ""), "no answer would come");
    let (provider, other) = (house.provider(3, "i-1"), house.provider(4, "i-2"));
    provider.hold_back();
    house.passed_on(&caller, b"waits", &provider);
    house.center.ended(&provider);
    assert_eq!((caller.take(), house.relay.metrics().passed_on), (vec![], 1));
    // It leaves after all.
    provider.let_go();
    house.center.closed(&provider);
    told(b"waits", "unknown");
    // A provider that is a caller as well, and can't give calls up, still hears of its own ones.
    let old = session(5, "i-5", Features::ALL.without(Feature::Cancel), Some(Limits::default()));
    house.ask(&old, 4, REGISTER);
    house.send(&caller, RELAY, b"lost", &CALL.replace("i-1", "i-5"));
    house.send(&old, RELAY, b"own", &CALL.replace("i-1", "i-2"));
    house.center.ended(&old);
    told(b"lost", "unknown");
    old.take();
    house.send(&other, 1, other.take().pop().unwrap().0.id(), r#"{"rcode":0}"#);
    assert_eq!(old.take().pop().unwrap().0.id(), b"own");
}

#[tokio::test(start_paused = true)]
async fn a_call_is_answered_when_its_time_is_over_and_its_provider_told() {
    let house = House::new();
    let (provider, caller) = (house.provider(1, "i-1"), caller(2));
    let relay = Arc::clone(&house.relay);
    let kept = tokio::spawn(async move { relay.keep().await });
    let began = Instant::now();
    let first = house.passed_on(&caller, b"long", &provider);
    house.send(&caller, RELAY, b"short", &CALL.replace("5000", "20"));
    let second = provider.take().pop().unwrap();
    while house.relay.metrics().passed_on > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() >= Duration::from_secs(5) && began.elapsed() < Duration::from_millis(5100));
    let told: Vec<_> = caller.take().iter().map(|sent| (sent.0.id().to_vec(), code(&sent.text()))).collect();
    let late = (16, "unknown".to_owned(), String::new());
    assert_eq!(told, [(b"short".to_vec(), late.clone()), (b"long".to_vec(), late)]);
    let cancelled: Vec<_> = provider.take().iter().map(|sent| (sent.0.kind(), sent.0.id().to_vec())).collect();
    let cancel = |passed: &Sent| (MessageType::Cancel, passed.0.id().to_vec());
    assert_eq!(cancelled, [cancel(&second), cancel(&first)]);
    kept.abort();
}

#[test]
fn a_caller_that_does_not_read_loses_its_answers_and_harms_nobody() {
    let house = House::new();
    let (provider, caller) = (house.provider(1, "i-1"), caller(2));
    let passed = house.passed_on(&caller, b"mine", &provider);
    caller.fill();
    house.send(&provider, 1, passed.0.id(), r#"{"rcode":0,"result":3}"#);
    let told = caller.take().pop().unwrap();
    assert_eq!(code(&told.text()), (17, "unknown".to_owned(), String::new()));
    assert_eq!((house.relay.metrics().passed_on, provider.close_reason()), (0, None));
}

#[test]
fn who_registers_without_a_host_must_take_calls_over_its_connection() {
    let house = House::new();
    let rows = [
        Recorder::new(1),
        session(2, "i-1", Features::ALL, None),
        session(3, "", Features::ALL, Some(Limits::default())),
        session(4, "i-1", Features::ALL.without(Feature::Relay), Some(Limits::default())),
    ];
    for conn in rows {
        let answer = house.ask(&conn, 4, REGISTER);
        assert_eq!(code(&answer), refused(2, ""), "{answer}");
        assert!(answer.contains(r#""optype":0"#) && answer.contains("host"), "{answer}");
    }
}

#[test]
fn those_who_know_of_it_are_shown_it_and_no_others() {
    let house = House::new();
    let (knows, plain) = (caller(10), session(11, "x", Features::from_names(["relay"]), None));
    let (old, v1) = (session(12, "y", Features::ALL.without(Feature::Relay), None), Recorder::new(13));
    let discover = |conn: &Recorder| house.ask(conn, 4, r#"{"method":"add","optype":1}"#);
    for conn in [&knows, &plain, &old, &v1] {
        assert_eq!(code(&discover(conn)).0, 5);
    }
    let provider = house.provider(1, "i-1");
    let told = |conn: &Recorder| conn.take().iter().map(|sent| sent.text().into_owned()).collect::<Vec<_>>();
    let online = |rest: &str| vec![format!(r#"{{"method":"add","optype":2,"relay":true,"instance":"i-1"{rest}}}"#)];
    assert_eq!((told(&knows), told(&plain)), (online(r#","revision":1"#), online("")));
    assert_eq!((told(&old), told(&v1)), (vec![], vec![]));
    let list = r#""host":[{"relay":true,"instance":"i-1"}]"#;
    assert!(discover(&knows).contains(list) && discover(&plain).contains(list));
    for conn in [&old, &v1] {
        let answer = discover(conn);
        assert!(code(&answer).0 == 5 && answer.contains(r#""host":[]"#), "{answer}");
    }
    // Beside one that listens they see that one.
    let listens = Recorder::new(2);
    house.ask(&listens, 4, r#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":7}}"#);
    assert!(discover(&v1).contains(r#""host":[{"ip":"127.0.0.1","port":7}]"#));
    for conn in [&knows, &plain, &old, &v1] {
        conn.take();
    }
    house.ask(&provider, 4, r#"{"method":"add","optype":4,"relay":true}"#);
    assert_eq!(told(&knows), [r#"{"method":"add","optype":3,"relay":true,"instance":"i-1","revision":3}"#]);
    assert_eq!((told(&old), told(&v1)), (vec![], vec![]));
    assert_eq!(code(&house.ask(&knows, RELAY, CALL)), refused(22, ""), "nor is it called any more");
}

#[test]
fn a_provider_that_is_back_is_called_over_its_new_connection() {
    let house = House::new();
    let (first, caller) = (house.provider(1, "i-1"), caller(2));
    let second = house.provider(3, "i-1");
    house.passed_on(&caller, b"a", &second);
    house.center.closed(&first);
    house.passed_on(&caller, b"b", &second);
    assert_eq!(first.take(), []);
    // And over the one that is left where the last one goes.
    let third = house.provider(4, "i-1");
    house.passed_on(&caller, b"c", &third);
    house.center.closed(&third);
    caller.take();
    house.send(&caller, 20, b"a", "");
    house.passed_on(&caller, b"d", &second);
}
