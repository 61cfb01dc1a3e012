use std::collections::VecDeque;

use bytes::{Buf, Bytes};

/// A piece of the byte stream.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) bytes: Bytes,
    pub(crate) count: Count,
}

/// What of a piece counts against the total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    /// Its bytes.
    Bytes,
    /// The place that it takes here: its bytes count once for all outboxes, elsewhere.
    Place,
}

/// The memory of a link to a shared frame, in bytes.
pub(crate) const PLACE_BYTES: usize = size_of::<Segment>();

impl Segment {
    /// Passes over so many of the bytes; how many of them were counted.
    pub(crate) fn advance(&mut self, bytes: usize) -> usize {
        let bytes = bytes.min(self.bytes.len());
        self.bytes.advance(bytes);
        match self.count {
            Count::Bytes => bytes,
            Count::Place if self.bytes.is_empty() => PLACE_BYTES,
            Count::Place => 0,
        }
    }
}

/// Pieces in a row. Mostly it is one, which takes no memory elsewhere: most connections are idle, and many.
#[derive(Debug, Default)]
pub(crate) struct Pieces {
    first: Option<Segment>,
    /// Empty unless there is a first one.
    others: VecDeque<Segment>,
}

impl Pieces {
    pub(crate) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// The piece, if it is the only one.
    pub(crate) fn only(&self) -> Option<&Segment> {
        self.first.as_ref().filter(|_| self.others.is_empty())
    }

    pub(crate) fn first_mut(&mut self) -> Option<&mut Segment> {
        self.first.as_mut()
    }

    pub(crate) fn remove_first(&mut self) {
        self.first = self.others.pop_front();
        if self.first.is_none() && self.others.capacity() > KEEP_PIECES {
            self.others = VecDeque::new();
        }
    }

    pub(crate) fn len(&self) -> usize {
        usize::from(self.first.is_some()) + self.others.len()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Segment> {
        self.first.iter().chain(&self.others)
    }

    pub(crate) fn push_back(&mut self, piece: Segment) {
        if self.first.is_none() {
            self.first = Some(piece);
        } else {
            self.others.push_back(piece);
        }
    }
}

/// The memory for more pieces than this is given back once all are written.
const KEEP_PIECES: usize = 256;
