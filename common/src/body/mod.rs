//! One type per kind of body; the wire's field names live only here.
//!
//! `decode` checks in the order that the contract names: the whole document, then its shape and its required keys, then
//! the optype. What an error needs to be answered rides in [`BodyError`].

mod goaway;
mod host_list;
mod rpc;
mod service;
mod session;
mod topic;
mod topic_options;
mod verbatim;

use std::borrow::Cow;

use bytes::BytesMut;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::{Codec, EncodeError, Integer, MessageType, Raw, ResultCode, Shape};

pub use goaway::GoAway;
pub use host_list::{HostList, ListedHost};
pub use rpc::{CallMeta, RpcAnswer, RpcError, RpcRequest, RpcResponse};
pub use service::{ServiceAnswer, ServiceOp, ServiceRequest};
pub use session::{Limits, SessionAnswer, SessionRequest};
pub use topic::{Missed, Subscribed, TopicAnswer, TopicOp, TopicPosition, TopicRequest};
pub use topic_options::{SlowPolicy, TopicOperation, TopicOptions};
pub use verbatim::Verbatim;

/// A body that can be written.
pub trait Encode {
    /// The kind of frame that carries it.
    fn kind(&self) -> MessageType;

    /// The flags of a request that carries it, beside those of the way in which it is sent. By default none.
    fn flags(&self) -> u8 {
        0
    }

    /// Appends the body.
    ///
    /// # Errors
    /// A value in it refuses to be written; what `out` then holds is to be cut off.
    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError>;
}

/// A body that can be read, borrowing from the frame.
pub trait Decode<'a>: Sized {
    /// Checks the whole document, then takes from it what this kind knows.
    ///
    /// # Errors
    /// [`BodyError`] has the code to answer with.
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError>;
}

/// A kind's typed body: checked and read on one side, written on the other.
pub trait Body<'a>: Encode + Decode<'a> {}

impl<'a, B: Encode + Decode<'a>> Body<'a> for B {}

/// Why a body was refused, with what its answer must say.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct BodyError {
    /// The code to answer with.
    pub code: ResultCode,
    /// What is wrong, for a person.
    pub message: Cow<'static, str>,
    /// The optype that the body named, where it is one of its kind's: the answer repeats it.
    pub optype: Option<i64>,
}

impl BodyError {
    /// The body is not a document of its codec.
    pub fn parse_failed(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: ResultCode::ParseFailed, message: message.into(), optype: None }
    }

    /// The document does not have the shape of its kind.
    pub fn invalid(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: ResultCode::InvalidMessage, message: message.into(), optype: None }
    }

    fn bad_optype(message: impl Into<Cow<'static, str>>) -> Self {
        Self { code: ResultCode::InvalidOptype, message: message.into(), optype: None }
    }
}

/// Whether the handler ran, so that a caller knows whether a repeat is safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Default)]
#[serde(rename_all = "lowercase")]
pub enum Executed {
    /// It did not start: a repeat is safe.
    No,
    /// It ran.
    Yes,
    /// Nobody can tell from here.
    #[default]
    Unknown,
}

impl std::fmt::Display for Executed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::No => "no",
            Self::Yes => "yes",
            Self::Unknown => "unknown",
        })
    }
}

/// The `error` member of an answer: `{"message", "executed", "code"?, "data"?}`.
#[derive(Clone, Debug, Serialize)]
pub struct ErrorInfo {
    /// What happened, for a person.
    pub message: String,
    /// Whether the handler ran.
    pub executed: Executed,
    /// The handler's own number, with [`ResultCode::Application`].
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    /// More, for a program: any JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
    /// Whether `executed` is what the peer said. One that does not say it, or with another word, is another program, of
    /// whose errors nothing is to be concluded. It is not written: whoever passes an error on passes on its bytes.
    #[serde(skip)]
    pub says_executed: bool,
}

impl ErrorInfo {
    /// An error whose handler did not run.
    pub fn not_executed(message: impl Into<String>) -> Self {
        Self { message: message.into(), executed: Executed::No, code: None, data: None, says_executed: true }
    }

    /// An error whose handler ran.
    pub fn executed(message: impl Into<String>) -> Self {
        Self { executed: Executed::Yes, ..Self::not_executed(message) }
    }

    /// For a person, with the code that it came with.
    ///
    /// ```
    /// use callboard_common::{ErrorInfo, ResultCode};
    /// let error = ErrorInfo { code: Some(7), ..ErrorInfo::executed("sold out") };
    /// assert_eq!(error.text(ResultCode::Application), "APPLICATION 7: sold out");
    /// assert_eq!(ErrorInfo::not_executed("").text(ResultCode::Overloaded), "OVERLOADED");
    /// ```
    pub fn text(&self, code: ResultCode) -> String {
        match (self.code, &*self.message) {
            (_, "") => code.to_string(),
            (Some(app_code), text) => format!("{code} {app_code}: {text}"),
            (None, text) => format!("{code}: {text}"),
        }
    }

    /// The same with `data` that names a limit which was reached: `{"limit": string, "bound": int}`.
    #[must_use]
    pub fn with_limit(self, limit: &'static str, bound: usize) -> Self {
        #[derive(Serialize)]
        struct Limit {
            limit: &'static str,
            bound: usize,
        }
        self.with_data(&Limit { limit, bound })
    }

    /// The same with `data` that names the bound on a frame, where that kept something from being written.
    #[must_use]
    pub fn with_limit_of(self, why: &EncodeError) -> Self {
        match why {
            EncodeError::TooLarge { max_frame_bytes, .. } => self.with_limit("max_frame_bytes", *max_frame_bytes),
            _ => self,
        }
    }

    /// The same with `data`; left out where the value can't be written as JSON.
    #[must_use]
    pub fn with_data<T: Serialize>(mut self, data: &T) -> Self {
        self.data = serde_json::value::to_raw_value(data).ok();
        self
    }
}

/// The answer to a request that was refused before it reached a handler, in the form that its kind's answers have.
#[derive(Clone, Debug)]
pub struct Refusal<'a> {
    /// Why.
    pub code: ResultCode,
    /// The kind of the request.
    pub request: MessageType,
    /// The optype that the request named, if it is a known one.
    pub optype: Option<i64>,
    /// More, for people and programs.
    pub error: &'a ErrorInfo,
    /// Whether the peer opened no session: then an RPC answer carries `"result": {}`.
    pub v1: bool,
}

/// `optype` in an RSP_SERVICE whose request named no known one.
const NO_OPTYPE: i64 = 4;

impl Encode for Refusal<'_> {
    fn kind(&self) -> MessageType {
        self.request.answer()
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            rcode: i64,
            #[serde(skip_serializing_if = "Option::is_none")]
            optype: Option<i64>,
            #[serde(skip_serializing_if = "Option::is_none")]
            result: Option<Empty>,
            error: &'a ErrorInfo,
        }
        let service = self.request == MessageType::ServiceRequest;
        let rpc = self.request == MessageType::RpcRequest;
        C::write(
            &Wire {
                rcode: self.code.to_wire(),
                optype: service.then(|| self.optype.unwrap_or(NO_OPTYPE)),
                result: (rpc && self.v1).then_some(Empty {}),
                error: self.error,
            },
            out,
        )
    }
}

/// `{}`: what a v1 peer gets where there is no result.
#[derive(Clone, Copy, Debug, Serialize)]
struct Empty {}

/// A required string.
fn required_text<'a, C: Codec>(value: Option<Raw<'a>>, name: &str) -> Result<Cow<'a, str>, BodyError> {
    let value = value.ok_or_else(|| missing(name))?;
    C::text(value).ok_or_else(|| wrong_type::<C>(name, "a string", value))
}

const AN_INTEGER: &str = "an integer";

fn missing(name: &str) -> BodyError {
    BodyError::invalid(format!("\"{name}\" is missing"))
}

fn wrong_type<C: Codec>(name: &str, expected: &str, value: Raw<'_>) -> BodyError {
    let got = match C::shape(value) {
        Shape::Integer if expected == AN_INTEGER => "one that is out of range",
        shape => shape.name(),
    };
    BodyError::invalid(format!("\"{name}\" must be {expected}, not {got}"))
}

/// An optype as it came: known ones are the caller's to tell.
enum Optype<'a> {
    Number(i64),
    Name(Cow<'a, str>),
    /// An integer beyond 64 bits.
    Other,
}

fn optype<C: Codec>(value: Option<Raw<'_>>) -> Result<Optype<'_>, BodyError> {
    let value = value.ok_or_else(|| missing("optype"))?;
    match C::shape(value) {
        Shape::Integer => Ok(match C::integer(value) {
            Some(Integer::Small(number)) => Optype::Number(number),
            _ => Optype::Other,
        }),
        Shape::String => C::text(value).map(Optype::Name).ok_or_else(|| missing("optype")),
        _ => Err(wrong_type::<C>("optype", "an integer or its name", value)),
    }
}

impl Optype<'_> {
    /// The operation of this number or name.
    fn find<T: Copy>(&self, known: &[(T, &str)], to_wire: impl Fn(T) -> i64) -> Result<T, BodyError> {
        let found = known.iter().find(|(op, name)| match self {
            Self::Number(number) => to_wire(*op) == *number,
            Self::Name(text) => name == text,
            Self::Other => false,
        });
        found.map(|(op, _)| *op).ok_or_else(|| self.unknown())
    }

    fn unknown(&self) -> BodyError {
        match self {
            Self::Number(number) => BodyError::bad_optype(format!("optype {number} is not one of this kind's")),
            Self::Name(name) => BodyError::bad_optype(format!(
                "optype {:?} is not one of this kind's",
                name.chars().take(64).collect::<String>()
            )),
            Self::Other => BodyError::bad_optype("optype is not one of this kind's"),
        }
    }
}

/// Whether it is `true`; what else stands there is as good as absent.
fn is_true<C: Codec>(value: Option<Raw<'_>>) -> bool {
    value.is_some_and(|value| C::read(value).unwrap_or(false))
}

/// The code of an answer; an answer without one is what `absent` says.
/// A number from 0 on; what else stands there is as good as absent.
fn natural<C: Codec>(value: Raw<'_>) -> Option<u64> {
    match C::integer(value)? {
        Integer::Small(number) => u64::try_from(number).ok(),
        Integer::Big => None,
    }
}

fn answer_code<C: Codec>(value: Option<Raw<'_>>, absent: Option<ResultCode>) -> Result<ResultCode, BodyError> {
    let Some(value) = value else { return absent.ok_or_else(|| missing("rcode")) };
    match C::integer(value) {
        Some(Integer::Small(number)) => Ok(ResultCode::from_wire(number)),
        _ => Err(wrong_type::<C>("rcode", AN_INTEGER, value)),
    }
}

/// A peer's `error`; what in it has not the form that we know tells nothing.
fn answer_error<C: Codec>(value: Option<Raw<'_>>) -> Option<ErrorInfo> {
    let [message, executed, code, data] = C::members(value?.bytes(), ["message", "executed", "code", "data"]).ok()?;
    let said = match executed.and_then(C::text).as_deref() {
        Some("no") => Some(Executed::No),
        Some("yes") => Some(Executed::Yes),
        Some("unknown") => Some(Executed::Unknown),
        _ => None,
    };
    Some(ErrorInfo {
        message: message.and_then(C::text).map(Cow::into_owned).unwrap_or_default(),
        executed: said.unwrap_or(Executed::Unknown),
        says_executed: said.is_some(),
        code: match code.and_then(C::integer) {
            Some(Integer::Small(number)) => Some(number),
            _ => None,
        },
        data: data.and_then(|data| C::read(data).ok()).flatten(),
    })
}
