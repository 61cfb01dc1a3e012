use std::collections::VecDeque;
use std::iter;

use bytes::{Buf, Bytes, BytesMut};

use crate::slack::room_to_keep;

/// The last messages of a topic, as they were pushed, for those who come back. Pure state.
///
/// Messages that were pushed together are kept and dropped together; what it holds follows each other without a gap, up
/// to the last one that was published.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ring {
    entries: VecDeque<Entry>,
    messages: u64,
    bytes: usize,
}

/// How much a ring holds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RingBounds {
    /// The oldest go while so many are left without them.
    pub(crate) messages: u64,
    /// The oldest go while it holds more.
    pub(crate) bytes: usize,
    /// What was pushed last stays, however large.
    pub(crate) keep_last: bool,
}

/// Messages that follow each other, for one who comes back.
#[derive(Clone, Debug)]
pub(crate) struct Piece {
    pub(crate) messages: u64,
    pub(crate) frames: Bytes,
}

#[derive(Clone, Debug)]
struct Entry {
    /// The number of the first.
    first: u64,
    messages: u64,
    frames: Bytes,
}

/// Frames that are put together for one who comes back; larger ones stay as they are.
const JOIN_BYTES: usize = 4 << 10;

impl RingBounds {
    /// Whether there is room for these frames at all.
    pub(crate) const fn take(self, frames: &Bytes) -> bool {
        self.messages > 0 && frames.len() + size_of::<Entry>() <= self.bytes
    }
}

impl Ring {
    /// Enters messages, each a frame, that follow those before.
    pub(crate) fn push(&mut self, first: u64, messages: u64, frames: Bytes, bounds: RingBounds) {
        let entry = Entry { first, messages, frames };
        self.messages += messages;
        self.bytes += entry.bytes();
        self.entries.push_back(entry);
        while self.is_over(bounds) {
            let Some(oldest) = self.entries.pop_front() else { break };
            self.messages -= oldest.messages;
            self.bytes -= oldest.bytes();
        }
        // A large message may have taken the place of many.
        if let Some(room) = room_to_keep(self.entries.len(), self.entries.capacity()) {
            self.entries.shrink_to(room);
        }
    }

    /// Drops all.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// What it takes, bookkeeping included.
    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many messages after this number it holds.
    pub(crate) fn count_after(&self, seq: u64) -> u64 {
        let next = self.entries.back().map_or(0, |entry| entry.first + entry.messages);
        next.saturating_sub(seq + 1).min(self.messages)
    }

    /// The messages after this number, in pieces: small frames are joined into at most `piece_bytes`. A piece is made
    /// when it is asked for, since who can't take it is to cost nothing.
    pub(crate) fn after(&self, seq: u64, piece_bytes: usize) -> impl Iterator<Item = Piece> {
        let passed = self.entries.partition_point(|entry| entry.first + entry.messages <= seq + 1);
        let mut entries = self.entries.range(passed..).peekable();
        iter::from_fn(move || {
            let Piece { mut messages, frames } = entries.next()?.after(seq);
            if frames.len() > JOIN_BYTES {
                return Some(Piece { messages, frames });
            }
            let mut joined = BytesMut::from(&frames[..]);
            let joins = |bytes, next: usize| next <= JOIN_BYTES && bytes + next <= piece_bytes;
            while let Some(next) = entries.next_if(|next| joins(joined.len(), next.frames.len())) {
                messages += next.messages;
                joined.extend_from_slice(&next.frames);
            }
            Some(Piece { messages, frames: joined.freeze() })
        })
    }

    fn is_over(&self, bounds: RingBounds) -> bool {
        let Some(oldest) = self.entries.front() else { return false };
        if bounds.keep_last && self.entries.len() == 1 {
            return false;
        }
        // Of a bundle the last messages may be more than there should be: a few more do no harm, fewer would.
        let enough = self.messages - oldest.messages >= bounds.messages;
        enough || self.bytes > bounds.bytes
    }
}

impl Entry {
    fn bytes(&self) -> usize {
        self.frames.len() + size_of::<Self>()
    }

    /// Its messages after this number.
    fn after(&self, seq: u64) -> Piece {
        let passed = (seq + 1).saturating_sub(self.first).min(self.messages);
        let mut rest = self.frames.clone();
        for _ in 0..passed {
            let counted = rest.first_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes) as usize);
            rest.advance(rest.len().min(4 + counted));
        }
        Piece { messages: self.messages - passed, frames: rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WIDE: RingBounds = RingBounds { messages: 1000, bytes: 1 << 20, keep_last: false };

    /// A frame whose last byte tells which one it is.
    fn frame(seq: u64, len: usize) -> Vec<u8> {
        let mut frame = vec![0; len];
        frame[..4].copy_from_slice(&u32::try_from(len - 4).unwrap().to_be_bytes());
        frame[len - 1] = u8::try_from(seq).unwrap();
        frame
    }

    /// Bundles of so many messages, numbered from 1.
    fn ring(bundles: &[u64], len: usize, bounds: RingBounds) -> Ring {
        let (mut ring, mut first) = (Ring::default(), 1);
        for messages in bundles {
            let frames: Vec<u8> = (first..first + messages).flat_map(|seq| frame(seq, len)).collect();
            ring.push(first, *messages, frames.into(), bounds);
            first += messages;
        }
        ring
    }

    fn after(ring: &Ring, seq: u64) -> Vec<u8> {
        let pieces: Vec<_> = ring.after(seq, 64).collect();
        let messages: u64 = pieces.iter().map(|piece| piece.messages).sum();
        assert_eq!(messages, ring.count_after(seq));
        let mut all: Bytes = pieces.iter().flat_map(|piece| piece.frames.to_vec()).collect();
        let mut seen = Vec::new();
        while !all.is_empty() {
            let len = 4 + u32::from_be_bytes(*all.first_chunk().unwrap()) as usize;
            seen.push(all[len - 1]);
            all.advance(len);
        }
        assert_eq!(messages, seen.len() as u64);
        seen
    }

    #[test]
    fn what_follows_a_number_is_found_within_bundles_too() {
        for len in [10, 5000] {
            let ring = ring(&[1, 3, 2], len, WIDE);
            for seq in 0..8 {
                let expected: Vec<u8> = (1..=6).filter(|number| u64::from(*number) > seq).collect();
                assert_eq!(after(&ring, seq), expected, "{len} {seq}");
            }
        }
    }

    #[test]
    fn small_frames_come_joined_and_large_ones_as_they_are() {
        let pieces = |len, bundles: &[u64]| -> Vec<usize> {
            ring(bundles, len, WIDE).after(0, 64).map(|piece| piece.frames.len()).collect()
        };
        assert_eq!(pieces(10, &[1; 9]), [60, 30]);
        assert_eq!(pieces(10, &[6, 1, 7]), [60, 10, 70]);
        assert_eq!(pieces(5000, &[1, 1]), [5000, 5000]);
    }

    #[test]
    fn the_oldest_go_at_a_bound_and_a_whole_bundle_at_a_time() {
        let bounds = RingBounds { messages: 4, ..WIDE };
        assert_eq!(after(&ring(&[1, 1, 1, 1, 1], 10, bounds), 0), [2, 3, 4, 5]);
        assert_eq!(after(&ring(&[3, 2], 10, bounds), 0), [1, 2, 3, 4, 5], "fewer than 4 would be left");
        assert_eq!(after(&ring(&[3, 2, 2], 10, bounds), 0), [4, 5, 6, 7]);
        let bytes = 2 * (100 + size_of::<Entry>());
        let tight = RingBounds { bytes, ..WIDE };
        assert_eq!(after(&ring(&[1, 1, 1], 100, tight), 0), [2, 3]);
        assert_eq!(ring(&[1, 1, 1], 100, tight).bytes(), bytes);
        assert_eq!(after(&ring(&[1, 1, 9], 100, tight), 0), [0; 0], "what does not fit leaves no older ones either");
        let none = RingBounds { messages: 0, ..WIDE };
        assert_eq!(ring(&[1, 1], 10, none).bytes(), 0);
    }

    #[test]
    fn one_that_took_the_place_of_many_keeps_no_room_for_them() {
        let mut ring = ring(&[1; 200], 10, WIDE);
        ring.push(201, 1, vec![0; WIDE.bytes - size_of::<Entry>()].into(), WIDE);
        assert_eq!((ring.entries.len(), ring.bytes()), (1, WIDE.bytes));
        assert!(ring.entries.capacity() <= 4, "{}", ring.entries.capacity());
    }

    #[test]
    fn the_last_stays_where_it_is_to_be_kept() {
        let bounds = RingBounds { messages: 0, bytes: 0, keep_last: true };
        assert_eq!(after(&ring(&[1, 1, 1], 100, bounds), 0), [3]);
        let mut cleared = ring(&[1], 10, bounds);
        cleared.clear();
        assert_eq!((cleared.bytes(), after(&cleared, 0)), (0, vec![]));
    }
}
