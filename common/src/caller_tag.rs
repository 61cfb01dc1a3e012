use crate::{RequestId, Session};

/// Stands, at the end of a call's id, for the caller from which a center passes that call on: a provider behind a center gets
/// the calls of many over one connection, and tells by this whose they are. It knows no more of them than that, and whether
/// they offer methods.
///
/// On the wire it is `+`, or `@` for a caller that offers no methods, and 16 lowercase hex digits. They are the same for all
/// calls that come to the center over one connection, and nobody can guess them to whom no such call was passed on.
///
/// ```
/// use callboard_common::CallerTag;
/// let tag = CallerTag::new(0xfe, true);
/// assert_eq!(&tag.to_wire(), b"+00000000000000fe");
/// assert_eq!(CallerTag::from_id(b"r0000000000000001+00000000000000fe"), Some(tag));
/// assert_eq!(CallerTag::from_id(b"r0000000000000001"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CallerTag {
    number: u64,
    serves: bool,
}

impl CallerTag {
    /// How many bytes it takes at the end of an id.
    pub const WIRE_BYTES: usize = 1 + RequestId::WIRE_BYTES;

    /// The tag with this number of a caller that offers methods, or does not.
    pub const fn new(number: u64, serves: bool) -> Self {
        Self { number, serves }
    }

    /// What it is called among all tags of its center.
    pub const fn number(self) -> u64 {
        self.number
    }

    /// Whether the caller offers methods.
    pub const fn serves(self) -> bool {
        self.serves
    }

    /// Its bytes on the wire.
    pub fn to_wire(self) -> [u8; Self::WIRE_BYTES] {
        let mut wire = [if self.serves { SERVES } else { SERVES_NOT }; Self::WIRE_BYTES];
        let (_, digits) = wire.split_at_mut(1);
        digits.copy_from_slice(&Self::digits(self.number));
        wire
    }

    /// A tag's number as text: what a call says that goes back to the caller.
    pub fn digits(number: u64) -> [u8; RequestId::WIRE_BYTES] {
        RequestId::from_packed(number).to_wire()
    }

    /// The number that this text stands for; `None` where it is none.
    pub fn read_digits(text: &[u8]) -> Option<u64> {
        RequestId::from_wire(text).map(RequestId::packed)
    }

    /// The one at the end of an id; `None` where there is none. It is to be believed of a center only that was connected to:
    /// see [`of_call`](Self::of_call).
    pub fn from_id(id: &[u8]) -> Option<Self> {
        let [kind, digits @ ..] = id.last_chunk::<{ Self::WIRE_BYTES }>()?;
        let serves = match *kind {
            SERVES => true,
            SERVES_NOT => false,
            _ => return None,
        };
        Self::read_digits(digits).map(|number| Self { number, serves })
    }

    /// Whose call it is that came with this id within such a session; `None` where the peer itself is the caller.
    pub fn of_call(session: Option<&Session>, id: &[u8]) -> Option<Self> {
        session.filter(|session| session.names_callers()).and_then(|_| Self::from_id(id))
    }
}

const SERVES: u8 = b'+';
const SERVES_NOT: u8 = b'@';

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{Feature, Features, Limits};

    #[test]
    fn what_is_no_tag_is_none() {
        let rows: [&[u8]; 6] = [
            b"",
            b"00000000000000fe",
            b"-00000000000000fe",
            b"@00000000000000FE",
            b"@0000000000000fe",
            b"@00000000000000fe ",
        ];
        for id in rows {
            assert_eq!(CallerTag::from_id(id), None, "{}", String::from_utf8_lossy(id));
        }
    }

    #[test]
    fn it_is_believed_of_a_center_that_was_connected_to_and_of_nobody_else() {
        let session = |features, serving| Session {
            name: String::new(),
            instance: String::new(),
            store: None,
            features,
            limits: Limits::default(),
            heartbeats: None,
            serving,
        };
        let (id, all) = (CallerTag::new(7, false).to_wire(), Features::ALL);
        assert_eq!(CallerTag::of_call(Some(&session(all, None)), &id), Some(CallerTag::new(7, false)));
        let accepted = session(all, Some(Limits::default()));
        let (old, deaf) = (all.without(Feature::Callers), all.without(Feature::Serves));
        for session in [None, Some(&accepted), Some(&session(old, None)), Some(&session(deaf, None))] {
            assert_eq!(CallerTag::of_call(session, &id), None, "{session:?}");
        }
    }

    proptest! {
        #[test]
        fn each_tag_is_read_back_from_the_end_of_any_id(
            number: u64,
            serves: bool,
            before in prop::collection::vec(any::<u8>(), 0..20),
        ) {
            let tag = CallerTag::new(number, serves);
            prop_assert_eq!(CallerTag::from_id(&[&before[..], &tag.to_wire()].concat()), Some(tag));
        }
    }
}
