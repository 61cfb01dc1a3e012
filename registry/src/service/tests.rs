use std::collections::HashSet;
use std::sync::Arc;

use callboard_common::{Dispatcher, FLAG_ONE_WAY, Features, Head, Host, Limits, Recorder, Sent, Session};
use uuid::Uuid;

use super::push::NOTICE_LOST;
use super::*;

const ADD_AT_1: &str = r#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":1}}"#;
const ADD_AT_2: &str = r#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":2}}"#;
const DISCOVER_ADD: &str = r#"{"method":"add","optype":1}"#;

fn session_peer(id: u64) -> Recorder {
    run_of(id, "", Features::ALL)
}

/// A connection of the run that is called `instance`.
fn run_of(id: u64, instance: &str, features: Features) -> Recorder {
    let (name, instance) = (String::new(), instance.to_owned());
    Recorder::with_session(
        id,
        Session { name, instance, store: None, features, limits: Limits::default(), heartbeats: None, serving: None },
    )
}

/// Sends a body and returns what came back to the sender.
fn send(service: &RegistryService<Recorder>, conn: &Recorder, body: &str) -> Vec<String> {
    service.handle(conn, conn.message(4, b"id", body.as_bytes()));
    conn.take().iter().map(|sent| sent.text().into_owned()).collect()
}

fn texts(conn: &Recorder) -> Vec<String> {
    conn.take().iter().map(|sent| sent.text().into_owned()).collect()
}

#[test]
fn requests_and_their_answers_to_the_byte() {
    let at_most = RegistryLimits {
        registered_per_connection: 1,
        watched_per_connection: 2,
        max_name_bytes: 4,
        ..RegistryLimits::default()
    };
    let error = |code: u8, optype: u8, message: &str, data: &str| {
        format!(r#"{{"rcode":{code},"optype":{optype},"error":{{"message":"{message}","executed":"no"{data}}}}}"#)
    };
    let rows = [
        (
            DISCOVER_ADD,
            r#"{"rcode":5,"optype":1,"method":"add","host":[],"error":{"message":"nobody provides this method now; the first to come is told","executed":"no"}}"#.to_owned(),
        ),
        (r#"{"method":"sub","optype":"SERVICE_REGISTRY","host":{"ip":"::1","port":7}}"#, r#"{"rcode":0,"optype":0}"#.to_owned()),
        (r#"{"method":"sub","optype":0,"host":{"ip":"::1","port":7}}"#, r#"{"rcode":0,"optype":0}"#.to_owned()),
        (r#"{"method":"sub","optype":1}"#, r#"{"rcode":0,"optype":1,"method":"sub","host":[{"ip":"::1","port":7}]}"#.to_owned()),
        (ADD_AT_1, error(17, 0, "this connection has registered 1 entries, and more are not taken: withdraw some, or raise the bound", r#","data":{"limit":"registered_per_connection","bound":1}"#)),
        (r#"{"method":"mul","optype":1}"#, error(17, 1, "this connection watches 2 methods, and more are not taken: use another connection, or raise the bound", r#","data":{"limit":"watched_per_connection","bound":2}"#)),
        (r#"{"method":"minus","optype":1}"#, error(21, 1, "the method's name has 5 bytes, over the bound of 4", r#","data":{"limit":"max_name_bytes","bound":4}"#)),
        (r#"{"method":"add","optype":2,"host":{"ip":"::1","port":7}}"#, error(6, 2, "online and offline are a center's to tell", "")),
        (r#"{"method":"add","optype":3}"#, error(6, 3, "online and offline are a center's to tell", "")),
        (r#"{"method":"sub","optype":4}"#, error(6, 4, "withdrawing takes a session; without one, close the connection", "")),
        (r#"{"method":"sub","optype":9}"#, error(6, 4, "optype 9 is not one of this kind's", "")),
        (r#"{"method":"sub","optype":0}"#, error(2, 0, r#"\"host\" is missing"#, "")),
        (r#"{"optype":1}"#, error(2, 1, r#"\"method\" is missing"#, "")),
    ];
    let service = RegistryService::new(at_most);
    let conn = Recorder::new(1);
    for (body, expected) in rows {
        assert_eq!(send(&service, &conn, body), [expected], "{body}");
    }
    assert!(send(&service, &conn, "{").first().unwrap().starts_with(r#"{"rcode":1,"optype":4,"#));
    let answer = conn.message(4, b"any \xff id", DISCOVER_ADD.as_bytes());
    service.handle(&conn, answer);
    let sent = conn.take();
    assert_eq!((sent[0].0.kind(), sent[0].0.id()), (MessageType::ServiceResponse, &b"any \xff id"[..]));
}

#[test]
fn a_watcher_is_told_of_providers_that_come_and_go() {
    let service = RegistryService::default();
    let (provider, other, watcher) = (Recorder::new(1), Recorder::new(2), Recorder::new(3));
    send(&service, &watcher, DISCOVER_ADD);
    send(&service, &provider, ADD_AT_1);
    send(&service, &other, ADD_AT_1);
    service.closed(&provider);
    service.closed(&other);
    let sent = watcher.take();
    let texts: Vec<_> = sent.iter().map(Sent::text).collect();
    assert_eq!(
        texts,
        [
            r#"{"method":"add","optype":2,"host":{"ip":"127.0.0.1","port":1}}"#,
            r#"{"method":"add","optype":3,"host":{"ip":"127.0.0.1","port":1}}"#,
        ]
    );
    let ids: HashSet<Uuid> =
        sent.iter().map(|sent| Uuid::parse_str(std::str::from_utf8(sent.0.id()).unwrap()).unwrap()).collect();
    assert!(ids.len() == 2 && ids.iter().all(|id| id.get_version_num() == 4));
    assert!(sent.iter().all(|sent| sent.0.kind() == MessageType::ServiceRequest && sent.0.flags() == 0));
    service.closed(&watcher);
    assert_eq!(service.size(), TableSize::default());
}

#[test]
fn all_watchers_get_the_same_bytes() {
    let service = RegistryService::default();
    let watchers: Vec<_> = (1..=3).map(Recorder::new).collect();
    for watcher in &watchers {
        send(&service, watcher, DISCOVER_ADD);
    }
    send(&service, &Recorder::new(9), ADD_AT_1);
    let frames: HashSet<_> = watchers.iter().map(|watcher| watcher.take()[0].0.frame().clone()).collect();
    assert_eq!(frames.len(), 1);
}

#[test]
fn revisions_and_instances_go_to_those_who_asked_for_them() {
    let service = RegistryService::default();
    let without = Features::from_names(["withdraw", "ping"]);
    let plain = [Recorder::new(1), run_of(2, "x", without)];
    let revised = [run_of(3, "x", Features::ALL), run_of(4, "y", Features::ALL)];
    let nobody = r#""error":{"message":"nobody provides this method now; the first to come is told","executed":"no"}"#;
    let mut answers = Vec::new();
    for watcher in plain.iter().chain(&revised) {
        answers.extend(send(&service, watcher, DISCOVER_ADD));
    }
    let expected = |revision: &str| format!(r#"{{"rcode":5,"optype":1,"method":"add","host":[],{revision}{nobody}}}"#);
    assert_eq!(answers[..2], [expected(""), expected("")]);
    assert_eq!(answers[2..], [expected(r#""revision":0,"#), expected(r#""revision":0,"#)]);

    send(&service, &run_of(5, "i-5", without), ADD_AT_1);
    let online = r#"{"method":"add","optype":2,"host":{"ip":"127.0.0.1","port":1}"#;
    let frames = |watchers: &[Recorder]| {
        let sent: Vec<_> = watchers.iter().flat_map(Recorder::take).collect();
        let frames: HashSet<_> = sent.iter().map(|sent| sent.0.frame().clone()).collect();
        assert_eq!((sent.len(), frames.len()), (2, 1), "one encoding for all of a form");
        sent[0].text().into_owned()
    };
    assert_eq!(frames(&plain), format!("{online}}}"));
    assert_eq!(frames(&revised), format!(r#"{online},"instance":"i-5","revision":1}}"#));

    let body = r#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":2},"instance":"other"}"#;
    send(&service, &Recorder::new(6), body);
    let of_own = body.replace("\"port\":2", "\"port\":3");
    send(&service, &revised[0], &of_own);
    let v1 = r#"{"rcode":0,"optype":1,"method":"add","host":[{"ip":"127.0.0.1","port":1},{"ip":"127.0.0.1","port":2},{"ip":"127.0.0.1","port":3}]}"#;
    let v2 = r#"{"rcode":0,"optype":1,"method":"add","host":[{"ip":"127.0.0.1","port":1,"instance":"i-5"},{"ip":"127.0.0.1","port":2},{"ip":"127.0.0.1","port":3,"instance":"other"}],"revision":3}"#;
    plain.iter().chain(&revised).for_each(|watcher| drop(watcher.take()));
    assert_eq!(send(&service, &plain[0], DISCOVER_ADD), [v1], "what a v1 peer says of an instance is not heard");
    assert_eq!(send(&service, &revised[1], DISCOVER_ADD), [v2]);
}

#[test]
fn an_instance_is_bounded_and_only_a_session_peers() {
    let service = RegistryService::default();
    let long =
        format!(r#"{{"method":"add","optype":0,"host":{{"ip":"::1","port":1}},"instance":"{}"}}"#, "x".repeat(257));
    let why = r#"{"rcode":2,"optype":0,"error":{"message":"\"instance\" has 257 bytes, over 256; nothing was registered","executed":"no"}}"#;
    assert_eq!(send(&service, &session_peer(1), &long), [why]);
    assert_eq!(service.size(), TableSize::default());
    assert_eq!(send(&service, &Recorder::new(2), &long), [r#"{"rcode":0,"optype":0}"#]);
    let odd = r#"{"method":"add","optype":0,"host":{"ip":"::1","port":1},"instance":7,"revision":"x"}"#;
    assert_eq!(send(&service, &Recorder::new(3), odd), [r#"{"rcode":0,"optype":0}"#]);
}

#[test]
fn a_host_is_reached_first_if_its_provider_asks_for_that_without_a_session() {
    let service = RegistryService::with_policy(RegistryLimits::default(), AvailabilityPolicy::default());
    let (unsure, v1, watcher) = (Recorder::new(1), Recorder::new(2), Recorder::new(3));
    send(&service, &watcher, DISCOVER_ADD);
    assert_eq!(send(&service, &v1, ADD_AT_2), [r#"{"rcode":0,"optype":0}"#], "taken at its word");
    assert_eq!(texts(&watcher).len(), 1);

    let asks = ADD_AT_1.replace(r#""optype":0"#, r#""optype":0,"probe":true"#);
    assert!(send(&service, &unsure, &asks).is_empty(), "it is answered when that is decided");
    let attempt = service.next_attempt().unwrap();
    let nobody = Unreached { is_refused: true, is_late: false, why: "nobody listens".to_owned() };
    service.tried(&attempt, &Err(nobody));
    assert!(texts(&unsure).first().unwrap().starts_with(r#"{"rcode":22,"optype":0,"#));
    assert!(texts(&watcher).is_empty(), "nobody is sent there");

    assert!(send(&service, &unsure, &asks).is_empty());
    service.tried(&service.next_attempt().unwrap(), &Ok(()));
    assert_eq!(texts(&unsure), [r#"{"rcode":0,"optype":0}"#]);
    let online = r#"{"method":"add","optype":2,"host":{"ip":"127.0.0.1","port":1}}"#;
    assert_eq!(texts(&watcher), [online]);
    service.closed(&unsure);
    assert_eq!(
        texts(&watcher),
        [online.replace(r#""optype":2"#, r#""optype":3"#)],
        "without a session there is no grace"
    );

    for odd in ["false", "1", r#""true""#, "null"] {
        let says = asks.replace(r#""probe":true"#, &format!(r#""probe":{odd}"#));
        assert_eq!(send(&service, &Recorder::new(4), &says), [r#"{"rcode":0,"optype":0}"#], "{odd}");
    }
}

#[test]
fn a_session_peer_withdraws_one_method_or_one_host() {
    let service = RegistryService::default();
    let (provider, watcher) = (session_peer(1), Recorder::new(2));
    for body in [ADD_AT_1, r#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":2}}"#] {
        send(&service, &provider, body);
    }
    send(&service, &watcher, DISCOVER_ADD);
    let one = r#"{"method":"add","optype":4,"host":{"ip":"127.0.0.1","port":1}}"#;
    assert_eq!(send(&service, &provider, one), [r#"{"rcode":0,"optype":4}"#]);
    assert_eq!(texts(&watcher), [r#"{"method":"add","optype":3,"host":{"ip":"127.0.0.1","port":1}}"#]);
    assert_eq!(send(&service, &provider, r#"{"method":"add","optype":4}"#), [r#"{"rcode":0,"optype":4}"#]);
    assert_eq!(texts(&watcher), [r#"{"method":"add","optype":3,"host":{"ip":"127.0.0.1","port":2}}"#]);
    assert_eq!(service.size(), TableSize { methods: 1, connections: 1, bytes: 460 + "add".len() });
}

#[test]
fn a_session_peer_that_goes_away_is_offline_at_once_and_another_is_not() {
    let center = Dispatcher::new().on_service(RegistryService::<Recorder>::default());
    let (provider, v1, watcher) = (session_peer(1), Recorder::new(2), session_peer(3));
    let goaway = br#"{"reason":"it stops","grace_ms":800}"#;
    for (conn, body) in [(&provider, ADD_AT_1), (&v1, ADD_AT_2), (&watcher, DISCOVER_ADD)] {
        center.handle(conn, conn.message(4, b"id", body.as_bytes()));
    }
    for conn in [&provider, &v1] {
        conn.take();
        center.handle(conn, conn.message(21, b"", goaway));
        assert!(conn.take().is_empty(), "it is not answered");
    }
    let told = texts(&watcher);
    assert!(told.len() == 2 && told[1].contains(r#""optype":3,"host":{"ip":"127.0.0.1","port":1}"#), "{told:?}");
    center.closed(&provider);
    assert!(watcher.take().is_empty(), "its end comes as no surprise");
    assert_eq!((provider.events().len(), v1.events()), (0, vec![Event::Ignored]));
}

#[test]
fn a_one_way_request_is_done_and_not_answered() {
    let service = RegistryService::default();
    let (provider, watcher) = (session_peer(1), session_peer(2));
    send(&service, &watcher, DISCOVER_ADD);
    let one_way = u32::from(FLAG_ONE_WAY) << 24 | 4;
    let withdraw = r#"{"method":"add","optype":4}"#;
    for body in [ADD_AT_1, withdraw, "{", r#"{"method":"add","optype":2}"#] {
        service.handle(&provider, provider.message(one_way, b"id", body.as_bytes()));
    }
    assert_eq!((provider.take().len(), texts(&watcher).len()), (0, 2));
    service.handle(&provider, provider.message(one_way, b"id", DISCOVER_ADD.as_bytes()));
    assert_eq!(service.size().connections, 1, "a list that nobody gets makes no watcher");
    assert_eq!(provider.events(), [Event::Refused; 3]);
}

#[test]
fn a_watcher_that_a_notice_does_not_fit_to_is_closed_and_nobody_else() {
    let service = RegistryService::default();
    let (slow, quick) = (Recorder::new(1), Recorder::new(2));
    send(&service, &slow, DISCOVER_ADD);
    send(&service, &quick, DISCOVER_ADD);
    slow.fill();
    assert_eq!(send(&service, &Recorder::new(3), ADD_AT_1), [r#"{"rcode":0,"optype":0}"#]);
    assert_eq!(slow.close_reason().as_deref(), Some(NOTICE_LOST));
    assert_eq!((quick.close_reason(), quick.take().len()), (None, 1));
}

#[test]
fn a_center_that_stops_does_not_call_its_providers_offline() {
    let service = RegistryService::default();
    let (provider, watcher) = (Recorder::new(1), Recorder::new(2));
    send(&service, &watcher, DISCOVER_ADD);
    send(&service, &provider, ADD_AT_1);
    watcher.take();
    service.drain();
    service.closed(&provider);
    assert!(watcher.take().is_empty());
    let answer = send(&service, &watcher, DISCOVER_ADD).concat();
    assert!(answer.starts_with(r#"{"rcode":22,"optype":1,"#), "what it no longer knows it does not say: {answer}");
    service.closed(&watcher);
    assert_eq!(service.size(), TableSize::default());
}

#[test]
fn answers_and_notices_are_one_history_however_many_register_at_once() {
    let service = Arc::new(RegistryService::default());
    let provide = |id: u64| {
        let service = Arc::clone(&service);
        move || {
            for _ in 0..100 {
                let conn = Recorder::new(id);
                let host =
                    format!(r#"{{"method":"add","optype":0,"host":{{"ip":"127.0.0.1","port":{}}}}}"#, id % 3 + 1);
                send(&service, &conn, &host);
                service.closed(&conn);
            }
        }
    };
    let watch = |id: u64| {
        let service = Arc::clone(&service);
        move || {
            let conn = Recorder::new(id);
            (0..50).for_each(|_| service.handle(&conn, conn.message(4, b"id", DISCOVER_ADD.as_bytes())));
            conn
        }
    };
    let providers: Vec<_> = (1..=6).map(|id| std::thread::spawn(provide(id))).collect();
    let watchers: Vec<_> = (11..=13).map(|id| std::thread::spawn(watch(id))).collect();
    for provider in providers {
        provider.join().unwrap();
    }
    for watcher in watchers.into_iter().map(|thread| thread.join().unwrap()) {
        assert!(check_history(&watcher).is_empty(), "all providers have gone");
    }
}

/// Follows what one watcher was sent; returns what it believes at the end.
fn check_history(watcher: &Recorder) -> HashSet<Host> {
    let mut view = HashSet::new();
    for sent in watcher.take() {
        if sent.0.kind() == MessageType::ServiceResponse {
            let answer = ServiceAnswer::decode::<Json>(sent.0.body()).unwrap();
            let hosts: HashSet<Host> = answer.hosts.unwrap().iter().map(|listed| listed.host).collect();
            assert!(view.is_empty() || view == hosts, "the first answer begins the history, later ones repeat it");
            view = hosts;
        } else {
            let notice = ServiceRequest::decode::<Json>(sent.0.body()).unwrap();
            let host = notice.host.unwrap();
            let is_news = if notice.op == ServiceOp::Online { view.insert(host) } else { view.remove(&host) };
            assert!(is_news, "{watcher:?} has {}", sent.text());
        }
    }
    view
}

#[tokio::test(start_paused = true)]
async fn who_finds_nobody_at_a_center_that_has_just_begun_is_told_for_how_long_that_says_little() {
    let policy = AvailabilityPolicy { warm_up: Duration::from_secs(2), ..AvailabilityPolicy::trusting() };
    let service = RegistryService::with_policy(RegistryLimits::default(), policy);
    let (asker, v1) = (session_peer(1), Recorder::new(2));
    let discover = |conn: &Recorder| send(&service, conn, DISCOVER_ADD).remove(0);
    assert!(discover(&asker).contains(r#""revision":0,"warm_up_ms":2000,"#));
    assert!(!discover(&v1).contains("warm_up_ms"), "nothing beyond v1 for a v1 peer");
    tokio::time::advance(Duration::from_micros(1_999_500)).await;
    assert!(discover(&asker).contains(r#""warm_up_ms":1,"#), "a time that has begun");
    tokio::time::advance(Duration::from_micros(500)).await;
    assert!(!discover(&asker).contains("warm_up_ms"), "by now it is known");
}

#[tokio::test(start_paused = true)]
async fn where_somebody_is_found_nobody_is_waited_for() {
    let policy = AvailabilityPolicy { warm_up: Duration::MAX, ..AvailabilityPolicy::trusting() };
    let service = RegistryService::with_policy(RegistryLimits::default(), policy);
    let asker = session_peer(1);
    assert!(send(&service, &asker, DISCOVER_ADD)[0].contains(&format!(r#""warm_up_ms":{},"#, u64::MAX)));
    let _ = send(&service, &Recorder::new(2), ADD_AT_1);
    let _ = asker.take();
    assert!(!send(&service, &asker, DISCOVER_ADD)[0].contains("warm_up_ms"));
}

#[test]
fn a_call_is_queued_for_a_provider_before_the_answer_to_its_withdrawal_or_not_at_all() {
    let rows = [(4, r#"{"method":"add","optype":4}"#), (4, r#"{"method":"add","optype":4,"relay":true}"#), (21, "{}")];
    for (kind, leaves) in rows {
        let (service, session) = (Arc::new(RegistryService::default()), serving_session("i-1"));
        let provider = Recorder::with_session(1, session);
        assert_eq!(send(&service, &provider, r#"{"method":"add","optype":0}"#), [r#"{"rcode":0,"optype":0}"#]);
        let (done, is_done) = std::sync::mpsc::channel();
        let taking_back = service.with_line("add", Host::relayed("i-1"), None, |line| {
            let Line::There(line, _) = line else { panic!("{leaves}") };
            let (service, provider) = (Arc::clone(&service), provider.clone());
            let taking_back = std::thread::spawn(move || {
                service.handle(&provider, provider.message(kind, b"id", leaves.as_bytes()));
                done.send(()).unwrap();
            });
            // It never comes: there is nothing to be late for.
            assert!(is_done.recv_timeout(Duration::from_millis(100)).is_err(), "{leaves}");
            line.request(Head::new(MessageType::Ping, b"call"), &callboard_common::Ping).unwrap();
            taking_back
        });
        taking_back.join().unwrap();
        assert_eq!(provider.take().first().unwrap().0.id(), b"call", "{leaves}");
        assert!(service.with_line("add", Host::relayed("i-1"), None, |line| matches!(line, Line::Gone)), "{leaves}");
    }
}

fn serving_session(instance: &str) -> Session {
    let (name, limits) = (String::new(), Limits::default());
    let (instance, serving) = (instance.to_owned(), Some(limits));
    Session { name, instance, store: None, features: Features::ALL, limits, heartbeats: None, serving }
}
