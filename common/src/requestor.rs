use std::mem;

/// Names one call on its connection. On the wire it is 16 lowercase hex digits: 6 of its slot, 10 of its number.
///
/// Numbers are given out in order, so the answer to a call that was forgotten never completes a later one (they begin
/// anew after 2^40 calls on one connection).
///
/// ```
/// use callboard_common::{RequestId, Requestor};
/// let id = Requestor::new(8).begin("waiter").unwrap();
/// assert_eq!(id.to_wire(), *b"0000000000000000");
/// assert_eq!(RequestId::from_wire(&id.to_wire()), Some(id));
/// assert_eq!(RequestId::from_wire(b"somebody else's"), None);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestId {
    slot: u32,
    number: u64,
}

/// Pairs each answer with the call that waits for it: enters a waiter under a fresh id, and takes it out again when the
/// answer comes, when the caller gives up, or when the connection ends.
///
/// A slab: no hashing, no lock, no clock. Slots are used again at once, so its size is that of the most calls that waited
/// at the same time, and goes back when none waits.
///
/// ```
/// use callboard_common::Requestor;
/// let mut requestor = Requestor::new(65_536);
/// let add = requestor.begin("add").unwrap();
/// let echo = requestor.begin("echo").unwrap();
/// assert_eq!(requestor.complete(&echo.to_wire()), Some("echo"));
/// assert_eq!(requestor.complete(&echo.to_wire()), None); // only the first answer counts
/// assert_eq!(requestor.forget(add), Some("add"));
/// ```
#[derive(Debug)]
pub struct Requestor<W> {
    slots: Vec<Slot<W>>,
    /// The first of the free slots, each of which names the next.
    free: Option<u32>,
    len: usize,
    limit: usize,
    next_number: u64,
}

#[derive(Debug)]
enum Slot<W> {
    Free { next: Option<u32> },
    Taken { number: u64, waiter: W },
}

impl RequestId {
    /// How many bytes an id takes on the wire.
    pub const WIRE_BYTES: usize = WIRE_BYTES;

    /// The id's bytes on the wire.
    #[inline]
    #[expect(clippy::indexing_slicing, reason = "there is one for each byte")]
    pub fn to_wire(self) -> [u8; WIRE_BYTES] {
        let packed = self.packed();
        let mut wire = [b'0'; WIRE_BYTES];
        let (pairs, _) = wire.as_chunks_mut();
        for (pair, byte) in pairs.iter_mut().zip(packed.to_be_bytes()) {
            *pair = DIGITS[usize::from(byte)];
        }
        wire
    }

    /// An id that no call has, for a request that is not to be answered.
    pub fn unanswered(number: u64) -> [u8; WIRE_BYTES] {
        let mut wire = Self { slot: 0, number: number & NUMBER_MASK }.to_wire();
        if let Some(first) = wire.first_mut() {
            *first = b'n';
        }
        wire
    }

    /// The id's bytes where it is of a call that goes back to a caller, over a connection that also has this side's own calls:
    /// those are never called so.
    ///
    /// ```
    /// use callboard_common::RequestId;
    /// let id = RequestId::from_wire(b"00000000000000a7").unwrap();
    /// assert_eq!(&id.to_wire_back(), b"b00000000000000a7");
    /// assert_eq!(RequestId::of_call_back(b"b00000000000000a7"), Some(&b"00000000000000a7"[..]));
    /// assert_eq!(RequestId::of_call_back(b"00000000000000a7"), None);
    /// ```
    pub fn to_wire_back(self) -> [u8; WIRE_BYTES + 1] {
        let mut wire = [BACK; WIRE_BYTES + 1];
        let (_, digits) = wire.split_at_mut(1);
        digits.copy_from_slice(&self.to_wire());
        wire
    }

    /// What such an id holds; `None` for another one.
    pub fn of_call_back(wire: &[u8]) -> Option<&[u8]> {
        wire.strip_prefix(&[BACK]).filter(|id| id.len() == WIRE_BYTES)
    }

    /// Reads an id back; `None` for bytes that no id has.
    #[inline]
    pub fn from_wire(wire: &[u8]) -> Option<Self> {
        let wire: &[u8; WIRE_BYTES] = wire.try_into().ok()?;
        // All digits at once: a letter is the 9th beyond its lower half. What was no digit shows when it is written again.
        let digits = u128::from_be_bytes(*wire);
        let (halves, letters) = (digits & (EACH_BYTE * 0xf), (digits >> 6) & EACH_BYTE);
        let packed = STEPS.iter().fold(halves + letters * 9, |all, (shift, mask)| (all | all >> shift) & mask);
        let id = Self::from_packed(u64::try_from(packed).ok()?);
        (id.to_wire() == *wire).then_some(id)
    }

    /// The number that its digits stand for.
    #[inline]
    pub(crate) const fn packed(self) -> u64 {
        (self.slot as u64) << NUMBER_BITS | self.number
    }

    /// The id whose digits stand for this number.
    #[inline]
    pub(crate) const fn from_packed(packed: u64) -> Self {
        Self { slot: (packed >> NUMBER_BITS) as u32, number: packed & NUMBER_MASK }
    }
}

impl<W> Requestor<W> {
    /// The most calls that can wait at once, whatever the limit: 2^24.
    pub const MAX_LIMIT: usize = 1 << (u64::BITS - NUMBER_BITS);

    /// For up to `limit` calls that wait at once, [`MAX_LIMIT`](Self::MAX_LIMIT) at most.
    pub fn new(limit: usize) -> Self {
        Self { slots: Vec::new(), free: None, len: 0, limit: limit.min(Self::MAX_LIMIT), next_number: 0 }
    }

    /// Enters a call. Its request is to be sent after this: then no answer can come too early.
    ///
    /// # Errors
    /// Gives the waiter back if so many wait that the limit is reached.
    pub fn begin(&mut self, waiter: W) -> Result<RequestId, W> {
        if self.len >= self.limit {
            return Err(waiter);
        }
        let number = self.next_number;
        self.next_number = (number + 1) & NUMBER_MASK;
        let slot = self.take_slot(Slot::Taken { number, waiter });
        self.len += 1;
        Ok(RequestId { slot, number })
    }

    /// Takes out the waiter whose answer has come; `None` if nobody waits for this id (any longer).
    pub fn complete(&mut self, id: &[u8]) -> Option<W> {
        #[cfg(feature = "planted")]
        if crate::Planted::AnsweredAnother.is_planted() {
            let taken = (0..).zip(&self.slots).filter_map(|(slot, entry)| entry.id_if(slot, |_| true));
            return taken.max_by_key(|id| id.number).and_then(|id| self.forget(id));
        }
        self.forget(RequestId::from_wire(id)?)
    }

    /// Whether somebody waits for this one.
    pub fn waits(&self, id: RequestId) -> bool {
        matches!(self.slots.get(id.slot as usize), Some(Slot::Taken { number, .. }) if *number == id.number)
    }

    /// Takes out the waiter of a call whose answer nobody wants any longer; `None` if it has been taken out already.
    pub fn forget(&mut self, id: RequestId) -> Option<W> {
        let slot = self.slots.get_mut(id.slot as usize)?;
        if !matches!(slot, Slot::Taken { number, .. } if *number == id.number) {
            return None;
        }
        let taken = mem::replace(slot, Slot::Free { next: self.free });
        self.free = Some(id.slot);
        self.len -= 1;
        self.shrink();
        match taken {
            Slot::Taken { waiter, .. } => Some(waiter),
            Slot::Free { .. } => None,
        }
    }

    /// Takes out all waiters, in the order in which they were entered.
    pub fn fail_all(&mut self) -> Vec<W> {
        self.forget_where(|_| true).into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// Takes out the waiters for which `is_over` holds, with their ids and in the order in which they were entered. Looks at
    /// every slot.
    pub fn forget_where(&mut self, is_over: impl Fn(&W) -> bool) -> Vec<(RequestId, W)> {
        let mut over: Vec<_> = (0..).zip(&self.slots).filter_map(|(slot, entry)| entry.id_if(slot, &is_over)).collect();
        over.sort_unstable_by_key(|id| id.number);
        over.into_iter().filter_map(|id| self.forget(id).map(|waiter| (id, waiter))).collect()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// How many slots it holds memory for.
    pub fn capacity(&self) -> usize {
        self.slots.capacity()
    }

    fn take_slot(&mut self, entry: Slot<W>) -> u32 {
        if let Some(free) = self.free
            && let Some(slot) = self.slots.get_mut(free as usize)
            && let Slot::Free { next } = *slot
        {
            self.free = next;
            *slot = entry;
            return free;
        }
        self.slots.push(entry);
        // The limit keeps the number of slots within 24 bits.
        u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
    }

    /// No id is valid while nobody waits, so the slots of a peak can go.
    fn shrink(&mut self) {
        if self.len == 0 && self.slots.len() > KEPT_SLOTS {
            self.slots = Vec::new();
            self.free = None;
        }
    }
}

impl<W> Slot<W> {
    fn id_if(&self, slot: u32, condition: impl Fn(&W) -> bool) -> Option<RequestId> {
        match self {
            Self::Taken { number, waiter } if condition(waiter) => Some(RequestId { slot, number: *number }),
            _ => None,
        }
    }
}

const WIRE_BYTES: usize = 16;
const BACK: u8 = b'b';
const NUMBER_BITS: u32 = 40;
const NUMBER_MASK: u64 = (1 << NUMBER_BITS) - 1;
/// The two digits of each byte: of each call an id is written and read, so this is a good part of what it costs.
#[expect(clippy::indexing_slicing, reason = "there is one for each byte")]
const DIGITS: [[u8; 2]; 256] = {
    let (hex, mut digits, mut byte) = (b"0123456789abcdef", [[0; 2]; 256], 0);
    while byte < digits.len() {
        digits[byte] = [hex[byte >> 4], hex[byte & 0xf]];
        byte += 1;
    }
    digits
};
/// Each byte is 1.
const EACH_BYTE: u128 = u128::MAX / 0xff;
/// How nibbles that are bytes move together, twice as many in each step.
const STEPS: [(u32, u128); 4] = [
    (4, u128::MAX / (1 << 8 | 1)),
    (8, u128::MAX / (1 << 16 | 1)),
    (16, u128::MAX / (1 << 32 | 1)),
    (32, u128::MAX >> 64),
];
/// So many slots are kept for the next calls when the last one is done.
const KEPT_SLOTS: usize = 1024;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_printable_and_read_back_strictly() {
        let id = RequestId { slot: 0xabc, number: 0x12_3456_789f };
        assert_eq!(&id.to_wire(), b"000abc123456789f");
        assert_eq!(RequestId::from_wire(b"000abc123456789f"), Some(id));
        let wrong: [&[u8]; 6] = [
            b"",
            b"000abc123456789",
            b"000abc123456789f0",
            b"000ABC123456789F",
            b"+00abc123456789f",
            b"000abc12345678\xff9",
        ];
        for wire in wrong {
            assert_eq!(RequestId::from_wire(wire), None, "{}", String::from_utf8_lossy(wire));
        }
    }

    #[test]
    fn a_late_answer_completes_nothing_newer() {
        let mut requestor = Requestor::new(4);
        let old = requestor.begin("old").unwrap();
        requestor.forget(old);
        let new = requestor.begin("new").unwrap();
        assert_eq!(old.slot, new.slot);
        assert_eq!(requestor.complete(&old.to_wire()), None);
        assert_eq!(requestor.complete(&new.to_wire()), Some("new"));
    }

    #[test]
    fn the_limit_holds_and_frees() {
        let mut requestor = Requestor::new(2);
        let first = requestor.begin(1).unwrap();
        requestor.begin(2).unwrap();
        assert_eq!(requestor.begin(3), Err(3));
        requestor.forget(first);
        assert!(requestor.begin(3).is_ok());
    }

    #[test]
    fn all_fail_in_the_order_of_their_calls() {
        let mut requestor = Requestor::new(8);
        let ids: Vec<_> = (0..4).map(|n| requestor.begin(n).unwrap()).collect();
        requestor.forget(ids[0]);
        let last = requestor.begin(4).unwrap(); // in the slot of the first
        let even: Vec<_> = requestor.forget_where(|n| n % 2 == 0);
        assert_eq!(even, [(ids[2], 2), (last, 4)]);
        assert_eq!(requestor.fail_all(), [1, 3]);
        assert!(requestor.is_empty());
    }

    #[test]
    fn a_million_forgotten_calls_leave_nothing() {
        let mut requestor = Requestor::new(1 << 20);
        for n in 0..1_000_000 {
            let id = requestor.begin(n).unwrap();
            requestor.forget(id);
        }
        assert_eq!((requestor.len(), requestor.slots.len()), (0, 1));
        let ids: Vec<_> = (0..1_000_000).map(|n| requestor.begin(n).unwrap()).collect();
        assert_eq!(requestor.len(), 1_000_000);
        for id in ids {
            requestor.forget(id);
        }
        assert!(requestor.is_empty());
        assert!(requestor.capacity() <= 2 * KEPT_SLOTS, "{} slots kept", requestor.capacity());
    }

    #[derive(Clone, Debug)]
    enum Step {
        Begin,
        /// Names one of the ids ever given out.
        Complete(prop::sample::Index),
        Forget(prop::sample::Index),
        FailAll,
        ForgetOdd,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            8 => Just(Step::Begin),
            6 => any::<prop::sample::Index>().prop_map(Step::Complete),
            4 => any::<prop::sample::Index>().prop_map(Step::Forget),
            1 => Just(Step::FailAll),
            1 => Just(Step::ForgetOdd),
        ]
    }

    proptest! {
        #[test]
        fn ids_are_read_as_numbers_are(
            wire in prop::collection::vec(prop_oneof![30 => prop::sample::select(b"0123456789abcdef"), 1 => any::<u8>()], 16)
        ) {
            let is_number = wire.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
            let number = std::str::from_utf8(&wire).ok().filter(|_| is_number);
            let number = number.and_then(|wire| u64::from_str_radix(wire, 16).ok());
            let id = RequestId::from_wire(&wire);
            prop_assert_eq!(id.map(|id| u64::from(id.slot) << NUMBER_BITS | id.number), number);
            prop_assert_eq!(id.map(|id| id.to_wire().to_vec()), number.map(|_| wire));
        }

        #[test]
        fn it_does_what_a_set_would_do(steps in prop::collection::vec(step(), 0..400), limit in 1..40usize) {
            let mut requestor = Requestor::new(limit);
            let mut model = BTreeSet::new();
            let mut given = Vec::new();
            for (n, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Begin if model.len() == limit => prop_assert_eq!(requestor.begin(n), Err(n)),
                    Step::Begin => {
                        let id = requestor.begin(n).unwrap();
                        prop_assert!(given.iter().all(|(_, other)| *other != id));
                        given.push((n, id));
                        model.insert(n);
                    }
                    Step::Complete(_) | Step::Forget(_) if given.is_empty() => {}
                    Step::Complete(which) => {
                        let (waiter, id) = given[which.index(given.len())];
                        prop_assert_eq!(requestor.complete(&id.to_wire()), model.take(&waiter));
                    }
                    Step::Forget(which) => {
                        let (waiter, id) = given[which.index(given.len())];
                        prop_assert_eq!(requestor.forget(id), model.take(&waiter));
                    }
                    Step::FailAll => {
                        let all: Vec<_> = mem::take(&mut model).into_iter().collect();
                        prop_assert_eq!(requestor.fail_all(), all);
                    }
                    Step::ForgetOdd => {
                        let odd: Vec<_> = model.iter().copied().filter(|n| n % 2 == 1).collect();
                        model.retain(|n| n % 2 == 0);
                        let over = requestor.forget_where(|n| n % 2 == 1);
                        prop_assert!(over.iter().all(|(id, n)| given.contains(&(*n, *id))));
                        prop_assert!(over.iter().map(|(_, n)| *n).eq(odd));
                    }
                }
                prop_assert_eq!(requestor.len(), model.len());
                prop_assert!(requestor.slots.len() <= limit);
            }
        }

        #[test]
        fn any_bytes_are_read_without_harm(wire in prop::collection::vec(any::<u8>(), 0..24)) {
            let mut requestor = Requestor::new(4);
            requestor.begin(()).unwrap();
            if let Some(id) = RequestId::from_wire(&wire) {
                prop_assert_eq!(&id.to_wire()[..], &wire[..]);
            }
            requestor.complete(&wire);
        }
    }
}
