use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

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
    /// The index of one of `hosts`, which provide `method` and were not tried for this call; `None` if none will do. It
    /// runs once a try, on the caller's task, and must not block.
    fn pick(&self, method: &str, hosts: &[Host]) -> Option<usize>;
}

impl<B: Balancer + ?Sized> Balancer for Arc<B> {
    fn pick(&self, method: &str, hosts: &[Host]) -> Option<usize> {
        (**self).pick(method, hosts)
    }
}

/// Each provider of a method in turn. Every method has a turn of its own.
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

    #[test]
    fn a_shorter_list_is_never_overrun() {
        let balancer = RoundRobin::default();
        for count in [3, 3, 3, 2, 1, 5, 0, 1] {
            let picked = balancer.pick("add", &hosts(count));
            assert_eq!(picked.is_some(), count > 0);
            assert!(picked.is_none_or(|index| index < usize::from(count)));
        }
        assert_eq!(balancer.pick("unknown", &[]), None);
        assert_eq!(balancer.turns.len(), 1);
    }
}
