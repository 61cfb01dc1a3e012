use std::borrow::Cow;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use callboard_common::{
    Connection, Decode, EncodeError, ErrorInfo, Event, Handler, Head, Json, Message, MessageType, ResultCode,
    SendError, ServiceAnswer, ServiceOp, ServiceRequest, Shared, refuse, refuse_body,
};
use uuid::Uuid;

use crate::{Effects, Notice, RegistryLimits, Table, TableSize};

/// The center's side of the registry: REQ_SERVICE in, answers and online/offline notices out.
///
/// Answers and notices are queued while the table is locked, so every watcher sees them in the order of the table. A
/// watcher that a notice does not fit to is closed: a list of hosts that is wrong for good is worse than a reconnect.
///
/// ```
/// use callboard_common::{Dispatcher, Handler, Recorder};
/// use callboard_registry::{RegistryLimits, RegistryService};
///
/// let center = Dispatcher::new().on_service(RegistryService::new(RegistryLimits::default()));
/// let provider = Recorder::new(1);
/// let body = br#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":7071}}"#;
/// center.handle(&provider, provider.message(4, b"1", body));
/// assert_eq!(provider.take()[0].text(), r#"{"rcode":0,"optype":0}"#);
///
/// let caller = Recorder::new(2);
/// center.handle(&caller, caller.message(4, b"2", br#"{"method":"add","optype":1}"#));
/// assert!(caller.take()[0].text().contains(r#""host":[{"ip":"127.0.0.1","port":7071}]"#));
/// ```
#[derive(Debug)]
pub struct RegistryService<C: Connection> {
    table: Mutex<Table<C>>,
    /// Connections end because this center stops, which says nothing of the peers.
    draining: AtomicBool,
}

impl<C: Connection> RegistryService<C> {
    /// An empty registry with these limits.
    pub fn new(limits: RegistryLimits) -> Self {
        Self { table: Mutex::new(Table::new(limits)), draining: AtomicBool::new(false) }
    }

    /// To be called before the center closes its connections: from now on nobody is told that a provider whose connection
    /// ends went offline. It did not: the center goes. Else the callers whose connections end last would forget whom they
    /// can call directly while there is no center.
    pub fn drain(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// How much it holds.
    pub fn size(&self) -> TableSize {
        self.table().size()
    }

    fn table(&self) -> MutexGuard<'_, Table<C>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn register(&self, conn: &C, message: &Message, request: &ServiceRequest<'_>) {
        let Some(host) = request.host else { return };
        let mut table = self.table();
        match table.register(conn, &request.method, host, &mut Push { from: Some(conn) }) {
            Ok(()) => answer_ok(conn, message, ServiceOp::Register),
            Err(why) => refuse_op(conn, message, request.op, why.code(), &why.to_error()),
        }
    }

    fn discover(&self, conn: &C, message: &Message, request: &ServiceRequest<'_>) {
        if message.is_one_way() {
            // It would hear of changes to a list that it was never given.
            return conn.count(Event::Refused);
        }
        let mut table = self.table();
        let hosts = match table.discover(conn, &request.method) {
            Ok(hosts) => hosts,
            Err(why) => return refuse_op(conn, message, request.op, why.code(), &why.to_error()),
        };
        if let Err(SendError::Encode(why)) = conn.answer(message.id(), &host_list(&request.method, &hosts)) {
            table.stop_watching(conn, &request.method);
            refuse_list(conn, message, &why);
        }
    }

    fn withdraw(&self, conn: &C, message: &Message, request: &ServiceRequest<'_>) {
        if conn.session().is_none() {
            return refuse_here(
                conn,
                message,
                request.op,
                "withdrawing takes a session; without one, close the connection",
            );
        }
        let mut table = self.table();
        table.withdraw(conn, &request.method, request.host, &mut Push { from: Some(conn) });
        answer_ok(conn, message, ServiceOp::Withdraw);
    }
}

impl<C: Connection> Default for RegistryService<C> {
    fn default() -> Self {
        Self::new(RegistryLimits::default())
    }
}

impl<C: Connection> Handler<C> for RegistryService<C> {
    fn handle(&self, conn: &C, message: Message) {
        let request = match ServiceRequest::decode::<Json>(message.body()) {
            Ok(request) => request,
            Err(why) => return refuse_body(conn, &message, &why),
        };
        match request.op {
            ServiceOp::Register => self.register(conn, &message, &request),
            ServiceOp::Discover => self.discover(conn, &message, &request),
            ServiceOp::Withdraw => self.withdraw(conn, &message, &request),
            ServiceOp::Online | ServiceOp::Offline => {
                refuse_here(conn, &message, request.op, "online and offline are a center's to tell");
            }
        }
    }

    fn closed(&self, conn: &C) {
        let mut table = self.table();
        if self.draining.load(Ordering::SeqCst) {
            table.leave(conn, &mut Silence);
        } else {
            table.leave(conn, &mut Push { from: None });
        }
    }
}

/// Queues notices as the table tells them.
struct Push<'a, C> {
    /// Who caused them: it is not read while a watcher that makes progress catches up.
    from: Option<&'a C>,
}

impl<C: Connection> Effects<C> for Push<'_, C> {
    fn notice(&mut self, notice: &Notice, watchers: &BTreeSet<C>) {
        let Some(frame) = watchers.first().map(|first| encode_notice(first, notice)) else { return };
        for watcher in watchers {
            let queued = frame.as_ref().map_or(Err(SendError::Full), |frame| watcher.push(frame, self.from));
            // One that is closed is on its way out of the table.
            if let Err(SendError::Full | SendError::Encode(_)) = queued {
                watcher.close(Cow::Borrowed(NOTICE_LOST));
            }
        }
    }
}

/// Tells nobody.
struct Silence;

impl<C> Effects<C> for Silence {
    fn notice(&mut self, _notice: &Notice, _watchers: &BTreeSet<C>) {}
}

/// Once for all watchers: they are all the same center's connections, with the same protocol.
fn encode_notice<C: Connection>(conn: &C, notice: &Notice) -> Result<Shared, EncodeError> {
    let mut id = Uuid::encode_buffer();
    let id = Uuid::new_v4().hyphenated().encode_lower(&mut id);
    let op = if notice.online { ServiceOp::Online } else { ServiceOp::Offline };
    let body = ServiceRequest { method: Cow::Borrowed(&notice.method), op, host: Some(notice.host) };
    let frame = conn.encode(Head::new(MessageType::ServiceRequest, id.as_bytes()), &body)?;
    Ok(conn.share(frame))
}

fn host_list<'a>(method: &'a str, hosts: &'a [callboard_common::Host]) -> ServiceAnswer<'a> {
    let none = hosts.is_empty();
    ServiceAnswer {
        code: if none { ResultCode::NotFoundService } else { ResultCode::Ok },
        op: Some(ServiceOp::Discover),
        method: Some(Cow::Borrowed(method)),
        hosts: Some(Cow::Borrowed(hosts)),
        error: none.then(|| ErrorInfo::not_executed("nobody provides this method now; the first to come is told")),
    }
}

fn answer_ok<C: Connection>(conn: &C, message: &Message, op: ServiceOp) {
    if !message.is_one_way() {
        // The peer may have gone meanwhile; then there is nobody to tell.
        let _ = conn.answer(message.id(), &ServiceAnswer::ok(op));
    }
}

/// An operation that this peer may not ask for.
fn refuse_here<C: Connection>(conn: &C, message: &Message, op: ServiceOp, why: &str) {
    refuse_op(conn, message, op, ResultCode::InvalidOptype, &ErrorInfo::not_executed(why));
}

fn refuse_list<C: Connection>(conn: &C, message: &Message, why: &EncodeError) {
    let text = format!("the hosts do not fit into an answer ({why}); changes are not told");
    let error = ErrorInfo::not_executed(text).with_limit_of(why);
    refuse_op(conn, message, ServiceOp::Discover, ResultCode::TooLarge, &error);
}

fn refuse_op<C: Connection>(conn: &C, message: &Message, op: ServiceOp, code: ResultCode, error: &ErrorInfo) {
    refuse(conn, message, code, Some(op.to_wire()), error);
}

const NOTICE_LOST: &str = "an online or offline notice could not be queued: the watcher reads too slowly";

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Arc;

    use callboard_common::{FLAG_ONE_WAY, Features, Host, Limits, Recorder, Sent, Session};

    use super::*;

    const ADD_AT_1: &str = r#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":1}}"#;
    const DISCOVER_ADD: &str = r#"{"method":"add","optype":1}"#;

    fn session_peer(id: u64) -> Recorder {
        let (name, instance) = (String::new(), String::new());
        Recorder::with_session(id, Session { name, instance, features: Features::ALL, limits: Limits::default() })
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
        let at_most = RegistryLimits { registered_per_connection: 1, watched_per_connection: 2, max_name_bytes: 4 };
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
        assert_eq!(service.size(), TableSize { methods: 1, connections: 1 });
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
                let hosts: HashSet<Host> = answer.hosts.unwrap().iter().copied().collect();
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
}
