use std::collections::HashSet;
use std::sync::Arc;

use callboard_common::{Host, ListedHost};
use indexmap::{IndexMap, IndexSet};

use super::Known;
use crate::Notice;

/// One method that was asked for.
#[derive(Debug)]
pub(super) struct Entry {
    /// `None` until the first answer.
    hosts: Option<Arc<Vec<Host>>>,
    /// The last that was heard of, where the center tells them.
    revision: Option<u64>,
    /// While an answer is on the way.
    asked: Option<Heard>,
    /// A change was missed. It stays so until an answer has come that is followed by all changes since.
    is_stale: bool,
}

/// What was heard of a method since it was asked for.
#[derive(Debug, Default)]
struct Heard {
    /// Of each host the last.
    of: IndexMap<Host, Last>,
    /// The first and the last revision.
    revisions: Option<(u64, u64)>,
    /// Not all between the two came, or not in order.
    is_broken: bool,
}

#[derive(Clone, Debug)]
struct Last {
    online: bool,
    revision: Option<u64>,
    instance: Option<Arc<str>>,
    store: Option<Arc<str>>,
}

/// What became of a notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    Changed,
    Nothing,
    NoRoom,
}

/// What an answer did.
#[derive(Debug, Default)]
pub(super) struct Answered {
    /// Who stands in the list and did not, and the other way round.
    pub(super) entered: Vec<(Host, bool)>,
    /// What of it is news to those who listen.
    pub(super) told: Vec<(Host, bool)>,
    /// What notices that overtook it said.
    pub(super) named: Vec<ListedHost>,
    pub(super) passed_over: u64,
}

impl Entry {
    pub(super) fn asked() -> Self {
        Self { hosts: None, revision: None, asked: Some(Heard::default()), is_stale: false }
    }

    pub(super) fn hosts(&self) -> Option<&Arc<Vec<Host>>> {
        self.hosts.as_ref()
    }

    pub(super) fn look_up(&mut self) -> Known {
        match &self.hosts {
            None => Known::Asking,
            Some(hosts) if self.is_stale && self.asked.is_none() => {
                self.asked = Some(Heard::default());
                Known::Stale(Arc::clone(hosts))
            }
            Some(hosts) => Known::Hosts(Arc::clone(hosts)),
        }
    }

    /// Whether anything is known all the same.
    pub(super) fn fail(&mut self) -> bool {
        self.asked = None;
        self.hosts.is_some()
    }

    /// Revisions begin anew with another center.
    pub(super) fn suspect(&mut self) {
        self.is_stale = true;
        self.revision = None;
    }

    /// The list is that of another connection's answer now, and its changes follow.
    pub(super) fn renewed(&mut self, revision: Option<u64>) {
        self.asked = None;
        self.is_stale = false;
        self.revision = revision;
    }

    /// And whether a change before it was missed.
    pub(super) fn notice(&mut self, notice: &Notice, bound: usize) -> (Taken, bool) {
        let heard = self.asked.as_mut().map_or(Taken::Nothing, |heard| heard.hear(notice, bound));
        let Some(hosts) = &mut self.hosts else { return (heard, false) };
        let (revision, last) = (notice.revision, self.revision);
        if revision.is_some() && revision <= last {
            return (Taken::Nothing, false);
        }
        let missed = revision.zip(last).is_some_and(|(revision, last)| revision - last > 1);
        self.is_stale |= missed;
        self.revision = revision.or(last);
        (change(hosts, notice.host, notice.online, bound), missed)
    }

    /// `None` if nobody asked.
    pub(super) fn answer(&mut self, hosts: &[ListedHost], revision: Option<u64>, bound: usize) -> Option<Answered> {
        let heard = self.asked.take()?;
        let mut answered = Answered::default();
        let mut list = IndexSet::with_capacity(hosts.len().min(bound));
        for listed in hosts {
            answered.enter(&mut list, listed.host, bound);
        }
        for (host, last) in heard.after(revision) {
            let is_news = if last.online { answered.enter(&mut list, *host, bound) } else { list.shift_remove(host) };
            if is_news {
                answered.told.push((*host, last.online));
            }
            if last.online {
                answered.named.push(last.at(*host));
            }
        }
        let known = self.hosts.take();
        answered.entered = difference(known.as_deref().map_or(&[], Vec::as_slice), &list);
        if known.is_some() {
            answered.told.clone_from(&answered.entered);
        }
        self.is_stale = heard.lacks_any_after(revision);
        self.revision = revision.max(heard.revisions.map(|(_, last)| last));
        self.hosts = Some(Arc::new(list.into_iter().collect()));
        Some(answered)
    }

    #[cfg(test)]
    pub(super) fn heard(&self) -> usize {
        self.asked.as_ref().map_or(0, |heard| heard.of.len())
    }
}

impl Answered {
    fn enter(&mut self, list: &mut IndexSet<Host>, host: Host, bound: usize) -> bool {
        let has_room = list.len() < bound || list.contains(&host);
        self.passed_over += u64::from(!has_room);
        has_room && list.insert(host)
    }
}

impl Heard {
    fn hear(&mut self, notice: &Notice, bound: usize) -> Taken {
        if let Some(revision) = notice.revision {
            self.follow(revision);
        }
        if self.of.len() >= bound && !self.of.contains_key(&notice.host) {
            self.is_broken = true;
            return Taken::NoRoom;
        }
        let last = Last::from(notice);
        match self.of.get(&notice.host) {
            Some(newer) if newer.revision > last.revision => {}
            _ => drop(self.of.insert(notice.host, last)),
        }
        Taken::Nothing
    }

    fn follow(&mut self, revision: u64) {
        self.revisions = Some(match self.revisions {
            None => (revision, revision),
            Some((first, last)) => {
                self.is_broken |= last.checked_add(1) != Some(revision);
                (first.min(revision), last.max(revision))
            }
        });
    }

    /// What an answer of this revision does not have yet.
    fn after(&self, revision: Option<u64>) -> impl Iterator<Item = (&Host, &Last)> {
        self.of
            .iter()
            .filter(move |(_, last)| revision.is_none() || last.revision.is_none() || last.revision > revision)
    }

    fn lacks_any_after(&self, revision: Option<u64>) -> bool {
        let told = revision.zip(self.revisions).filter(|(revision, (_, last))| last > revision);
        told.is_some_and(|(revision, (first, _))| self.is_broken || first > revision + 1)
    }
}

impl Last {
    fn at(&self, host: Host) -> ListedHost {
        ListedHost { host, instance: self.instance.clone(), store: self.store.clone() }
    }
}

impl From<&Notice> for Last {
    fn from(notice: &Notice) -> Self {
        let Notice { online, revision, instance, store, .. } = notice;
        Self { online: *online, revision: *revision, instance: instance.clone(), store: store.clone() }
    }
}

fn change(hosts: &mut Arc<Vec<Host>>, host: Host, online: bool, bound: usize) -> Taken {
    match (hosts.iter().position(|known| *known == host), online) {
        (Some(at), false) => {
            Arc::make_mut(hosts).remove(at);
            Taken::Changed
        }
        (None, true) if hosts.len() >= bound => Taken::NoRoom,
        (None, true) => {
            Arc::make_mut(hosts).push(host);
            Taken::Changed
        }
        (Some(_), true) | (None, false) => Taken::Nothing,
    }
}

/// Who is gone, then who is new, each in the order of its list.
fn difference(before: &[Host], after: &IndexSet<Host>) -> Vec<(Host, bool)> {
    let old: HashSet<_> = before.iter().collect();
    let gone = before.iter().filter(|host| !after.contains(*host)).map(|host| (*host, false));
    gone.chain(after.iter().filter(|host| !old.contains(host)).map(|host| (*host, true))).collect()
}
