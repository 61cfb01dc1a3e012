use std::borrow::Cow;
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;

use super::{answer_code, answer_error, missing, wrong_type};
use crate::{
    BodyError, Codec, Decode, Encode, EncodeError, ErrorInfo, Heartbeat, Heartbeats, Integer, MessageType, Raw,
    ResultCode,
};

/// REQ_SESSION: `{"version": int, "name"?: string, "instance"?: string, "store"?: string, "features"?: [string, ...],
/// "limits"?: {...}}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRequest<'a> {
    /// The newest version of the protocol that the peer speaks; 2 or more.
    pub version: i64,
    /// What the peer calls itself.
    pub name: Cow<'a, str>,
    /// Which run of the peer this is.
    pub instance: Cow<'a, str>,
    /// Where it keeps its answers to calls under keys beyond its own end, if it offers methods.
    pub store: Option<Cow<'a, str>>,
    /// What the peer can do beyond v1.
    pub features: Vec<Cow<'a, str>>,
    /// What must be kept within by who calls its methods, if it offers any.
    pub limits: Option<Limits>,
}

impl Encode for SessionRequest<'_> {
    fn kind(&self) -> MessageType {
        MessageType::SessionRequest
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            version: i64,
            name: &'a str,
            instance: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            store: Option<&'a str>,
            features: &'a [Cow<'a, str>],
            #[serde(skip_serializing_if = "Option::is_none")]
            limits: Option<Limits>,
        }
        let Self { version, name, instance, store, features, limits } = self;
        C::write(&Wire { version: *version, name, instance, store: store.as_deref(), features, limits: *limits }, out)
    }
}

impl<'a> Decode<'a> for SessionRequest<'a> {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [version, name, instance, store, features, limits] =
            C::members(body, ["version", "name", "instance", "store", "features", "limits"])?;
        let version = version.ok_or_else(|| missing("version"))?;
        let version = match C::integer(version) {
            Some(Integer::Small(number)) if number >= 2 => number,
            Some(_) => return Err(BodyError::invalid("\"version\" must be 2 or more")),
            None => return Err(wrong_type::<C>("version", "an integer", version)),
        };
        Ok(Self {
            version,
            name: optional_text::<C>(name, "name")?,
            instance: optional_text::<C>(instance, "instance")?,
            store: store.and_then(store_name::<C>),
            features: read_features::<C>(features)?,
            limits: limits.map(read_limits::<C>),
        })
    }
}

/// RSP_SESSION: `{"rcode": int, "version": int, "instance": string, "store"?: string, "features": [...], "limits": {...}}`.
#[derive(Clone, Debug)]
pub struct SessionAnswer<'a> {
    /// How it went; anything but OK means that there is no session.
    pub code: ResultCode,
    /// The version that both speak.
    pub version: i64,
    /// Which run of the center or provider this is.
    pub instance: Cow<'a, str>,
    /// Where it keeps its answers to calls under keys beyond its own end.
    pub store: Option<Cow<'a, str>>,
    /// What both can do beyond v1.
    pub features: Vec<Cow<'a, str>>,
    /// What the peer must keep within.
    pub limits: Limits,
    /// When which side takes the other for dead, where both know heartbeats.
    pub heartbeats: Option<Heartbeats>,
    /// More, where it went wrong.
    pub error: Option<ErrorInfo>,
}

/// `limits` of a session: what the side that names them permits on this connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Limits {
    /// The largest frame in bytes, as its length field counts them.
    pub max_frame_bytes: u64,
    /// How many requests may wait for their answers at once.
    pub in_flight: u64,
}

impl Limits {
    const fn no_bound() -> u64 {
        u64::MAX
    }
}

/// Towards a peer that names no limits.
impl Default for Limits {
    fn default() -> Self {
        Self { max_frame_bytes: Self::no_bound(), in_flight: Self::no_bound() }
    }
}

impl Encode for SessionAnswer<'_> {
    fn kind(&self) -> MessageType {
        MessageType::SessionResponse
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            rcode: i64,
            version: i64,
            instance: &'a str,
            #[serde(skip_serializing_if = "Option::is_none")]
            store: Option<&'a str>,
            features: &'a [Cow<'a, str>],
            limits: Limits,
            #[serde(skip_serializing_if = "Option::is_none")]
            heartbeat: Option<WireHeartbeat>,
            #[serde(skip_serializing_if = "Option::is_none")]
            error: Option<&'a ErrorInfo>,
        }
        C::write(
            &Wire {
                rcode: self.code.to_wire(),
                version: self.version,
                instance: &self.instance,
                store: self.store.as_deref(),
                features: &self.features,
                limits: self.limits,
                heartbeat: self.heartbeats.map(WireHeartbeat::new),
                error: self.error.as_ref(),
            },
            out,
        )
    }
}

impl<'a> Decode<'a> for SessionAnswer<'a> {
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [rcode, version, instance, store, features, limits, heartbeat, error] =
            C::members(body, ["rcode", "version", "instance", "store", "features", "limits", "heartbeat", "error"])?;
        Ok(Self {
            code: answer_code::<C>(rcode, None)?,
            version: match version.and_then(C::integer) {
                Some(Integer::Small(number)) => number,
                _ => 1,
            },
            instance: optional_text::<C>(instance, "instance")?,
            store: store.and_then(store_name::<C>),
            features: read_features::<C>(features)?,
            limits: limits.map(read_limits::<C>).unwrap_or_default(),
            heartbeats: heartbeat.and_then(read_heartbeats::<C>),
            error: answer_error::<C>(error),
        })
    }
}

/// What is no name of a store, is none.
pub(super) fn store_name<C: Codec>(value: Raw<'_>) -> Option<Cow<'_, str>> {
    C::text(value).filter(|store| (1..=MAX_STORE_BYTES).contains(&store.len()))
}

/// A limit that is missing, or beyond all that a peer could reach, does not bind.
fn read_limits<C: Codec>(value: Raw<'_>) -> Limits {
    let members = C::members(value.bytes(), ["max_frame_bytes", "in_flight"]).unwrap_or_default();
    let [max_frame_bytes, in_flight] = members.map(|value| match value.and_then(C::integer) {
        Some(Integer::Small(number)) => u64::try_from(number).unwrap_or(Limits::no_bound()),
        _ => Limits::no_bound(),
    });
    Limits { max_frame_bytes, in_flight }
}

/// `heartbeat` of a session, in ms.
#[derive(Serialize)]
#[expect(clippy::struct_field_names, reason = "the wire's names")]
struct WireHeartbeat {
    interval_ms: u64,
    dead_ms: u64,
    provider_interval_ms: u64,
    provider_dead_ms: u64,
}

impl WireHeartbeat {
    const KEYS: [&'static str; 4] = ["interval_ms", "dead_ms", "provider_interval_ms", "provider_dead_ms"];

    fn new(Heartbeats { caller, provider }: Heartbeats) -> Self {
        let ms = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            interval_ms: ms(caller.interval),
            dead_ms: ms(caller.dead),
            provider_interval_ms: ms(provider.interval),
            provider_dead_ms: ms(provider.dead),
        }
    }
}

/// All four are needed, each more than 0.
fn read_heartbeats<C: Codec>(value: Raw<'_>) -> Option<Heartbeats> {
    let members = C::members(value.bytes(), WireHeartbeat::KEYS).ok()?;
    let ms = |value: Option<Raw<'_>>| match C::integer(value?)? {
        Integer::Small(number) => u64::try_from(number).ok().filter(|ms| *ms > 0),
        Integer::Big => None,
    };
    let [interval, dead, provider_interval, provider_dead] = members.map(ms);
    Some(Heartbeats {
        caller: Heartbeat::from_ms(interval?, dead?),
        provider: Heartbeat::from_ms(provider_interval?, provider_dead?),
    })
}

fn optional_text<'a, C: Codec>(value: Option<Raw<'a>>, name: &str) -> Result<Cow<'a, str>, BodyError> {
    let Some(value) = value else { return Ok(Cow::Borrowed("")) };
    C::text(value).ok_or_else(|| wrong_type::<C>(name, "a string", value))
}

fn read_features<C: Codec>(value: Option<Raw<'_>>) -> Result<Vec<Cow<'_, str>>, BodyError> {
    let Some(value) = value else { return Ok(Vec::new()) };
    let items = C::items(value).ok_or_else(|| wrong_type::<C>("features", "an array", value))?;
    let texts: Option<Vec<_>> = items.take(MAX_FEATURES + 1).map(C::text).collect();
    let texts = texts.ok_or_else(|| BodyError::invalid("\"features\" must hold strings"))?;
    if texts.len() > MAX_FEATURES {
        return Err(BodyError::invalid(format!("\"features\" must hold at most {MAX_FEATURES} names")));
    }
    Ok(texts)
}

/// The longest name of a store: a connection keeps it for its life.
const MAX_STORE_BYTES: usize = 256;
/// Far more than there will be, and little enough that a list of empty names costs nothing.
const MAX_FEATURES: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Json;

    #[test]
    fn what_is_refused() {
        let many = format!(r#"{{"version":2,"features":[{}""]}}"#, r#""a","#.repeat(MAX_FEATURES));
        let rows = [
            r#"{"name":"x"}"#,
            r#"{"version":1}"#,
            r#"{"version":"2"}"#,
            r#"{"version":2.0}"#,
            r#"{"version":2,"name":1}"#,
            r#"{"version":2,"features":"ping"}"#,
            r#"{"version":2,"features":["ping",1]}"#,
            &many,
        ];
        for body in rows {
            let error = SessionRequest::decode::<Json>(body.as_bytes()).unwrap_err();
            assert_eq!(error.code, ResultCode::InvalidMessage, "{body}");
        }
    }

    #[test]
    fn an_answer_that_says_little_is_read_all_the_same() {
        let answer = SessionAnswer::decode::<Json>(br#"{"rcode":0,"limits":{"in_flight":3}}"#).unwrap();
        assert_eq!((answer.version, answer.limits.in_flight, answer.limits.max_frame_bytes), (1, 3, u64::MAX));
    }
}
