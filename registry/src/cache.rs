mod entry;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use callboard_common::{Host, ListedHost};

use self::entry::{Entry, Taken};
use crate::Notice;

/// What a caller knows of who provides what, kept true by notices: the state of [`Discovery`](crate::Discovery),
/// without any I/O.
///
/// A method is asked for once; the answer and the notices around it may come in any order that a center sends, and may
/// repeat what is known: no host is lost and none stands twice. Where the center numbers the changes, a change that was
/// missed is seen: then what is known stays in use until the method was asked for again.
///
/// ```
/// use callboard_registry::{HostCache, Known, Notice};
///
/// let mut cache = HostCache::default();
/// assert_eq!(cache.look_up("add"), Known::Ask); // and others who ask meanwhile wait for the same answer
/// assert_eq!(cache.look_up("add"), Known::Asking);
/// let first: callboard_common::Host = "127.0.0.1:7071".parse()?;
/// cache.answer("add", &[callboard_common::ListedHost::from(first)], Some(1));
/// let mut notice = Notice::new("add", "127.0.0.1:7072".parse()?, true);
/// notice.revision = Some(2);
/// assert!(cache.notice(&notice).changed);
/// assert!(!cache.notice(&notice).changed);
/// assert_eq!(cache.hosts("add").map(<[_]>::len), Some(2));
///
/// notice.online = false;
/// notice.revision = Some(4); // where is the third?
/// assert!(cache.notice(&notice).missed);
/// assert!(matches!(cache.look_up("add"), Known::Stale(hosts) if hosts[..] == [first])); // to be asked for again
/// # Ok::<(), callboard_common::HostError>(())
/// ```
#[derive(Debug)]
pub struct HostCache {
    methods: HashMap<Arc<str>, Entry>,
    hosts: HashMap<Host, KnownHost>,
    /// What a center that began anew has not told of yet; it stands in the lists for now.
    unconfirmed: BTreeSet<(Arc<str>, Host)>,
    limits: CacheLimits,
    passed_over: u64,
}

/// What is known of a host that stands in some list.
#[derive(Debug, Default)]
struct KnownHost {
    /// In how many lists it stands.
    lists: usize,
    instance: Option<Arc<str>>,
    /// Where it keeps its answers to calls under keys, if it listens nowhere.
    store: Option<Arc<str>>,
}

/// How much a caller remembers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CacheLimits {
    /// Methods. Default 10,000, which is what a center lets one connection watch. More are not looked up.
    pub methods: usize,
    /// Hosts of one method. Default 65,536. More are passed over and counted.
    pub hosts_per_method: usize,
}

impl Default for CacheLimits {
    fn default() -> Self {
        Self { methods: 10_000, hosts_per_method: 65_536 }
    }
}

/// What is known of a method.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// These provide it, in the order in which they came; perhaps nobody does.
    Hosts(Arc<Vec<Host>>),
    /// These do as far as is known, but a change was missed: the one who is told this must ask now, as after
    /// [`Ask`](Self::Ask); others go on with what is known.
    Stale(Arc<Vec<Host>>),
    /// Its answer is on the way.
    Asking,
    /// Nothing: the one who is told this must ask now, and then [`answer`](HostCache::answer) or
    /// [`fail`](HostCache::fail).
    Ask,
    /// Nothing, and there is no room to remember an answer.
    Full,
}

/// What a notice changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// The method's list is another one now.
    pub changed: bool,
    /// The host went, and stands in no other list either.
    pub departed: bool,
    /// Its revision does not follow the last one: the method is to be asked for again ([`Known::Stale`]).
    pub missed: bool,
}

impl HostCache {
    /// An empty cache with these limits.
    pub fn new(limits: CacheLimits) -> Self {
        let (methods, hosts, unconfirmed) = (HashMap::new(), HashMap::new(), BTreeSet::new());
        Self { methods, hosts, unconfirmed, limits, passed_over: 0 }
    }

    /// What is known of a method. After [`Known::Ask`] and [`Known::Stale`] it counts as asked for.
    pub fn look_up(&mut self, method: &str) -> Known {
        let is_full = self.methods.len() >= self.limits.methods;
        match self.methods.get_mut(method) {
            Some(entry) => entry.look_up(),
            None if is_full => Known::Full,
            None => {
                self.methods.insert(Arc::from(method), Entry::asked());
                Known::Ask
            }
        }
    }

    /// The hosts of a method, once its answer has come.
    pub fn hosts(&self, method: &str) -> Option<&[Host]> {
        self.methods.get(method)?.hosts().map(|hosts| &hosts[..])
    }

    /// Whether any method is provided at `host`, as far as is known.
    pub fn lists(&self, host: Host) -> bool {
        self.hosts.contains_key(&host)
    }

    /// Which run of a provider is at `host`, where it is listed and that was told.
    pub fn instance(&self, host: Host) -> Option<&Arc<str>> {
        self.hosts.get(&host)?.instance.as_ref()
    }

    /// Where a provider that listens nowhere keeps its answers to calls under keys, if that was told.
    pub fn store(&self, host: Host) -> Option<&Arc<str>> {
        self.hosts.get(&host)?.store.as_ref()
    }

    /// How often a host was left out, since its method had as many as are remembered.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// Takes the answer to a look-up, with the revision of its list if the center tells one. Returns what is to be
    /// told: of a first answer what notices that overtook it changed in it, of a later one how it differs from what was
    /// known.
    ///
    /// A notice is newer than the list that was asked for, or is in it already. So those that came meanwhile are
    /// applied to the list, and change nothing where the center sends all in order.
    pub fn answer(&mut self, method: &str, hosts: &[ListedHost], revision: Option<u64>) -> Vec<Notice> {
        let Some((name, _)) = self.methods.get_key_value(method) else { return Vec::new() };
        let name = Arc::clone(name);
        let Some(entry) = self.methods.get_mut(method) else { return Vec::new() };
        let Some(answered) = entry.answer(hosts, revision, self.limits.hosts_per_method) else { return Vec::new() };
        self.passed_over += answered.passed_over;
        for (host, online) in answered.entered {
            self.count(host, online, None);
        }
        for listed in hosts.iter().chain(&answered.named) {
            self.name(listed);
        }
        answered.told.into_iter().map(|(host, online)| Notice::new(Arc::clone(&name), host, online)).collect()
    }

    /// The methods that were asked for, in the order of their names.
    pub fn asked_for(&self) -> Vec<Arc<str>> {
        let mut asked_for: Vec<_> = self.methods.keys().map(Arc::clone).collect();
        asked_for.sort_unstable();
        asked_for
    }

    /// Takes the answer to a method that was asked for again over a new connection; returns what it changed, with
    /// whether a host departed.
    ///
    /// A center that began anew may not have heard yet of all who are there. With `keep`, hosts that it does not name
    /// stay until a notice, or [`drop_unconfirmed`](Self::drop_unconfirmed), takes them out.
    pub fn renew(
        &mut self,
        method: &str,
        hosts: &[ListedHost],
        revision: Option<u64>,
        keep: bool,
    ) -> Vec<(Notice, Change)> {
        let Some((name, entry)) = self.methods.get_key_value(method) else { return Vec::new() };
        let Some(before) = entry.hosts().map(Arc::clone) else { return Vec::new() };
        let name = Arc::clone(name);
        let named: HashSet<Host> = hosts.iter().map(|listed| listed.host).collect();
        let unnamed = before.iter().copied().filter(|host| !named.contains(host));
        let mut notices = Vec::new();
        if keep {
            self.unconfirmed.extend(unnamed.map(|host| (Arc::clone(&name), host)));
        } else {
            notices.extend(unnamed.map(|host| Notice::new(Arc::clone(&name), host, false)));
        }
        notices.extend(hosts.iter().map(|listed| Notice {
            instance: listed.instance.clone(),
            store: listed.store.clone(),
            ..Notice::new(Arc::clone(&name), listed.host, true)
        }));
        let changes = self.apply(notices);
        for listed in hosts {
            self.name(listed);
        }
        if let Some(entry) = self.methods.get_mut(method) {
            entry.renewed(revision);
        }
        changes
    }

    /// Whether there are hosts that a center which began anew has not told of yet.
    pub(crate) fn has_unconfirmed(&self) -> bool {
        !self.unconfirmed.is_empty()
    }

    /// Takes out the hosts that the center has not told of since it was asked again; returns what that changed.
    pub fn drop_unconfirmed(&mut self) -> Vec<(Notice, Change)> {
        let unconfirmed = std::mem::take(&mut self.unconfirmed).into_iter();
        let notices = unconfirmed.map(|(method, host)| Notice::new(method, host, false)).collect();
        self.apply(notices)
    }

    fn apply(&mut self, notices: Vec<Notice>) -> Vec<(Notice, Change)> {
        let changes = notices.into_iter().map(|notice| {
            let change = self.notice(&notice);
            (notice, change)
        });
        changes.filter(|(_, change)| change.changed).collect()
    }

    /// The look-up found no answer: the next one asks again.
    pub fn fail(&mut self, method: &str) {
        if self.methods.get_mut(method).is_some_and(|entry| !entry.fail()) {
            self.methods.remove(method);
        }
    }

    /// What was told of a method no longer holds for certain, for example since a new connection's center did not
    /// answer: it is [`Known::Stale`] at its next look-up. `false` where nothing is known.
    pub fn suspect(&mut self, method: &str) -> bool {
        let known = self.methods.get_mut(method).filter(|entry| entry.hosts().is_some());
        known.map(Entry::suspect).is_some()
    }

    /// Takes a notice. One about a method that was not asked for changes nothing.
    pub fn notice(&mut self, notice: &Notice) -> Change {
        if !self.unconfirmed.is_empty() {
            self.unconfirmed.remove(&(Arc::clone(&notice.method), notice.host));
        }
        let Some(entry) = self.methods.get_mut(&notice.method) else { return Change::default() };
        let (taken, missed) = entry.notice(notice, self.limits.hosts_per_method);
        let departed = match taken {
            Taken::Changed => self.count(notice.host, notice.online, Some(notice)) == 0,
            Taken::Nothing => false,
            Taken::NoRoom => {
                self.passed_over += 1;
                false
            }
        };
        Change { changed: matches!(taken, Taken::Changed), departed, missed }
    }

    /// In how many lists the host stands after this change.
    fn count(&mut self, host: Host, online: bool, notice: Option<&Notice>) -> usize {
        let known = self.hosts.entry(host).or_default();
        known.lists = if online { known.lists.saturating_add(1) } else { known.lists.saturating_sub(1) };
        let lists = known.lists;
        if lists == 0 {
            self.hosts.remove(&host);
        } else if let Some(notice) = notice.filter(|_| online) {
            self.name(&told_of(notice));
        }
        lists
    }

    /// Which run of a provider is at a host, where that is told.
    fn name(&mut self, listed: &ListedHost) {
        if let (Some(known), Some(instance)) = (self.hosts.get_mut(&listed.host), &listed.instance) {
            // Mostly it is known.
            if known.instance.as_ref() != Some(instance) {
                known.instance = Some(Arc::clone(instance));
            }
            if known.store != listed.store {
                known.store.clone_from(&listed.store);
            }
        }
    }
}

/// Who it was that a notice told of.
fn told_of(notice: &Notice) -> ListedHost {
    ListedHost { host: notice.host, instance: notice.instance.clone(), store: notice.store.clone() }
}

impl Default for HostCache {
    fn default() -> Self {
        Self::new(CacheLimits::default())
    }
}

#[cfg(test)]
mod tests;
