use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use callboard_common::Host;
use dashmap::DashMap;

/// Chooses the provider of a call.
///
/// ```
/// use callboard_registry::Balancer;
/// use callboard_common::Host;
///
/// /// Always the one that came first; the others are for when it can't be reached.
/// struct First;
/// impl Balancer for First {
///     fn pick(&self, _method: &str, hosts: &[Host]) -> Option<usize> {
///         (!hosts.is_empty()).then_some(0)
///     }
/// }
/// ```
pub trait Balancer: Send + Sync + 'static {
    /// The index of one of `hosts`, which provide `method`; `None` if none will do. It runs once a call, on the
    /// caller's task, and must not block.
    fn pick(&self, method: &str, hosts: &[Host]) -> Option<usize>;

    /// The same for a call whose first host will not do: it was tried in vain, or could not be connected to of late.
    /// `left` are those that remain for the call. It runs once a further try; unless it is written, it picks as for a
    /// new call.
    fn pick_again(&self, method: &str, left: &[Host]) -> Option<usize> {
        self.pick(method, left)
    }
}

impl<B: Balancer + ?Sized> Balancer for Arc<B> {
    fn pick(&self, method: &str, hosts: &[Host]) -> Option<usize> {
        (**self).pick(method, hosts)
    }

    fn pick_again(&self, method: &str, left: &[Host]) -> Option<usize> {
        (**self).pick_again(method, left)
    }
}

/// Each provider of a method in turn. Every method has a turn of its own. The turns of a provider that will not do are
/// spread over all the others.
///
/// ```
/// use callboard_registry::{Balancer, RoundRobin};
/// let balancer = RoundRobin::default();
/// let hosts = ["127.0.0.1:1".parse()?, "127.0.0.1:2".parse()?];
/// let picked: Vec<_> = (0..3).map(|_| balancer.pick("add", &hosts)).collect();
/// assert_eq!(picked, [Some(0), Some(1), Some(0)]);
/// # Ok::<(), callboard_common::HostError>(())
/// ```
#[derive(Debug, Default)]
pub struct RoundRobin {
    /// Only methods that somebody provides: as many as a caller's cache has, at most.
    turns: DashMap<Box<str>, AtomicUsize>,
    /// How often another one was picked.
    again: AtomicU64,
}

impl Balancer for RoundRobin {
    fn pick(&self, method: &str, hosts: &[Host]) -> Option<usize> {
        if let Some(turn) = self.turns.get(method) {
            return turn.fetch_add(1, Ordering::Relaxed).checked_rem(hosts.len());
        }
        if hosts.is_empty() {
            return None;
        }
        let turn = self.turns.entry(method.into()).or_default();
        turn.fetch_add(1, Ordering::Relaxed).checked_rem(hosts.len())
    }

    /// By lot: whoever took the next turn, or counted turns over lists of changing length, would favour some.
    fn pick_again(&self, _method: &str, left: &[Host]) -> Option<usize> {
        let lot = scatter(self.again.fetch_add(1, Ordering::Relaxed));
        let picked = lot.checked_rem(u64::try_from(left.len()).ok()?)?;
        usize::try_from(picked).ok()
    }
}

/// Makes of each number another one, without a pattern that lists of hosts could meet (the finalizer of `SplitMix64`).
const fn scatter(number: u64) -> u64 {
    let mixed = number.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(count: u16) -> Vec<Host> {
        (1..=count).map(|port| Host::new([127, 0, 0, 1].into(), port).unwrap()).collect()
    }

    #[test]
    fn each_method_takes_its_own_turns() {
        let balancer = RoundRobin::default();
        let mut picked = Vec::new();
        for _ in 0..4 {
            picked.push(("add", balancer.pick("add", &hosts(2)).unwrap()));
            picked.push(("sub", balancer.pick("sub", &hosts(2)).unwrap()));
        }
        for method in ["add", "sub"] {
            let turns: Vec<_> = picked.iter().filter(|(of, _)| *of == method).map(|(_, index)| *index).collect();
            assert_eq!(turns, [0, 1, 0, 1]);
        }
    }

    /// Calls that each host took, where those of `dead` are passed on until one is found that lives.
    fn taken(count: u16, dead: &[u16], calls: usize) -> Vec<usize> {
        let (balancer, all) = (RoundRobin::default(), hosts(count));
        let mut taken = vec![0; usize::from(count)];
        for _ in 0..calls {
            let mut left = all.clone();
            let mut picked = balancer.pick("add", &left).unwrap();
            while dead.contains(&left[picked].port()) {
                left.remove(picked);
                picked = balancer.pick_again("add", &left).unwrap();
            }
            taken[usize::from(left[picked].port()) - 1] += 1;
        }
        taken
    }

    #[test]
    fn the_turns_of_dead_hosts_go_to_all_others_alike() {
        for (count, dead) in [(2, &[1][..]), (3, &[2]), (3, &[3]), (4, &[2, 3]), (6, &[1, 2, 5])] {
            let taken = taken(count, dead, 12_000);
            let fair = 12_000 / (usize::from(count) - dead.len());
            for (port, calls) in (1..).zip(taken) {
                let expected = if dead.contains(&port) { 0 } else { fair };
                assert!(calls.abs_diff(expected) <= fair / 20, "{count} {dead:?}: {port} took {calls}");
            }
        }
    }

    #[test]
    fn a_shorter_list_is_never_overrun() {
        let balancer = RoundRobin::default();
        for count in [3, 3, 3, 2, 1, 5, 0, 1] {
            let picked = balancer.pick("add", &hosts(count));
            assert_eq!(picked.is_some(), count > 0);
            assert!(picked.is_none_or(|index| index < usize::from(count)));
            let again = balancer.pick_again("add", &hosts(count));
            assert!(again.is_some() == (count > 0) && again.is_none_or(|index| index < usize::from(count)));
        }
        assert_eq!(balancer.pick("unknown", &[]), None);
        assert_eq!(balancer.turns.len(), 1);
    }
}
