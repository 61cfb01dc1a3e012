use std::collections::BTreeMap;
use std::mem;

use callboard_common::{Host, ListedHost};
use smallvec::SmallVec;

/// The hosts of one method in the order in which they came. One takes no memory elsewhere, a few lie in a row, and many
/// in trees, so that a removal moves nothing.
#[derive(Debug)]
pub(super) enum Providers {
    Few(SmallVec<[Provider; 1]>),
    /// Of any number, since what was many may shrink.
    Many(Box<Many>),
}

/// A method at a host.
#[derive(Debug)]
pub(super) struct Provider {
    listed: ListedHost,
    /// Connections that say so; there is one at least.
    registrations: usize,
}

#[derive(Debug, Default)]
pub(super) struct Many {
    by_host: BTreeMap<Host, Turn>,
    by_turn: BTreeMap<u64, Provider>,
    next_turn: u64,
}

type Turn = u64;

/// Up to so many are searched from end to end.
const FEW: usize = 16;

impl Providers {
    /// One more connection says that the method is at `host`. Whether it is the first one. Of several the last that
    /// named an instance counts: who listens at a host now has come after who did before.
    pub(super) fn enter(&mut self, listed: ListedHost) -> bool {
        if let Some(provider) = self.find(listed.host) {
            provider.registrations += 1;
            provider.listed.instance = listed.instance.or_else(|| provider.listed.instance.take());
            provider.listed.store = listed.store;
            return false;
        }
        let provider = Provider { listed, registrations: 1 };
        match self {
            Self::Few(few) if few.len() < FEW => few.push(provider),
            Self::Few(few) => {
                let mut many = Box::<Many>::default();
                mem::take(few).into_iter().chain([provider]).for_each(|provider| many.push(provider));
                *self = Self::Many(many);
            }
            Self::Many(many) => many.push(provider),
        }
        true
    }

    /// One connection less says that the method is at `host`. What was listed, if it was the last one.
    pub(super) fn leave(&mut self, host: Host) -> Option<ListedHost> {
        let provider = self.find(host)?;
        provider.registrations -= 1;
        if provider.registrations > 0 {
            return None;
        }
        let listed = provider.listed.clone();
        self.remove(host);
        Some(listed)
    }

    pub(super) fn listed(&self) -> impl Iterator<Item = &ListedHost> {
        let (few, many) = match self {
            Self::Few(few) => (few.as_slice(), None),
            Self::Many(many) => (&[][..], Some(many.by_turn.values())),
        };
        few.iter().chain(many.into_iter().flatten()).map(|provider| &provider.listed)
    }

    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Few(few) => few.is_empty(),
            Self::Many(many) => many.by_turn.is_empty(),
        }
    }

    /// How many connections say that the method is at `host`.
    pub(super) fn registrations(&self, host: Host) -> usize {
        let provider = match self {
            Self::Few(few) => few.iter().find(|provider| provider.listed.host == host),
            Self::Many(many) => many.by_host.get(&host).and_then(|turn| many.by_turn.get(turn)),
        };
        provider.map_or(0, |provider| provider.registrations)
    }

    fn find(&mut self, host: Host) -> Option<&mut Provider> {
        match self {
            Self::Few(few) => few.iter_mut().find(|provider| provider.listed.host == host),
            Self::Many(many) => many.by_turn.get_mut(many.by_host.get(&host)?),
        }
    }

    fn remove(&mut self, host: Host) {
        match self {
            Self::Few(few) => few.retain(|provider| provider.listed.host != host),
            Self::Many(many) => {
                if let Some(turn) = many.by_host.remove(&host) {
                    many.by_turn.remove(&turn);
                }
            }
        }
    }
}

impl Default for Providers {
    fn default() -> Self {
        Self::Few(SmallVec::new())
    }
}

impl Many {
    fn push(&mut self, provider: Provider) {
        self.by_host.insert(provider.listed.host, self.next_turn);
        self.by_turn.insert(self.next_turn, provider);
        self.next_turn += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn host(port: u16) -> Host {
        Host::new([127, 0, 0, 1].into(), port).unwrap()
    }

    #[test]
    fn few_and_many_are_in_the_order_in_which_they_came() {
        for last in [1_u16, 2, 15, 16, 17, 40] {
            let mut providers = Providers::default();
            for port in (1..=last).rev() {
                assert!(providers.enter(host(port).into()) && !providers.enter(host(port).into()));
            }
            let ports = |providers: &Providers| providers.listed().map(|one| one.host.port()).collect::<Vec<_>>();
            let leave = |providers: &mut Providers, port| providers.leave(host(port)).is_some();
            assert_eq!(ports(&providers), (1..=last).rev().collect::<Vec<_>>());
            assert!(!leave(&mut providers, last) && leave(&mut providers, last) && !leave(&mut providers, last));
            assert!(providers.enter(host(last).into()));
            assert_eq!(ports(&providers), (1..last).rev().chain([last]).collect::<Vec<_>>(), "back again is last");
            for port in 1..=last {
                providers.leave(host(port));
                providers.leave(host(port));
            }
            assert!(providers.is_empty());
        }
    }

    #[test]
    fn the_last_that_named_an_instance_counts() {
        let mut providers = Providers::default();
        for instance in [Some("a"), Some("b"), None] {
            providers.enter(ListedHost { instance: instance.map(Arc::from), ..host(1).into() });
        }
        let shown: Vec<_> = providers.listed().map(|one| one.instance.as_deref()).collect();
        assert_eq!(shown, [Some("b")]);
    }
}
