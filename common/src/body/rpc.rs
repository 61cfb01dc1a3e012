use std::borrow::Cow;
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;

use super::{Empty, answer_code, answer_error, required_text};
use crate::{BodyError, Codec, Decode, Encode, EncodeError, ErrorInfo, Integer, Json, MessageType, Raw, ResultCode};

/// REQ_RPC: `{"method": string, "parameters": any, "meta"?: {"timeout_ms"?: int, "idempotency_key"?: string,
/// "instance"?: string, "store"?: string, "caller"?: string}}`.
///
/// Written with any serializable parameters, read with parameters that are still encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcRequest<'a, P = Raw<'a>> {
    /// What is called.
    pub method: Cow<'a, str>,
    /// What it is called with; absent on the wire means `{}`.
    pub parameters: P,
    /// What a session peer says about the call.
    pub meta: Option<CallMeta<'a>>,
}

/// `meta` of a call; only session peers send it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct CallMeta<'a> {
    /// Time left for the call, in ms: never a clock time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Under which its answer is remembered, still encoded: the peer that knows keys checks it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<Raw<'a>>,
    /// Which provider a center is to pass the call on to, still encoded; with [`FLAG_RELAY`](crate::FLAG_RELAY).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub instance: Option<Raw<'a>>,
    /// Where that provider keeps its answers to calls under keys, as its caller knows it, still encoded: another one is not
    /// passed the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub store: Option<Raw<'a>>,
    /// To which of its callers a center is to pass the call on, still encoded: the digits of a
    /// [`CallerTag`](crate::CallerTag); with [`FLAG_RELAY`](crate::FLAG_RELAY).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub caller: Option<Raw<'a>>,
}

impl CallMeta<'_> {
    /// What [`timeout_ms`](Self::timeout_ms) says of this time, in ms. Less than one is not none: that would be refused as such.
    ///
    /// ```
    /// use std::time::Duration;
    /// use callboard_common::CallMeta;
    /// let [none, some] = [0, 999].map(|us| CallMeta::time_left(Duration::from_micros(us)));
    /// assert_eq!((none, some, CallMeta::time_left(Duration::from_micros(1_999))), (0, 1, 1));
    /// ```
    pub fn time_left(left: Duration) -> u64 {
        let ms = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
        if left.is_zero() { 0 } else { ms.max(1) }
    }
}

impl<P: Serialize> Encode for RpcRequest<'_, P> {
    fn kind(&self) -> MessageType {
        MessageType::RpcRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        // Hardly any call says more than its time, which takes fewer instructions by itself.
        match &self.meta {
            Some(CallMeta {
                timeout_ms: Some(timeout_ms),
                idempotency_key: None,
                instance: None,
                store: None,
                caller: None,
            }) => self.write::<C, _>(Some(&OnlyTime { timeout_ms: *timeout_ms }), out),
            meta => self.write::<C, _>(meta.as_ref(), out),
        }
    }
}

impl<P: Serialize> RpcRequest<'_, P> {
    fn write<C: Codec, M: Serialize>(&self, meta: Option<&M>, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a, P, M> {
            method: &'a str,
            parameters: &'a P,
            #[serde(skip_serializing_if = "Option::is_none")]
            meta: Option<&'a M>,
        }
        C::write(&Wire { method: &self.method, parameters: &self.parameters, meta }, out)
    }
}

/// `meta` as it mostly is.
#[derive(Serialize)]
struct OnlyTime {
    timeout_ms: u64,
}

impl<'a> Decode<'a> for RpcRequest<'a> {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [method, parameters, meta] = C::members(body, ["method", "parameters", "meta"])?;
        Ok(Self {
            method: required_text::<C>(method, "method")?,
            parameters: parameters.unwrap_or(Raw::new(C::EMPTY_OBJECT)),
            meta: meta.and_then(read_meta::<C>),
        })
    }
}

/// What is not known in there, or not as it is known, is passed over.
fn read_meta<C: Codec>(meta: Raw<'_>) -> Option<CallMeta<'_>> {
    // As our clients write it, it need not be searched for names.
    if C::ID == Json::ID
        && let Some(timeout_ms) = only_time(meta.bytes())
    {
        return Some(CallMeta { timeout_ms: Some(timeout_ms), ..CallMeta::default() });
    }
    let keys = ["timeout_ms", "idempotency_key", "instance", "store", "caller"];
    let [timeout_ms, idempotency_key, instance, store, caller] = C::members(meta.bytes(), keys).ok()?;
    let timeout_ms = timeout_ms.and_then(|value| match C::integer(value)? {
        Integer::Small(ms) => u64::try_from(ms).ok(),
        Integer::Big => None,
    });
    // Only with an instance does a store say anything.
    let store = store.filter(|_| instance.is_some());
    let says_something = timeout_ms.is_some() || idempotency_key.is_some() || instance.is_some() || caller.is_some();
    says_something.then_some(CallMeta { timeout_ms, idempotency_key, instance, store, caller })
}

/// The time of JSON that says nothing else, and says it without a space. More digits might not fit.
fn only_time(meta: &[u8]) -> Option<u64> {
    let digits = meta.strip_prefix(br#"{"timeout_ms":"#)?.strip_suffix(b"}")?;
    let add = |ms, digit: &u8| digit.is_ascii_digit().then(|| 10 * ms + u64::from(digit - b'0'));
    if (1..=18).contains(&digits.len()) { digits.iter().try_fold(0, add) } else { None }
}

/// RSP_RPC that carries a result: `{"rcode": 0, "result": any}`.
#[derive(Clone, Copy, Debug)]
pub struct RpcAnswer<'a, R: ?Sized> {
    /// What the method returned.
    pub result: &'a R,
    /// Whether the caller opened no session: then a null result is written as `{}`, since some v1 programs drop an
    /// answer whose result is null and wait for ever.
    pub v1: bool,
}

impl<R: Serialize + ?Sized> Encode for RpcAnswer<'_, R> {
    fn kind(&self) -> MessageType {
        MessageType::RpcResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a, R: ?Sized> {
            rcode: i64,
            result: &'a R,
        }
        let start = out.len();
        C::write(&Wire { rcode: 0, result: self.result }, out)?;
        // Whether a value is null shows only once it is written.
        let written = out.get(start..).unwrap_or_default();
        let is_null = self.v1 && C::members(written_if_small(written), ["result"]).is_ok_and(is_null::<C>);
        if is_null {
            out.truncate(start);
            C::write(&Wire { rcode: 0, result: &Empty {} }, out)?;
        }
        Ok(())
    }
}

/// RSP_RPC that carries an error: `{"rcode": int, "error": {...}}`, with `"result": {}` to a v1 peer.
#[derive(Clone, Copy, Debug)]
pub struct RpcError<'a> {
    /// Why there is no result.
    pub code: ResultCode,
    /// More, for people and programs.
    pub error: &'a ErrorInfo,
    /// Whether the caller opened no session.
    pub v1: bool,
}

impl Encode for RpcError<'_> {
    fn kind(&self) -> MessageType {
        MessageType::RpcResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        super::Refusal {
            code: self.code,
            request: MessageType::RpcRequest,
            optype: None,
            error: self.error,
            v1: self.v1,
        }
        .encode::<C>(out)
    }
}

/// RSP_RPC as a caller reads it.
#[derive(Clone, Debug)]
pub struct RpcResponse<'a> {
    /// How it went.
    pub code: ResultCode,
    /// The result, still encoded; some peers leave it out or send null.
    pub result: Option<Raw<'a>>,
    /// The error, where the peer told one in our form.
    pub error: Option<ErrorInfo>,
}

impl<'a> Decode<'a> for RpcResponse<'a> {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [rcode, result, error] = C::members(body, ["rcode", "result", "error"])?;
        Ok(Self { code: answer_code::<C>(rcode, None)?, result, error: answer_error::<C>(error) })
    }
}

impl Encode for RpcResponse<'_> {
    fn kind(&self) -> MessageType {
        MessageType::RpcResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            rcode: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            result: Option<Raw<'a>>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a ErrorInfo>,
        }
        C::write(&Wire { rcode: self.code.to_wire(), result: self.result, error: self.error.as_ref() }, out)
    }
}

/// A null result makes a short document in every codec; a longer one needs no look.
fn written_if_small(written: &[u8]) -> &[u8] {
    if written.len() <= 32 { written } else { &[] }
}

fn is_null<C: Codec>([result]: [Option<Raw<'_>>; 1]) -> bool {
    result.is_some_and(|value| C::shape(value) == crate::Shape::Null)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Executed;

    fn written<B: Encode>(body: &B) -> String {
        let mut out = BytesMut::from("before");
        body.encode::<Json>(&mut out).unwrap();
        String::from_utf8(out[6..].to_vec()).unwrap()
    }

    #[test]
    fn answers_in_both_dialects() {
        assert_eq!(written(&RpcAnswer { result: &3, v1: true }), r#"{"rcode":0,"result":3}"#);
        assert_eq!(written(&RpcAnswer { result: &(), v1: true }), r#"{"rcode":0,"result":{}}"#);
        assert_eq!(written(&RpcAnswer { result: &(), v1: false }), r#"{"rcode":0,"result":null}"#);
        assert_eq!(written(&RpcAnswer { result: "null", v1: true }), r#"{"rcode":0,"result":"null"}"#);
        let error = ErrorInfo::not_executed("nobody here");
        let info = r#""error":{"message":"nobody here","executed":"no"}}"#;
        let answer = RpcError { code: ResultCode::NotFoundService, error: &error, v1: true };
        assert_eq!(written(&answer), format!(r#"{{"rcode":5,"result":{{}},{info}"#));
        assert_eq!(written(&RpcError { v1: false, ..answer }), format!(r#"{{"rcode":5,{info}"#));
    }

    #[test]
    fn absent_parameters_mean_an_empty_object() {
        let request = RpcRequest::decode::<Json>(br#"{"method":"a\u0064d"}"#).unwrap();
        assert_eq!((&*request.method, request.parameters.bytes()), ("add", &b"{}"[..]));
    }

    #[test]
    fn what_a_call_says_is_written_in_one_way() {
        let key = Some(Raw::new(br#""k""#));
        let rows = [
            (None, ""),
            (Some(CallMeta { timeout_ms: Some(5), ..CallMeta::default() }), r#","meta":{"timeout_ms":5}"#),
            (
                Some(CallMeta { timeout_ms: Some(5), idempotency_key: key, ..CallMeta::default() }),
                r#","meta":{"timeout_ms":5,"idempotency_key":"k"}"#,
            ),
            (Some(CallMeta { instance: key, ..CallMeta::default() }), r#","meta":{"instance":"k"}"#),
            (
                Some(CallMeta { instance: key, store: key, ..CallMeta::default() }),
                r#","meta":{"instance":"k","store":"k"}"#,
            ),
            (Some(CallMeta { caller: key, ..CallMeta::default() }), r#","meta":{"caller":"k"}"#),
        ];
        for (meta, expected) in rows {
            let body = written(&RpcRequest { method: Cow::Borrowed("m"), parameters: 1, meta });
            assert_eq!(body, format!(r#"{{"method":"m","parameters":1{expected}}}"#));
            assert_eq!(RpcRequest::decode::<Json>(body.as_bytes()).unwrap().meta, meta);
        }
    }

    #[test]
    fn time_is_read_however_it_is_spelled() {
        let rows = [
            (r#"{"timeout_ms":5000}"#, Some(5000)),
            (r#"{"timeout_ms":0}"#, Some(0)),
            (r#"{"timeout_ms": 5000 }"#, Some(5000)),
            (r#"{"timeout_m\u0073":5000}"#, Some(5000)),
            (r#"{"other":1,"timeout_ms":5000}"#, Some(5000)),
            (r#"{"timeout_ms":5000,"other":1}"#, Some(5000)),
            (r#"{"timeout_ms":999999999999999999}"#, Some(999_999_999_999_999_999)),
            (r#"{"timeout_ms":9223372036854775807}"#, Some(i64::MAX.unsigned_abs())),
            (r#"{"timeout_ms":9223372036854775808}"#, None),
            (r#"{"timeout_ms":-5}"#, None),
            (r#"{"timeout_ms":"5"}"#, None),
            (r#"{"timeout_ms":{}}"#, None),
            (r#"{"timeout_ms":null}"#, None),
            ("{}", None),
            ("5", None),
        ];
        for (meta, expected) in rows {
            let body = format!(r#"{{"method":"m","meta":{meta}}}"#);
            let read = RpcRequest::decode::<Json>(body.as_bytes()).unwrap().meta;
            assert_eq!(read.and_then(|meta| meta.timeout_ms), expected, "{meta}");
        }
    }

    #[test]
    fn a_method_must_be_a_string() {
        for body in [&b"{}"[..], br#"{"method":1}"#, br#"{"method":null,"parameters":{}}"#] {
            assert_eq!(RpcRequest::decode::<Json>(body).unwrap_err().code, ResultCode::InvalidMessage);
        }
    }

    #[test]
    fn a_foreign_error_is_unknown_in_what_ran() {
        let rows = [
            (r#"{"message":"no"}"#, Executed::Unknown, false),
            (r#"{"message":"no","executed":"perhaps"}"#, Executed::Unknown, false),
            (r#"{"message":"no","executed":0}"#, Executed::Unknown, false),
            (r#"{"message":"no","executed":"unknown"}"#, Executed::Unknown, true),
            (r#"{"message":"no","executed":"no"}"#, Executed::No, true),
            (r#"{"executed":"yes"}"#, Executed::Yes, true),
        ];
        for (error, executed, says_executed) in rows {
            let body = format!(r#"{{"rcode":4,"error":{error}}}"#);
            let error = RpcResponse::decode::<Json>(body.as_bytes()).unwrap().error.unwrap();
            assert_eq!((error.executed, error.says_executed), (executed, says_executed), "{body}");
        }
        let answer = RpcResponse::decode::<Json>(br#"{"rcode":4,"error":"text"}"#).unwrap();
        assert!(answer.error.is_none());
    }
}
