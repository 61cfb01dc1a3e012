//! How many calls of a router's methods run and wait.

use super::{Route, Routes};
use crate::admission::{Concurrency, Gates, Passes, Room};
use crate::handler::Invoke;

impl Routes {
    pub(super) fn gates(&self) -> Gates {
        let (limits, mut gates) = (self.limits, Gates::default());
        let all = gates.add(Passes::All, Concurrency::Fixed(limits.concurrency));
        let threads = gates.add(Passes::Blocking, Concurrency::Fixed(limits.blocking_threads));
        let (waiting, blocking) = (self.count(Route::waits), self.count(Route::blocks));
        for route in self.methods.values() {
            let all_passed = if route.blocks() { &[all, threads][..] } else { &[all] };
            let of_all = share(limits.concurrency, waiting);
            let most = if route.blocks() { of_all.min(share(limits.blocking_threads, blocking)) } else { of_all };
            let own = match route.method.limits().concurrency {
                // All that there are, are its own.
                Concurrency::Unlimited if waiting == 1 => None,
                Concurrency::Unlimited => Some(Concurrency::Fixed(most)),
                limited => Some(limited),
            };
            let own = own.map(|concurrency| gates.add(Passes::Method, concurrency));
            gates.add_method(own.into_iter().chain(all_passed.iter().copied()).collect());
        }
        gates
    }

    pub(super) fn room_of(&self, route: &Route) -> Room {
        let (queue, waiting) = (self.limits.queue, self.count(Route::waits));
        let most = DEFAULT_METHOD_QUEUE.min(share(queue.calls, waiting));
        Room { calls: route.method.limits().queue.unwrap_or(most), bytes: share(queue.bytes, waiting) }
    }

    fn count(&self, counts: fn(&Route) -> bool) -> usize {
        self.methods.values().filter(|route| counts(route)).count()
    }
}

impl Route {
    fn blocks(&self) -> bool {
        matches!(self.invoke, Invoke::Blocking(_))
    }

    /// Whether its calls may have to wait for others.
    pub(crate) fn waits(&self) -> bool {
        !matches!(self.invoke, Invoke::Inline(_))
    }
}

/// What one of so many methods may take of what they have together: one that is slow leaves half of it to the others.
const fn share(whole: usize, methods: usize) -> usize {
    if methods > 1 { whole.div_ceil(2) } else { whole }
}

/// As many of one method's calls wait at most, unless it says otherwise.
const DEFAULT_METHOD_QUEUE: usize = 1024;
