use std::borrow::Cow;
use std::net::IpAddr;

use bytes::BytesMut;
use serde::Serialize;

use super::session::store_name;
use super::{
    HostList, NO_OPTYPE, Optype, answer_code, answer_error, is_true, missing, natural, optype, required_text,
    wrong_type,
};
use crate::{
    BodyError, Codec, Decode, Encode, EncodeError, ErrorInfo, Host, Integer, MessageType, Raw, ResultCode, Shape,
};

/// What a REQ_SERVICE asks for or tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServiceOp {
    /// 0: I provide this method there.
    Register,
    /// 1: who provides this method? And tell me of changes.
    Discover,
    /// 2: a provider came (center to watcher).
    Online,
    /// 3: a provider went (center to watcher).
    Offline,
    /// 4: I no longer provide this method (sessions only).
    Withdraw,
}

impl ServiceOp {
    const ALL: [(Self, &'static str); 5] = [
        (Self::Register, "SERVICE_REGISTRY"),
        (Self::Discover, "SERVICE_DISCOVERY"),
        (Self::Online, "SERVICE_ONLINE"),
        (Self::Offline, "SERVICE_OFFLINE"),
        (Self::Withdraw, "SERVICE_WITHDRAW"),
    ];

    /// The wire number.
    pub const fn to_wire(self) -> i64 {
        self as i64
    }

    fn from_optype(optype: &Optype<'_>) -> Result<Self, BodyError> {
        optype.find(&Self::ALL, Self::to_wire)
    }
}

/// REQ_SERVICE: `{"method": string, "optype": 0..=4, "host": {"ip": string, "port": int}}`; within a session also
/// `"instance"`, and in notices `"revision"`; a registration without a session may have `"probe": true`. Of a provider that
/// listens nowhere it has `"relay": true` in place of `host`.
///
/// ```
/// use callboard_common::{ServiceOp, ServiceRequest};
/// let registration = ServiceRequest::new("add", ServiceOp::Register).at("127.0.0.1:7071".parse()?);
/// assert_eq!(registration.host.map(|host| host.port()), Some(7071));
/// # Ok::<(), callboard_common::HostError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRequest<'a> {
    /// The method that it is about.
    pub method: Cow<'a, str>,
    /// What is asked for or told.
    pub op: ServiceOp,
    /// Where. There with `Register`, and with a notice that a center sent, of a provider that listens somewhere; may be
    /// there with `Withdraw`.
    pub host: Option<Host>,
    /// The provider listens nowhere: a center passes calls on to it (sessions only).
    pub relay: bool,
    /// Which run of a provider is at that host (sessions only).
    pub instance: Option<Cow<'a, str>>,
    /// In a notice about one that listens nowhere: where it keeps its answers to calls under keys beyond its own end.
    pub store: Option<Cow<'a, str>>,
    /// In a notice: of the method's set of providers, after the change (sessions only).
    pub revision: Option<u64>,
    /// In a registration: the host is to be reached first, though there is no session in which that goes without saying.
    pub probe: bool,
}

impl<'a> ServiceRequest<'a> {
    /// A request without a host.
    pub fn new(method: impl Into<Cow<'a, str>>, op: ServiceOp) -> Self {
        Self {
            method: method.into(),
            op,
            host: None,
            relay: false,
            instance: None,
            store: None,
            revision: None,
            probe: false,
        }
    }

    /// The same about `host`. Of one that is relayed its instance has to be told beside it, in notices.
    #[must_use]
    pub fn at(self, host: Host) -> Self {
        Self { host: Some(host).filter(|host| !host.is_relayed()), relay: host.is_relayed(), ..self }
    }

    /// Where it says that the provider is, or what stands for one that it names.
    pub fn place(&self) -> Option<Host> {
        let relayed = || self.instance.as_deref().filter(|_| self.relay).map(Host::relayed);
        self.host.or_else(relayed)
    }
}

impl Encode for ServiceRequest<'_> {
    fn kind(&self) -> MessageType {
        MessageType::ServiceRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            method: &'a str,
            optype: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            host: Option<Host>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            relay: bool,
            #[serde(skip_serializing_if = "Option::is_none")]
            instance: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            store: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            revision: Option<u64>,
            #[serde(skip_serializing_if = "std::ops::Not::not")]
            probe: bool,
        }
        let Self { method, op, host, relay, instance, store, revision, probe } = self;
        let (optype, instance, store) = (op.to_wire(), instance.as_deref(), store.as_deref());
        C::write(
            &Wire { method, optype, host: *host, relay: *relay, instance, store, revision: *revision, probe: *probe },
            out,
        )
    }
}

/// As a center reads it: online and offline from a peer are refused by the handler, whatever their host, and so is a
/// registration without one by a peer that can't be called back.
impl<'a> Decode<'a> for ServiceRequest<'a> {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [method, op, host, relay, instance, store, revision, probe] =
            C::members(body, ["method", "optype", "host", "relay", "instance", "store", "revision", "probe"])?;
        let op = optype::<C>(op).and_then(|optype| ServiceOp::from_optype(&optype));
        // An error's answer repeats the optype, so it is looked at first and judged last.
        let known = op.as_ref().ok().map(|op| op.to_wire());
        let named = |error: BodyError| BodyError { optype: known, ..error };
        let method = required_text::<C>(method, "method").map_err(named)?;
        let op = op?;
        let host = match (op, host) {
            (ServiceOp::Register | ServiceOp::Withdraw, Some(host)) => Some(read_host::<C>(host).map_err(named)?),
            (ServiceOp::Online | ServiceOp::Offline, Some(host)) => read_host::<C>(host).ok(),
            (_, None) | (ServiceOp::Discover, Some(_)) => None,
        };
        // To a peer without a session these are unknown keys, which may hold anything.
        let (instance, revision) = (instance.and_then(C::text), revision.and_then(natural::<C>));
        let (relay, probe) = (is_true::<C>(relay), is_true::<C>(probe));
        let store = store.filter(|_| relay).and_then(store_name::<C>);
        Ok(Self { method, op, host, relay, instance, store, revision, probe })
    }
}

fn read_host<C: Codec>(value: Raw<'_>) -> Result<Host, BodyError> {
    if C::shape(value) != Shape::Object {
        return Err(wrong_type::<C>("host", "an object", value));
    }
    let [ip, port] = C::members(value.bytes(), ["ip", "port"])?;
    host_of::<C>(ip, port)
}

pub(super) fn host_of<C: Codec>(ip: Option<Raw<'_>>, port: Option<Raw<'_>>) -> Result<Host, BodyError> {
    let ip: IpAddr = required_text::<C>(ip, "host.ip")?
        .parse()
        .map_err(|_| BodyError::invalid("\"host.ip\" must be an IPv4 or IPv6 literal; resolve a name first"))?;
    let port = port.ok_or_else(|| missing("host.port"))?;
    let port = match C::integer(port) {
        Some(Integer::Small(number)) => u16::try_from(number).unwrap_or(0),
        Some(Integer::Big) => 0,
        None => return Err(wrong_type::<C>("host.port", "an integer", port)),
    };
    Host::new(ip, port).map_err(|e| BodyError::invalid(format!("\"host\" can't be reached: {e}")))
}

/// RSP_SERVICE: `{"rcode": int, "optype": int}`; a discovery's adds `"method"` and `"host": [...]`, within a session
/// also `"revision"`.
#[derive(Clone, Debug)]
pub struct ServiceAnswer<'a> {
    /// How it went.
    pub code: ResultCode,
    /// The request's operation; `None` is written as 4, for a request that named no known one.
    pub op: Option<ServiceOp>,
    /// With a discovery: the method that was asked for.
    pub method: Option<Cow<'a, str>>,
    /// With a discovery: who provides it, in the order in which they came.
    pub hosts: Option<HostList<'a>>,
    /// With a discovery: of the method's set of providers; it grows by one with each change (sessions only).
    pub revision: Option<u64>,
    /// With a discovery that finds nobody: for how many more ms providers may be on their way back, since this center has
    /// just begun (sessions only).
    pub warm_up_ms: Option<u64>,
    /// More, where it went wrong.
    pub error: Option<ErrorInfo>,
}

impl ServiceAnswer<'_> {
    /// Done.
    pub const fn ok(op: ServiceOp) -> Self {
        Self {
            code: ResultCode::Ok,
            op: Some(op),
            method: None,
            hosts: None,
            revision: None,
            warm_up_ms: None,
            error: None,
        }
    }
}

impl Encode for ServiceAnswer<'_> {
    fn kind(&self) -> MessageType {
        MessageType::ServiceResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            rcode: i64,
            optype: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            method: Option<&'a str>,
            #[serde(skip_serializing_if = "Option::is_none")]
            host: Option<&'a HostList<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            revision: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            warm_up_ms: Option<u64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a ErrorInfo>,
        }
        C::write(
            &Wire {
                rcode: self.code.to_wire(),
                optype: self.op.map_or(NO_OPTYPE, ServiceOp::to_wire),
                method: self.method.as_deref(),
                host: self.hosts.as_ref(),
                revision: self.revision,
                warm_up_ms: self.warm_up_ms,
                error: self.error.as_ref(),
            },
            out,
        )
    }
}

/// As a caller reads it: a clean discovery's answer may lack `rcode`, and a host that nobody can reach is left out.
impl<'a> Decode<'a> for ServiceAnswer<'a> {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [rcode, op, method, host, revision, warm_up, error] =
            C::members(body, ["rcode", "optype", "method", "host", "revision", "warm_up_ms", "error"])?;
        let hosts = host.and_then(HostList::read::<C>);
        let absent = hosts.is_some().then_some(ResultCode::Ok);
        Ok(Self {
            code: answer_code::<C>(rcode, absent)?,
            op: optype::<C>(op).and_then(|optype| ServiceOp::from_optype(&optype)).ok(),
            method: method.and_then(C::text),
            hosts,
            revision: revision.and_then(natural::<C>),
            warm_up_ms: warm_up.and_then(natural::<C>),
            error: answer_error::<C>(error),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Json;

    #[test]
    fn what_is_accepted() {
        let rows = [
            (r#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":80}}"#, ServiceOp::Register, true),
            (
                r#"{"method":"add","optype":"SERVICE_REGISTRY","host":{"ip":"::1","port":80,"x":0}}"#,
                ServiceOp::Register,
                true,
            ),
            (r#"{"method":"add","optype":1}"#, ServiceOp::Discover, false),
            (r#"{"method":"add","optype":1,"host":"ignored"}"#, ServiceOp::Discover, false),
            (r#"{"method":"add","optype":2,"host":{"ip":"127.0.0.1","port":80}}"#, ServiceOp::Online, true),
            (r#"{"method":"add","optype":3}"#, ServiceOp::Offline, false),
            (r#"{"method":"add","optype":4}"#, ServiceOp::Withdraw, false),
            (r#"{"method":"add","optype":0,"relay":true}"#, ServiceOp::Register, false),
        ];
        for (body, op, host) in rows {
            let request = ServiceRequest::decode::<Json>(body.as_bytes()).unwrap();
            assert_eq!((&*request.method, request.op, request.host.is_some()), ("add", op, host), "{body}");
        }
    }

    #[test]
    fn what_is_refused_and_with_which_code_and_optype() {
        use ResultCode::{InvalidMessage, InvalidOptype};
        let with_host = |host: &str| format!(r#"{{"method":"add","optype":0,"host":{host}}}"#);
        let rows = [
            (r#"{"optype":1}"#.to_owned(), InvalidMessage, Some(1)),
            (r#"{"method":1,"optype":0}"#.to_owned(), InvalidMessage, Some(0)),
            (r#"{"method":"add"}"#.to_owned(), InvalidMessage, None),
            (r#"{"method":"add","optype":true}"#.to_owned(), InvalidMessage, None),
            (r#"{"method":"add","optype":9}"#.to_owned(), InvalidOptype, None),
            (r#"{"method":"add","optype":"TOPIC_CREATE"}"#.to_owned(), InvalidOptype, None),
            (with_host("null"), InvalidMessage, Some(0)),
            (with_host(r#"["127.0.0.1",80]"#), InvalidMessage, Some(0)),
            (with_host(r#"{"port":80}"#), InvalidMessage, Some(0)),
            (with_host(r#"{"ip":"localhost","port":80}"#), InvalidMessage, Some(0)),
            (with_host(r#"{"ip":"0.0.0.0","port":80}"#), InvalidMessage, Some(0)),
            (with_host(r#"{"ip":"::","port":80}"#), InvalidMessage, Some(0)),
            (with_host(r#"{"ip":"::ffff:0.0.0.0","port":80}"#), InvalidMessage, Some(0)),
            (with_host(r#"{"ip":"127.0.0.1"}"#), InvalidMessage, Some(0)),
            (with_host(r#"{"ip":"127.0.0.1","port":0}"#), InvalidMessage, Some(0)),
            (with_host(r#"{"ip":"127.0.0.1","port":65536}"#), InvalidMessage, Some(0)),
            (with_host(r#"{"ip":"127.0.0.1","port":"80"}"#), InvalidMessage, Some(0)),
            (with_host(r#"{"ip":"127.0.0.1","port":80.5}"#), InvalidMessage, Some(0)),
        ];
        for (body, code, optype) in rows {
            let error = ServiceRequest::decode::<Json>(body.as_bytes()).unwrap_err();
            assert_eq!((error.code, error.optype), (code, optype), "{body}");
        }
    }

    #[test]
    fn a_discovery_answer_without_a_code_is_ok() {
        let body = br#"{"method":"add","optype":1,"host":[{"ip":"127.0.0.1","port":1},{"ip":"bad","port":1}]}"#;
        let answer = ServiceAnswer::decode::<Json>(body).unwrap();
        assert_eq!(answer.code, ResultCode::Ok);
        assert_eq!(answer.hosts.unwrap().iter().count(), 1);
        assert!(ServiceAnswer::decode::<Json>(br#"{"optype":0}"#).is_err());
    }
}
