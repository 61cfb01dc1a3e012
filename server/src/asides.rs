use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustc_hash::FxBuildHasher;

use crate::caller_id::CallerId;

/// The calls that go on though nobody waits for them, of those who call through a center: they take no places over its
/// connection, which all share, and each caller may have so many as if it had one of its own.
#[derive(Debug, Default)]
pub(crate) struct Asides {
    /// How many callers have any. Mostly there are none, and nobody looks further.
    callers: AtomicUsize,
    /// A call may end a moment before it is known that nobody waits for it: then it counts below nothing, until that is.
    of: Mutex<HashMap<CallerId, isize, FxBuildHasher>>,
}

impl Asides {
    /// A call has come that nobody waits for; whether there is room for it.
    pub(crate) fn enter(&self, caller: CallerId, bound: usize) -> bool {
        let mut of = self.lock();
        if is_full(&of, caller, bound) {
            return false;
        }
        self.change(&mut of, caller, 1);
        true
    }

    /// Whether a caller that may have so many of them may call on.
    pub(crate) fn has_room(&self, caller: CallerId, bound: usize) -> bool {
        self.callers.load(SeqCst) == 0 || !is_full(&self.lock(), caller, bound)
    }

    /// Nobody waits any longer for a call that goes on.
    pub(crate) fn add(&self, caller: CallerId) {
        self.change(&mut self.lock(), caller, 1);
    }

    /// One of them has ended.
    pub(crate) fn leave(&self, caller: CallerId) {
        self.change(&mut self.lock(), caller, -1);
    }

    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty() && self.callers.load(SeqCst) == 0
    }

    fn change(&self, of: &mut HashMap<CallerId, isize, FxBuildHasher>, caller: CallerId, by: isize) {
        let own = of.entry(caller).or_default();
        *own += by;
        if *own == 0 {
            of.remove(&caller);
        }
        self.callers.store(of.len(), SeqCst);
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<CallerId, isize, FxBuildHasher>> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_full(of: &HashMap<CallerId, isize, FxBuildHasher>, caller: CallerId, bound: usize) -> bool {
    of.get(&caller).is_some_and(|own| usize::try_from(*own).is_ok_and(|own| own >= bound))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_caller_has_its_own_bound_and_what_has_ended_is_forgotten() {
        let (asides, [one, other]) = (Asides::default(), [1, 2].map(|number| CallerId::behind(7, number)));
        assert_eq!([(); 4].map(|()| asides.enter(one, 3)), [true, true, true, false]);
        assert_eq!([one, other].map(|caller| asides.has_room(caller, 3)), [false, true]);
        assert!(asides.enter(other, 3));
        // More than may be: these were waited for when they came.
        asides.add(one);
        for _ in 0..2 {
            assert!(!asides.has_room(one, 3));
            asides.leave(one);
        }
        assert!(asides.has_room(one, 3));
        (0..2).for_each(|_| asides.leave(one));
        asides.leave(other);
        assert!(asides.is_empty());
        // It ends before it is known that nobody waits for it.
        asides.leave(one);
        assert!(asides.has_room(one, 1));
        asides.add(one);
        assert!(asides.is_empty());
    }
}
