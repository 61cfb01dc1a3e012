use std::collections::HashMap;

use crate::caller_id::CallerId;

/// What the repeats take that wait for what comes of another call under their key, in bytes.
///
/// Those of one caller may take no more than all together leave free: so it is never so that one caller, or a few, keep out
/// all others.
#[derive(Debug)]
pub(crate) struct Repeats {
    bound: usize,
    total: usize,
    of: HashMap<CallerId, usize>,
}

impl Repeats {
    pub(crate) fn new(bound: usize) -> Self {
        Self { bound, total: 0, of: HashMap::new() }
    }

    /// What all may take together.
    pub(crate) const fn bound(&self) -> usize {
        self.bound
    }

    /// What one takes whose frame has so many bytes.
    pub(crate) const fn weight(frame_bytes: usize) -> usize {
        frame_bytes.saturating_add(REPEAT_BYTES)
    }

    /// One has come, of so many bytes; whether there is room for it.
    pub(crate) fn enter(&mut self, caller: CallerId, bytes: usize) -> bool {
        let own = self.of.get(&caller).copied().unwrap_or(0).saturating_add(bytes);
        let total = self.total.saturating_add(bytes);
        let has_room = own <= self.bound.saturating_sub(total);
        if has_room {
            self.total = total;
            self.of.insert(caller, own);
        }
        has_room
    }

    /// One that was entered waits no longer.
    pub(crate) fn leave(&mut self, caller: CallerId, bytes: usize) {
        self.total = self.total.saturating_sub(bytes);
        if let Some(own) = self.of.get_mut(&caller) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.of.remove(&caller);
            }
        }
    }
}

/// What one takes beside its frame, roughly: a task with its future, and its place in the book. This bounds their number.
const REPEAT_BYTES: usize = 2 << 10;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn enter_all(repeats: &mut Repeats, caller: u64, bytes: usize) -> usize {
        (0..1_000).take_while(|_| repeats.enter(CallerId::direct(caller), bytes)).count()
    }

    #[test]
    fn each_caller_gets_half_of_what_is_free_and_no_crowd_keeps_out_all_others() {
        let mut repeats = Repeats::new(1_200);
        let taken: Vec<_> = (0..5).map(|caller| enter_all(&mut repeats, caller, 10)).collect();
        assert_eq!(taken, [60, 30, 15, 7, 4]);
        assert!(repeats.enter(CallerId::direct(9), 10) && !repeats.enter(CallerId::direct(0), 10));
        (0..30).for_each(|_| repeats.leave(CallerId::direct(1), 10));
        assert!(enter_all(&mut repeats, 7, 10) >= 15);
        assert!(!repeats.enter(CallerId::direct(8), 1_201), "more than there is in all");
    }

    proptest! {
        #[test]
        fn the_bound_holds_and_what_leaves_is_free_again(
            steps in prop::collection::vec((0..3_u64, 1..40_usize, any::<bool>()), 1..200),
        ) {
            let (mut repeats, mut waiting) = (Repeats::new(100), Vec::<(u64, usize)>::new());
            for (caller, bytes, comes) in steps {
                if comes {
                    if repeats.enter(CallerId::direct(caller), bytes) {
                        waiting.push((caller, bytes));
                    }
                } else if let Some(at) = waiting.iter().position(|(of, _)| *of == caller) {
                    repeats.leave(CallerId::direct(caller), waiting.remove(at).1);
                }
                let total: usize = waiting.iter().map(|(_, bytes)| bytes).sum();
                prop_assert!(total <= 100 && repeats.total == total);
                for (of, own) in &repeats.of {
                    let expected: usize = waiting.iter().filter(|waits| CallerId::direct(waits.0) == *of).map(|(_, bytes)| bytes).sum();
                    prop_assert!(*own == expected && expected > 0);
                }
            }
        }
    }
}
