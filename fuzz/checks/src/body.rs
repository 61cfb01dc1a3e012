use std::fmt::Debug;
use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use callboard_common::{
    BodyError, Decode, Encode, ErrorInfo, Host, Json, ListedHost, Raw, ResultCode, RpcRequest, RpcResponse,
    ServiceAnswer, ServiceOp, ServiceRequest, SessionAnswer, SessionRequest, TopicAnswer, TopicOp, TopicRequest,
};
use serde_json::value::RawValue;

use crate::document::{Document, Members, array, integer, object, small, string};

/// REQ_RPC and RSP_RPC: refused with the code that the contract's order of checks names, read as `serde_json` reads
/// them, and the same once written again.
pub fn check_rpc_body(body: &[u8]) {
    let read = RpcRequest::decode::<Json>(body);
    if let Some(members) = agreed(body, &read, |members| text(members, "method").map(drop)) {
        let request = read.unwrap();
        assert_eq!(Ok(request.method.as_ref().to_owned()), text(&members, "method"));
        assert_eq!(request.parameters.bytes(), members.get("parameters").map_or("{}", |value| value.get()).as_bytes());
        let written = written(&request);
        assert_eq!(RpcRequest::decode::<Json>(&written).unwrap(), request);
    }
    let read = RpcResponse::decode::<Json>(body);
    if let Some(members) = agreed(body, &read, |members| code(members).map(drop)) {
        let answer = read.unwrap();
        assert_eq!(Ok(answer.code.to_wire()), code(&members));
        assert_eq!(answer.result.map(Raw::bytes), members.get("result").map(|value| value.get().as_bytes()));
        let written = written(&answer);
        let again = RpcResponse::decode::<Json>(&written).unwrap();
        assert_eq!((again.code, again.result), (answer.code, answer.result));
        same_error(answer.error.as_ref(), again.error.as_ref());
    }
}

/// REQ_TOPIC and RSP_TOPIC, as [`check_rpc_body`].
pub fn check_topic_body(body: &[u8]) {
    let read = TopicRequest::decode::<Json>(body);
    if let Some(members) = agreed(body, &read, topic_request) {
        let request = read.unwrap();
        let either = |one, other| members.get(one).or_else(|| members.get(other));
        assert_eq!(Some(request.topic.as_ref().to_owned()), string(either("topic_key", "key").unwrap()));
        assert_eq!(Ok(request.op.to_wire()), optype(&members, &TOPIC_OPS));
        let message = either("topic_msg", "message").filter(|_| request.op == TopicOp::Publish);
        assert_eq!(request.message.map(Raw::bytes), message.map(|message| message.get().as_bytes()));
        let written = written(&request);
        let again = TopicRequest::decode::<Json>(&written).unwrap();
        assert_eq!(again, TopicRequest { canonical: true, takes_seq: request.seq.is_none(), ..request });
    }
    let read = TopicAnswer::decode::<Json>(body);
    if let Some(members) = agreed(body, &read, |members| code(members).map(drop)) {
        let answer = read.unwrap();
        assert_eq!(Ok(answer.code.to_wire()), code(&members));
        let again = TopicAnswer::decode::<Json>(&written(&answer)).unwrap();
        assert_eq!((again.code, again.subscribed), (answer.code, answer.subscribed));
        same_error(answer.error.as_ref(), again.error.as_ref());
    }
}

/// REQ_SERVICE and RSP_SERVICE, as [`check_rpc_body`].
pub fn check_service_body(body: &[u8]) {
    let read = ServiceRequest::decode::<Json>(body);
    if let Some(members) = agreed(body, &read, service_request) {
        let request = read.unwrap();
        assert_eq!(Ok(request.method.as_ref().to_owned()), text(&members, "method"));
        assert_eq!(Ok(request.op.to_wire()), optype(&members, &SERVICE_OPS));
        let expected = members.get("host").and_then(|value| host(value)).filter(|_| request.op != ServiceOp::Discover);
        assert_eq!(request.host, expected);
        assert_eq!(request.instance.as_deref(), instance(&members).as_deref());
        assert_eq!(request.relay, is_relayed(&members));
        assert_eq!(request.store, store(&members).filter(|_| request.relay).map(Into::into));
        assert_eq!(request.revision, revision(&members));
        assert_eq!(ServiceRequest::decode::<Json>(&written(&request)).unwrap(), request);
    } else if let Document::Object(members) = Document::read(body) {
        let known = optype(&members, &SERVICE_OPS).ok();
        assert_eq!(read.unwrap_err().optype, known, "an error's answer repeats a known optype");
    }
    let read = ServiceAnswer::decode::<Json>(body);
    let listed = |members: &Members| members.get("host").and_then(|value| array(value));
    let answer_code = |members: &Members| match members.get("rcode") {
        None if listed(members).is_some() => Ok(0),
        _ => code(members),
    };
    if let Some(members) = agreed(body, &read, |members| answer_code(members).map(drop)) {
        let answer = read.unwrap();
        assert_eq!(Ok(answer.code.to_wire()), answer_code(&members));
        let hosts: Option<Vec<_>> =
            listed(&members).map(|list| list.iter().filter_map(|value| listed_host(value)).collect());
        assert_eq!(answer.hosts, hosts.map(Into::into));
        assert_eq!(answer.revision, revision(&members));
        let written = written(&answer);
        let again = ServiceAnswer::decode::<Json>(&written).unwrap();
        assert_eq!((&again.hosts, &again.method, again.code), (&answer.hosts, &answer.method, answer.code));
        assert_eq!(again.op, answer.op.or(Some(ServiceOp::Withdraw)), "no known optype is written as 4");
        same_error(answer.error.as_ref(), again.error.as_ref());
    }
}

/// REQ_SESSION and RSP_SESSION, as [`check_rpc_body`].
pub fn check_session_body(body: &[u8]) {
    let read = SessionRequest::decode::<Json>(body);
    let version = |members: &Members| {
        let version = members.get("version").and_then(|value| small(value)).filter(|version| *version >= 2);
        version.ok_or(ResultCode::InvalidMessage)
    };
    let names = |members: &Members| optional_text(members, "instance").and_then(|_| features(members));
    let request = |members: &Members| {
        version(members)?;
        optional_text(members, "name")?;
        names(members).map(drop)
    };
    if let Some(members) = agreed(body, &read, request) {
        let request = read.unwrap();
        assert_eq!(Ok(request.version), version(&members));
        assert_eq!(Ok(request.name.as_ref().to_owned()), optional_text(&members, "name"));
        assert_eq!(Ok(request.instance.as_ref().to_owned()), optional_text(&members, "instance"));
        assert_eq!(request.store, store(&members).map(Into::into));
        assert_eq!(Ok(request.features.iter().map(ToString::to_string).collect()), features(&members));
        assert_eq!(SessionRequest::decode::<Json>(&written(&request)).unwrap(), request);
    }
    let read = SessionAnswer::decode::<Json>(body);
    if let Some(members) = agreed(body, &read, |members| code(members).and_then(|_| names(members)).map(drop)) {
        let answer = read.unwrap();
        assert_eq!(Ok(answer.code.to_wire()), code(&members));
        let written = written(&answer);
        let again = SessionAnswer::decode::<Json>(&written).unwrap();
        assert_eq!((again.code, again.version, again.limits), (answer.code, answer.version, answer.limits));
        assert_eq!((&again.instance, &again.features), (&answer.instance, &answer.features));
        same_error(answer.error.as_ref(), again.error.as_ref());
    }
}

/// Whether the body was refused with the code that the contract names: its members, if it was not.
fn agreed<T: Debug>(
    body: &[u8],
    read: &Result<T, BodyError>,
    expected: impl FnOnce(&Members) -> Result<(), ResultCode>,
) -> Option<Members> {
    let members = match Document::read(body) {
        Document::Broken => Err(ResultCode::ParseFailed),
        Document::NoObject => Err(ResultCode::InvalidMessage),
        Document::Object(members) => expected(&members).map(|()| members),
    };
    let code = read.as_ref().err().map_or(ResultCode::Ok, |error| error.code);
    assert_eq!(code, members.as_ref().err().copied().unwrap_or(ResultCode::Ok), "{read:?}");
    members.ok()
}

fn topic_request(members: &Members) -> Result<(), ResultCode> {
    text(members, if members.contains_key("topic_key") { "topic_key" } else { "key" })?;
    let publish = optype(members, &TOPIC_OPS)? == 4;
    let has_message = members.contains_key("topic_msg") || members.contains_key("message");
    if publish && !has_message { Err(ResultCode::InvalidMessage) } else { Ok(()) }
}

fn service_request(members: &Members) -> Result<(), ResultCode> {
    text(members, "method")?;
    let op = optype(members, &SERVICE_OPS)?;
    let host_is_right = || members.get("host").is_some_and(|value| host(value).is_some());
    let needs_host = (op == 0 || op == 4) && members.contains_key("host");
    if needs_host && !host_is_right() { Err(ResultCode::InvalidMessage) } else { Ok(()) }
}

fn optype(members: &Members, names: &[&str; 5]) -> Result<i64, ResultCode> {
    let value = members.get("optype").ok_or(ResultCode::InvalidMessage)?;
    let known = match (integer(value), string(value)) {
        (Some(_), _) => small(value).filter(|number| (0..5).contains(number)),
        (_, Some(name)) => (0..5).zip(names).find(|(_, known)| **known == name).map(|(number, _)| number),
        _ => return Err(ResultCode::InvalidMessage),
    };
    known.ok_or(ResultCode::InvalidOptype)
}

fn host(value: &RawValue) -> Option<Host> {
    let members = object(value)?;
    let ip: IpAddr = string(members.get("ip")?)?.parse().ok()?;
    let port = u16::try_from(small(members.get("port")?)?).ok()?;
    (!ip.to_canonical().is_unspecified() && port != 0).then(|| Host::new(ip, port).unwrap())
}

fn listed_host(value: &RawValue) -> Option<ListedHost> {
    let members = object(value)?;
    let instance = instance(&members);
    let host = if is_relayed(&members) && !members.contains_key("ip") {
        Host::relayed(instance.as_deref()?)
    } else {
        host(value)?
    };
    let store = store(&members).filter(|_| host.is_relayed());
    Some(ListedHost { host, instance: instance.map(Into::into), store: store.map(Into::into) })
}

/// What is not `true` is as good as absent.
fn is_relayed(members: &Members) -> bool {
    members.get("relay").is_some_and(|value| value.get() == "true")
}

/// What is no text is none.
fn instance(members: &Members) -> Option<String> {
    string(members.get("instance")?)
}

/// What is no name of a store is none.
fn store(members: &Members) -> Option<String> {
    string(members.get("store")?).filter(|name| (1..=256).contains(&name.len()))
}

fn revision(members: &Members) -> Option<u64> {
    u64::try_from(small(members.get("revision")?)?).ok()
}

fn text(members: &Members, name: &str) -> Result<String, ResultCode> {
    members.get(name).and_then(|value| string(value)).ok_or(ResultCode::InvalidMessage)
}

fn optional_text(members: &Members, name: &str) -> Result<String, ResultCode> {
    if members.contains_key(name) { text(members, name) } else { Ok(String::new()) }
}

fn features(members: &Members) -> Result<Vec<String>, ResultCode> {
    let Some(value) = members.get("features") else { return Ok(Vec::new()) };
    let items = array(value).filter(|items| items.len() <= 256).ok_or(ResultCode::InvalidMessage)?;
    items.iter().map(|item| string(item).ok_or(ResultCode::InvalidMessage)).collect()
}

fn code(members: &Members) -> Result<i64, ResultCode> {
    members.get("rcode").and_then(|value| small(value)).ok_or(ResultCode::InvalidMessage)
}

fn written<B: Encode>(body: &B) -> Bytes {
    let mut out = BytesMut::new();
    body.encode::<Json>(&mut out).unwrap();
    out.freeze()
}

fn same_error(one: Option<&ErrorInfo>, other: Option<&ErrorInfo>) {
    let parts = |error: &ErrorInfo| {
        let data = error.data.as_ref().map(|data| data.get().to_owned());
        (error.message.clone(), error.executed, error.code, data)
    };
    assert_eq!(one.map(parts), other.map(parts));
}

const TOPIC_OPS: [&str; 5] = ["TOPIC_CREATE", "TOPIC_REMOVE", "TOPIC_SUBSCRIBE", "TOPIC_CANCEL", "TOPIC_PUBLISH"];
const SERVICE_OPS: [&str; 5] =
    ["SERVICE_REGISTRY", "SERVICE_DISCOVERY", "SERVICE_ONLINE", "SERVICE_OFFLINE", "SERVICE_WITHDRAW"];
