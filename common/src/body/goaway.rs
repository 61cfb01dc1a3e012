use std::borrow::Cow;
use std::time::Duration;

use bytes::BytesMut;
use serde::Serialize;

use crate::{BodyError, Codec, Decode, Encode, EncodeError, Integer, MessageType};

/// GOAWAY: `{"reason": string, "grace_ms": int}`. The side that sends it takes no new requests on this connection;
/// those that it has are answered, for so long.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GoAway<'a> {
    /// Why, for people.
    pub reason: Cow<'a, str>,
    /// How long the connection is kept for the answers that are due.
    pub grace: Duration,
}

impl Encode for GoAway<'_> {
    fn kind(&self) -> MessageType {
        MessageType::GoAway
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        #[derive(Serialize)]
        struct Wire<'a> {
            reason: &'a str,
            grace_ms: u64,
        }
        let grace_ms = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        C::write(&Wire { reason: &self.reason, grace_ms }, out)
    }
}

impl<'a> Decode<'a> for GoAway<'a> {
    /// What is missing or unreadable counts as nothing: the peer goes all the same.
    fn decode<C: Codec>(body: &'a [u8]) -> Result<Self, BodyError> {
        let [reason, grace_ms] = C::members(body, ["reason", "grace_ms"])?;
        let grace_ms = match grace_ms.and_then(C::integer) {
            Some(Integer::Small(number)) => u64::try_from(number).unwrap_or(0),
            _ => 0,
        };
        Ok(Self { reason: reason.and_then(C::text).unwrap_or_default(), grace: Duration::from_millis(grace_ms) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Json;

    #[test]
    fn it_reads_what_it_writes_and_makes_do_with_less() {
        let sent = GoAway { reason: "restart".into(), grace: Duration::from_secs(10) };
        let mut out = BytesMut::new();
        sent.encode::<Json>(&mut out).unwrap();
        assert_eq!(&out[..], br#"{"reason":"restart","grace_ms":10000}"#);
        assert_eq!(GoAway::decode::<Json>(&out).unwrap(), sent);
        let nothing = GoAway { reason: "".into(), grace: Duration::ZERO };
        for body in ["{}", r#"{"reason":7,"grace_ms":-1}"#] {
            assert_eq!(GoAway::decode::<Json>(body.as_bytes()).unwrap(), nothing, "{body}");
        }
        assert!(GoAway::decode::<Json>(b"").is_err());
    }
}
