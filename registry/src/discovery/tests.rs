use std::sync::atomic::{AtomicUsize, Ordering};

use std::sync::Mutex;

use callboard_client::Conn;
use callboard_common::{
    Connection, Dispatcher, ErrorInfo, GoAway, Handler, Head, ListedHost, MessageType, ServiceAnswer,
};
use callboard_net::{Serving, Settings, serve};
use callboard_server::Sessions;
use tokio::time::timeout;
use tokio_stream::StreamExt;

use super::*;
use crate::testing::{LONG, dead_host};

/// A center that is no center: it does as `script` says with each discovery, of which it gets the number.
struct Scripted<F>(AtomicUsize, F);

impl<F: Fn(&Conn, &Message, usize) + Send + Sync + 'static> Handler<Conn> for Scripted<F> {
    fn handle(&self, conn: &Conn, message: Message) {
        (self.1)(conn, &message, self.0.fetch_add(1, Ordering::SeqCst));
    }
}

async fn scripted(
    timeout: Duration,
    script: impl Fn(&Conn, &Message, usize) + Send + Sync + 'static,
) -> (Serving, Discovery) {
    let settings = Settings { loops: 1, ..Settings::default() };
    let sessions = Sessions::for_server("scripted center", &settings.limits);
    let handler = Dispatcher::new().on_service(Scripted(AtomicUsize::new(0), script)).on_session(sessions);
    let serving = serve(&["127.0.0.1:0".parse().unwrap()], settings, Arc::new(handler)).await.unwrap();
    let client = Client::builder().timeout(LONG);
    let client = client.connect(serving.addresses()[0].to_string()).await.unwrap().with_timeout(timeout);
    (serving, Discovery::new(&client))
}

fn answer(conn: &Conn, message: &Message, hosts: &[Host]) {
    let hosts: Vec<_> = hosts.iter().copied().map(ListedHost::from).collect();
    let hosts = Some(hosts.into());
    conn.answer(message.id(), &ServiceAnswer { hosts, ..ServiceAnswer::ok(ServiceOp::Discover) }).unwrap();
}

fn notify(conn: &Conn, kind: MessageType, port: u16, op: ServiceOp) {
    let body = ServiceRequest::new("add", op).at(dead_host(port));
    conn.try_send(conn.encode(Head::new(kind, b"notice"), &body).unwrap()).unwrap();
}

#[tokio::test]
async fn a_center_may_send_notices_before_the_answer_and_as_calls() {
    let (_center, discovery) = scripted(LONG, |conn, message, _| {
        notify(conn, MessageType::RpcRequest, 2, ServiceOp::Online);
        notify(conn, MessageType::ServiceRequest, 3, ServiceOp::Offline);
        answer(conn, message, &[dead_host(1), dead_host(3)]);
        notify(conn, MessageType::RpcRequest, 1, ServiceOp::Offline);
    })
    .await;
    let mut notices = discovery.notices();
    discovery.hosts("add").await.unwrap();
    for (port, online) in [(2, true), (3, false), (1, false)] {
        let notice = timeout(LONG, notices.next()).await.unwrap().unwrap();
        assert_eq!((notice.host, notice.online), (dead_host(port), online));
    }
    assert_eq!(discovery.hosts("add").await.unwrap()[..], [dead_host(2)]);
}

#[tokio::test]
async fn a_look_up_that_is_not_answered_is_repeated_within_the_callers_deadline() {
    let (_center, discovery) = scripted(Duration::from_millis(30), |conn, message, number| {
        if number > 0 {
            answer(conn, message, &[dead_host(1)]);
        }
    })
    .await;
    let error = discovery.hosts("add").await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
    assert_eq!(discovery.hosts_until("add", deadline_after(LONG)).await.unwrap()[..], [dead_host(1)]);
}

#[tokio::test]
async fn what_is_no_answer_is_an_error_and_not_remembered() {
    let (_center, discovery) = scripted(LONG, |conn, message, number| match number {
        0 => conn.answer(message.id(), &Garbage).unwrap(),
        _ => answer(conn, message, &[dead_host(1)]),
    })
    .await;
    let error = discovery.hosts("add").await.unwrap_err();
    assert!(matches!(error.kind(), CallErrorKind::Decode), "{error}");
    assert_eq!(discovery.hosts("add").await.unwrap()[..], [dead_host(1)]);
}

fn refuse(conn: &Conn, message: &Message) {
    let error = Some(ErrorInfo::not_executed("not now"));
    let answer = ServiceAnswer { code: ResultCode::Overloaded, error, ..ServiceAnswer::ok(ServiceOp::Discover) };
    conn.answer(message.id(), &answer).unwrap();
}

#[tokio::test]
async fn a_center_that_refuses_a_second_look_up_is_asked_until_it_answers_whoever_looks() {
    let (_center, discovery) = scripted(LONG, |conn, message, number| match number {
        0 => answer(conn, message, &[dead_host(1)]),
        1 | 2 => refuse(conn, message),
        _ => answer(conn, message, &[dead_host(1), dead_host(2)]),
    })
    .await;
    discovery.hosts("add").await.unwrap();
    let mut notices = discovery.notices();
    discovery.client().hang_up("the test ends it");
    let notice = timeout(LONG, notices.next()).await.unwrap().unwrap();
    assert_eq!((notice.host, notice.online), (dead_host(2), true));
}

#[tokio::test]
async fn a_center_that_is_about_to_leave_and_does_not_say_so_is_not_stormed() {
    let (_center, discovery) = scripted(LONG, |conn, message, number| match number {
        0..=2 => callboard_common::refuse_draining(conn, message),
        _ => answer(conn, message, &[dead_host(1)]),
    })
    .await;
    let began = Instant::now();
    assert_eq!(discovery.hosts("add").await.unwrap()[..], [dead_host(1)]);
    assert!(began.elapsed() >= FIRST_PAUSE * (1 + 2 + 4), "{:?}", began.elapsed());
}

#[tokio::test]
async fn what_is_in_doubt_is_asked_for_no_more_once_the_client_is_closed() {
    let (_center, discovery) = scripted(LONG, |conn, message, number| match number {
        0 => answer(conn, message, &[dead_host(1)]),
        _ => refuse(conn, message),
    })
    .await;
    discovery.hosts("add").await.unwrap();
    discovery.client().hang_up("the test ends it");
    let until = async |settles| {
        while discovery.state.lock().settles != settles {
            sleep(Duration::from_millis(1)).await;
        }
    };
    timeout(LONG, until(true)).await.unwrap();
    discovery.client().close();
    timeout(LONG, until(false)).await.unwrap();
}

#[tokio::test]
async fn a_missed_change_is_asked_for_without_a_look_up() {
    let (_center, discovery) = scripted(LONG, |conn, message, number| {
        let hosts = if number == 0 { vec![dead_host(1)] } else { vec![dead_host(1), dead_host(2), dead_host(3)] };
        let revision = Some(if number == 0 { 1 } else { 3 });
        let listed = ServiceAnswer {
            hosts: Some(hosts.into_iter().map(ListedHost::from).collect::<Vec<_>>().into()),
            revision,
            ..ServiceAnswer::ok(ServiceOp::Discover)
        };
        conn.answer(message.id(), &listed).unwrap();
        if number == 0 {
            let revision = Some(3); // where is the second?
            let body = ServiceRequest { revision, ..ServiceRequest::new("add", ServiceOp::Online).at(dead_host(3)) };
            let head = Head::new(MessageType::ServiceRequest, b"notice");
            conn.try_send(conn.encode(head, &body).unwrap()).unwrap();
        }
    })
    .await;
    let mut notices = discovery.notices();
    discovery.hosts("add").await.unwrap();
    for port in [3, 2] {
        let notice = timeout(LONG, notices.next()).await.unwrap().unwrap();
        assert_eq!((notice.host, notice.online), (dead_host(port), true));
    }
}

#[tokio::test]
async fn a_look_up_that_is_under_way_when_the_center_leaves_is_repeated_over_the_next_connection() {
    let conns: Arc<Mutex<Vec<(Conn, Message)>>> = Arc::default();
    let asked = Arc::clone(&conns);
    let (_center, discovery) = scripted(LONG, move |conn, message, number| {
        asked.lock().unwrap().push((conn.clone(), message.clone()));
        if number == 0 {
            let leave = GoAway { reason: "restart".into(), grace: LONG };
            conn.try_send(conn.encode(Head::new(MessageType::GoAway, b""), &leave).unwrap()).unwrap();
        } else {
            answer(conn, message, &[dead_host(1)]);
        }
    })
    .await;
    assert_eq!(discovery.hosts("add").await.unwrap()[..], [dead_host(1)]);
    let mut notices = discovery.notices();
    let (first, second) = {
        let conns = conns.lock().unwrap();
        (conns[0].clone(), conns[1].clone())
    };
    answer(&first.0, &first.1, &[dead_host(3)]);
    first.0.flushed().await.unwrap();
    notify(&second.0, MessageType::ServiceRequest, 2, ServiceOp::Online);
    let notice = timeout(LONG, notices.next()).await.unwrap().unwrap();
    assert_eq!((notice.host, notice.online), (dead_host(2), true), "that is heard over the next connection only");
    assert_eq!(discovery.hosts("add").await.unwrap()[..], [dead_host(1), dead_host(2)]);
}

struct Garbage;

impl callboard_common::Encode for Garbage {
    fn kind(&self) -> MessageType {
        MessageType::ServiceResponse
    }

    fn encode<C: callboard_common::Codec>(
        &self,
        out: &mut bytes::BytesMut,
    ) -> Result<(), callboard_common::EncodeError> {
        C::write("no object", out)
    }
}
