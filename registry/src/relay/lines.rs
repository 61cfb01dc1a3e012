use std::collections::HashMap;
use std::hash::Hash;

use callboard_common::Host;
use rustc_hash::FxBuildHasher;
use smallvec::SmallVec;

/// Over which connections the providers are reached that have no host: mostly one each, for a moment two where a lost one
/// was made again. `K` names a connection.
#[derive(Debug)]
pub(crate) struct Lines<K>(HashMap<Host, SmallVec<[K; 1]>, FxBuildHasher>);

impl<K: Clone + Eq + Hash> Lines<K> {
    /// The provider that stands for `host` is reached over `conn` from now on. Whether it was not before.
    pub(crate) fn enter(&mut self, host: Host, conn: &K) -> bool {
        let lines = self.0.entry(host).or_default();
        if lines.last() == Some(conn) {
            return false;
        }
        let before = lines.len();
        lines.retain(|line| line != conn);
        let is_new = lines.len() == before;
        lines.push(conn.clone());
        is_new
    }

    /// `conn` has ended.
    pub(crate) fn leave(&mut self, host: Host, conn: &K) {
        if let Some(lines) = self.0.get_mut(&host) {
            lines.retain(|line| line != conn);
            if lines.is_empty() {
                self.0.remove(&host);
            }
        }
    }

    /// The last of those to `host` that has what is looked for, and that.
    pub(crate) fn find<T>(&self, host: Host, has: impl Fn(&K) -> Option<T>) -> Option<(&K, T)> {
        self.0.get(&host)?.iter().rev().find_map(|line| Some((line, has(line)?)))
    }
}

impl<K> Default for Lines<K> {
    fn default() -> Self {
        Self(HashMap::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_connection_that_will_do_counts_and_nothing_is_left_of_those_that_ended() {
        let (mut lines, host, other) = (Lines::<u8>::default(), Host::relayed("i-1"), Host::relayed("i-2"));
        for (conn, is_new) in [(1, true), (2, true), (1, false), (1, false)] {
            assert_eq!(lines.enter(host, &conn), is_new);
        }
        assert!(lines.enter(other, &3));
        assert_eq!(lines.find(host, |_| Some(())), Some((&1, ())));
        assert_eq!(lines.find(host, |line| (*line != 1).then_some(())), Some((&2, ())));
        assert_eq!(lines.find(host, |_| None::<()>), None);
        lines.leave(host, &1);
        assert_eq!(lines.find(host, |_| Some(())), Some((&2, ())));
        lines.leave(other, &2);
        assert_eq!(lines.find(other, |_| Some(())), Some((&3, ())), "it was not that one's");
        lines.leave(host, &2);
        lines.leave(other, &3);
        assert!(lines.0.is_empty());
    }
}
