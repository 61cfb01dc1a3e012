/// Names a message over all publishers and centers: the run of its publisher, and a number that counts what that run
/// has published. It stands at the beginning of the ids of messages that may be repeated, at another center, by a
/// publisher that does not know whether the first has passed them on.
///
/// On the wire it is 25 bytes: 0xBB, with which no text in UTF-8 begins, the 16 bytes of the run, and the number. What
/// follows is the publisher's own.
///
/// ```
/// use callboard_common::PublishId;
/// let id = PublishId { run: [7; 16], number: 42 };
/// let wire = [&id.to_wire()[..], b"mine"].concat();
/// assert_eq!(PublishId::split(&wire), Some((id, &b"mine"[..])));
/// assert_eq!(PublishId::split(b"00000000000000001"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct PublishId {
    /// Which run of which publisher, drawn at random.
    pub run: [u8; 16],
    /// Which of its messages.
    pub number: u64,
}

impl PublishId {
    /// What it takes on the wire.
    pub const WIRE_BYTES: usize = 25;

    /// The beginning of a message's id.
    pub fn to_wire(self) -> [u8; Self::WIRE_BYTES] {
        let mut wire = [MARK; Self::WIRE_BYTES];
        let number = self.number.to_be_bytes();
        for (byte, value) in wire.iter_mut().skip(1).zip(self.run.iter().chain(&number)) {
            *byte = *value;
        }
        wire
    }

    /// Reads it off the front of a message's id; gives what follows, too. `None` where there is none.
    #[inline]
    pub fn split(id: &[u8]) -> Option<(Self, &[u8])> {
        if id.len() < Self::WIRE_BYTES {
            return None;
        }
        let (mark, rest) = id.split_first()?;
        let (run, rest) = rest.split_first_chunk()?;
        let (number, rest) = rest.split_first_chunk()?;
        (*mark == MARK).then(|| (Self { run: *run, number: u64::from_be_bytes(*number) }, rest))
    }
}

const MARK: u8 = 0xbb;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_read_back_and_nothing_else_is_taken_for_one() {
        let id = PublishId { run: *b"0123456789abcdef", number: 0x0102_0304_0506_0708 };
        let wire = id.to_wire();
        assert_eq!(&wire[..], b"\xbb0123456789abcdef\x01\x02\x03\x04\x05\x06\x07\x08");
        assert_eq!(PublishId::split(&wire), Some((id, &[][..])));
        for other in
            [&wire[..24], b"", b"5bd4f1f5-59d4-4ea7-9b5e-1cbf4b4f6a3c", "\u{fb}23456789abcdef123456789".as_bytes()]
        {
            assert_eq!(PublishId::split(other), None, "{other:?}");
        }
    }
}
