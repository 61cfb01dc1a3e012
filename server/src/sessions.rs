use std::borrow::Cow;
use std::sync::Arc;

use callboard_common::{
    BodyError, Connection, Decode, Feature, Features, Handler, Heartbeats, Json, Limits, Message, ResultCode, Session,
    SessionAnswer, SessionRequest, refuse_body,
};
use uuid::Uuid;

use crate::Router;

/// Opens sessions: answers REQ_SESSION with which run of this program the peer speaks to, what both sides can do beyond
/// v1, and what the peer must keep within.
///
/// ```
/// use callboard_common::{Connection, Handler, Limits, Recorder};
/// use callboard_server::Sessions;
/// let sessions = Sessions::new("calculator", Limits::default());
/// let conn = Recorder::new(1);
/// sessions.handle(&conn, conn.message(16, b"id", br#"{"version":2,"features":["ping"]}"#));
/// assert!(conn.session().is_some());
/// ```
#[derive(Clone, Debug)]
pub struct Sessions {
    name: String,
    instance: String,
    store: Option<String>,
    limits: Limits,
    features: Features,
    /// One for all sessions: connections are many.
    heartbeats: Arc<Heartbeats>,
}

impl Sessions {
    /// Sessions of the program that is called `name` in its log, in which a peer must keep within `limits`. The
    /// instance is a new UUID.
    pub fn new(name: impl Into<String>, limits: Limits) -> Self {
        let (name, instance) = (name.into(), Uuid::new_v4().to_string());
        let features = Features::ALL.without(Feature::Relay).without(Feature::Callers);
        Self { name, instance, store: None, limits, features, heartbeats: Arc::default() }
    }

    /// The same with what a server's limits permit each peer.
    pub fn for_server(name: impl Into<String>, limits: &callboard_net::Limits) -> Self {
        let wide = |bound| u64::try_from(bound).unwrap_or(u64::MAX);
        let session = Limits { max_frame_bytes: wide(limits.max_frame_bytes), in_flight: wide(limits.in_flight) };
        Self { heartbeats: Arc::new(limits.heartbeats), ..Self::new(name, session) }
    }

    /// The same under another name for this run of the program, which no other run may have had.
    #[must_use]
    pub fn with_instance(self, instance: impl Into<String>) -> Self {
        Self { instance: instance.into(), ..self }
    }

    /// The same of a program with these methods: where their answers to calls under keys are kept in a
    /// [store](crate::AnswerStore), peers that know keys are told its name.
    #[must_use]
    pub fn with_keys_of(self, router: &Router) -> Self {
        Self { store: router.0.shelf().store_id().map(str::to_owned), ..self }
    }

    /// The same of a program that passes calls on to providers that listen nowhere.
    #[must_use]
    pub fn relaying(self) -> Self {
        Self { features: Features::ALL, ..self }
    }

    /// What the program calls itself.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Which run of the program this is: the same in every session, another after a restart.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// What a peer permits that offers methods: not more at once than it is permitted itself.
    fn serving(&self, named: Option<Limits>) -> Limits {
        let named = named.unwrap_or_default();
        Limits { in_flight: named.in_flight.min(self.limits.in_flight), ..named }
    }

    fn open<C: Connection>(&self, conn: &C, message: &Message) -> Result<(), BodyError> {
        let request = SessionRequest::decode::<Json>(message.body())?;
        let features = Features::from_names(request.features.iter().map(|name| &**name)) & self.features;
        let heartbeats = features.has(Feature::Heartbeat).then(|| Arc::clone(&self.heartbeats));
        let answers_keys = features.has(Feature::Serves) && features.has(Feature::Keys);
        let session = Session {
            name: bounded("name", request.name)?,
            instance: bounded("instance", request.instance)?,
            store: request.store.filter(|_| answers_keys).map(|store| store.into_owned().into()),
            features,
            limits: self.limits,
            heartbeats,
            serving: features.has(Feature::Serves).then(|| self.serving(request.limits)),
        };
        if !conn.open_session(session) {
            return Err(BodyError::invalid("a session is opened by the connection's first frame, once"));
        }
        tracing::debug!(server = self.name, peer = conn.peer(), session = ?conn.session(), "session opened");
        let answer = SessionAnswer {
            code: ResultCode::Ok,
            version: VERSION,
            instance: Cow::Borrowed(&self.instance),
            store: self.store.as_deref().filter(|_| features.has(Feature::Keys)).map(Cow::Borrowed),
            features: features.names().map(Cow::Borrowed).collect(),
            limits: self.limits,
            heartbeats: features.has(Feature::Heartbeat).then_some(*self.heartbeats),
            error: None,
        };
        // The peer may have gone meanwhile; then there is nobody to tell.
        let _ = conn.answer(message.id(), &answer);
        Ok(())
    }
}

impl<C: Connection> Handler<C> for Sessions {
    fn handle(&self, conn: &C, message: Message) {
        if let Err(why) = self.open(conn, &message) {
            refuse_body(conn, &message, &why);
        }
    }
}

fn bounded(key: &str, text: Cow<'_, str>) -> Result<String, BodyError> {
    if text.len() > MAX_NAME_BYTES {
        return Err(BodyError::invalid(format!("\"{key}\" has {} bytes, over {MAX_NAME_BYTES}", text.len())));
    }
    Ok(text.into_owned())
}

/// The version of the protocol that a session speaks.
const VERSION: i64 = 2;
/// The longest name and instance that a peer may give, in bytes: a connection keeps them for its life.
const MAX_NAME_BYTES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use callboard_common::{Dispatcher, Event, Feature, Recorder};

    fn sessions() -> Sessions {
        Sessions::for_server("test", &callboard_net::Limits { in_flight: 7, ..Default::default() })
    }

    #[test]
    fn a_session_is_opened_with_what_both_sides_know() {
        let (sessions, conn) = (sessions(), Recorder::new(1));
        let body = br#"{"version":3,"name":"n","instance":"i","features":["telepathy","ping"],"more":1}"#;
        sessions.handle(&conn, conn.message(16, b"id", body));
        let sent = conn.take().remove(0);
        let instance = sessions.instance();
        let limits = r#"{"max_frame_bytes":16777216,"in_flight":7}"#;
        let expected =
            format!(r#"{{"rcode":0,"version":2,"instance":"{instance}","features":["ping"],"limits":{limits}}}"#);
        assert_eq!((sent.0.id(), &*sent.text()), (&b"id"[..], &*expected));
        let session = conn.session().unwrap();
        assert_eq!((&*session.name, &*session.instance, session.limits.in_flight), ("n", "i", 7));
        assert!(session.features.has(Feature::Ping) && !session.features.has(Feature::OneWay));
        assert_eq!(Uuid::parse_str(instance).unwrap().get_version_num(), 4);
    }

    #[test]
    fn the_store_is_named_to_those_that_know_keys() {
        for (features, named) in [(r#""keys""#, r#""store":"s-1","#), (r#""ping""#, "")] {
            let (sessions, conn) = (sessions().with_instance("i"), Recorder::new(1));
            let sessions = Sessions { store: Some("s-1".into()), ..sessions };
            let body = format!(r#"{{"version":2,"features":[{features}]}}"#);
            sessions.handle(&conn, conn.message(16, b"id", body.as_bytes()));
            let text = conn.take().remove(0).text().into_owned();
            let begin = format!(r#"{{"rcode":0,"version":2,"instance":"i",{named}"features":[{features}],"#);
            assert!(text.starts_with(&begin), "{text}");
            assert_eq!(conn.session().unwrap().store, None, "it is the other side's");
        }
    }

    #[test]
    fn the_store_of_one_that_offers_methods_and_knows_keys_is_remembered() {
        for (features, store, expected) in [
            (r#""keys","serves""#, r#""s-1""#, Some("s-1")),
            (r#""keys""#, r#""s-1""#, None),
            (r#""serves""#, r#""s-1""#, None),
            (r#""keys","serves""#, r#""""#, None),
            (r#""keys","serves""#, "1", None),
        ] {
            let (sessions, conn) = (sessions(), Recorder::new(1));
            let body = format!(r#"{{"version":2,"features":[{features}],"store":{store}}}"#);
            sessions.handle(&conn, conn.message(16, b"id", body.as_bytes()));
            assert_eq!(conn.session().unwrap().store.as_deref(), expected, "{body}");
        }
    }

    #[test]
    fn what_opens_no_session() {
        let long = format!(r#"{{"version":2,"name":"{}"}}"#, "x".repeat(257));
        let rows = [
            ("{", 1, "not valid JSON"),
            ("[]", 2, "not an object"),
            (r#"{"name":"x"}"#, 2, "version"),
            (r#"{"version":1}"#, 2, "version"),
            (r#"{"version":2,"features":"ping"}"#, 2, "features"),
            (&long, 2, "name"),
            (&long.replace("name", "instance"), 2, "instance"),
        ];
        for (body, code, names) in rows {
            let conn = Recorder::new(1);
            sessions().handle(&conn, conn.message(16, b"id", body.as_bytes()));
            let text = conn.take().remove(0).text().into_owned();
            assert!(text.starts_with(&format!(r#"{{"rcode":{code},"error":"#)), "{body}: {text}");
            assert!(text.contains(names) && text.contains(r#""executed":"no""#), "{body}: {text}");
            assert_eq!((conn.session(), &conn.events()[..]), (None, &[Event::Refused][..]));
        }
    }

    #[test]
    fn a_session_is_opened_once_and_first() {
        let dispatcher = Dispatcher::new().on_session(sessions());
        let open = |conn: &Recorder| {
            dispatcher.handle(conn, conn.message(16, b"", br#"{"version":2}"#));
            conn.take().pop().unwrap().text().into_owned()
        };
        let (twice, late) = (Recorder::new(1), Recorder::new(2));
        assert!(open(&twice).starts_with(r#"{"rcode":0"#));
        dispatcher.handle(&late, late.message(1, b"", b"{}"));
        for conn in [&twice, &late] {
            let text = open(conn);
            assert!(text.starts_with(r#"{"rcode":2"#) && text.contains("first frame, once"), "{text}");
        }
        assert_eq!((twice.session().is_some(), late.session().is_some()), (true, false));
    }
}
