use std::collections::HashMap;
use std::sync::Arc;

use callboard_common::Host;
use indexmap::IndexMap;

use crate::Notice;

/// What a caller knows of who provides what, kept true by notices: the state of [`Discovery`](crate::Discovery),
/// without any I/O.
///
/// A method is asked for once; the answer and the notices around it may come in any order that a center sends, and may
/// repeat what is known: no host is lost and none stands twice.
///
/// ```
/// use callboard_registry::{HostCache, Known, Notice};
///
/// let mut cache = HostCache::default();
/// assert_eq!(cache.look_up("add"), Known::Ask); // and others who ask meanwhile wait for the same answer
/// assert_eq!(cache.look_up("add"), Known::Asking);
/// cache.answer("add", &["127.0.0.1:7071".parse()?]);
/// let notice = Notice { method: "add".into(), host: "127.0.0.1:7072".parse()?, online: true };
/// assert!(cache.notice(&notice).changed);
/// assert!(!cache.notice(&notice).changed);
/// assert_eq!(cache.hosts("add").map(<[_]>::len), Some(2));
/// # Ok::<(), callboard_common::HostError>(())
/// ```
#[derive(Debug)]
pub struct HostCache {
    methods: HashMap<Arc<str>, Entry>,
    /// In how many lists a host stands.
    listed: HashMap<Host, usize>,
    limits: CacheLimits,
    passed_over: u64,
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
}

#[derive(Debug)]
enum Entry {
    /// The last that was heard of each host since the method was asked for.
    Asking(IndexMap<Host, bool>),
    Hosts(Arc<Vec<Host>>),
}

impl HostCache {
    /// An empty cache with these limits.
    pub fn new(limits: CacheLimits) -> Self {
        Self { methods: HashMap::new(), listed: HashMap::new(), limits, passed_over: 0 }
    }

    /// What is known of a method. After [`Known::Ask`] it counts as asked for.
    pub fn look_up(&mut self, method: &str) -> Known {
        match self.methods.get(method) {
            Some(Entry::Hosts(hosts)) => Known::Hosts(Arc::clone(hosts)),
            Some(Entry::Asking(_)) => Known::Asking,
            None if self.methods.len() >= self.limits.methods => Known::Full,
            None => {
                self.methods.insert(Arc::from(method), Entry::Asking(IndexMap::new()));
                Known::Ask
            }
        }
    }

    /// The hosts of a method, once its answer has come.
    pub fn hosts(&self, method: &str) -> Option<&[Host]> {
        match self.methods.get(method)? {
            Entry::Hosts(hosts) => Some(hosts),
            Entry::Asking(_) => None,
        }
    }

    /// Whether any method is provided at `host`, as far as is known.
    pub fn lists(&self, host: Host) -> bool {
        self.listed.contains_key(&host)
    }

    /// How often a host was left out, since its method had as many as are remembered.
    pub fn passed_over(&self) -> u64 {
        self.passed_over
    }

    /// Takes the answer to a look-up; returns what notices that overtook it changed in it.
    ///
    /// A notice is newer than the list that was asked for, or is in it already. So those that came meanwhile are applied
    /// to the list, and change nothing where the center sends all in order.
    pub fn answer(&mut self, method: &str, hosts: &[Host]) -> Vec<Notice> {
        let Some((method, Entry::Asking(_))) = self.methods.get_key_value(method) else { return Vec::new() };
        let method = Arc::clone(method);
        let asked = self.methods.insert(Arc::clone(&method), Entry::Hosts(Arc::default()));
        for host in hosts {
            self.notice(&Notice { method: Arc::clone(&method), host: *host, online: true });
        }
        let Some(Entry::Asking(overtook)) = asked else { return Vec::new() };
        let notices = overtook.into_iter().map(|(host, online)| Notice { method: Arc::clone(&method), host, online });
        notices.filter(|notice| self.notice(notice).changed).collect()
    }

    /// The look-up found no answer: the next one asks again.
    pub fn fail(&mut self, method: &str) {
        if let Some(Entry::Asking(_)) = self.methods.get(method) {
            self.methods.remove(method);
        }
    }

    /// Takes a notice. One about a method that was not asked for changes nothing.
    pub fn notice(&mut self, notice: &Notice) -> Change {
        let bound = self.limits.hosts_per_method;
        let taken = match self.methods.get_mut(&notice.method) {
            None => Taken::Nothing,
            Some(Entry::Asking(heard)) => hear(heard, notice, bound),
            Some(Entry::Hosts(hosts)) => change(hosts, notice, bound),
        };
        match taken {
            Taken::Changed => Change { changed: true, departed: self.count(notice) == 0 },
            Taken::Nothing => Change::default(),
            Taken::NoRoom => {
                self.passed_over += 1;
                Change::default()
            }
        }
    }

    /// In how many lists the host stands after this change.
    fn count(&mut self, change: &Notice) -> usize {
        let lists = self.listed.entry(change.host).or_default();
        *lists = if change.online { lists.saturating_add(1) } else { lists.saturating_sub(1) };
        let lists = *lists;
        if lists == 0 {
            self.listed.remove(&change.host);
        }
        lists
    }
}

impl Default for HostCache {
    fn default() -> Self {
        Self::new(CacheLimits::default())
    }
}

/// What became of a notice.
enum Taken {
    Changed,
    Nothing,
    NoRoom,
}

fn hear(heard: &mut IndexMap<Host, bool>, notice: &Notice, bound: usize) -> Taken {
    if heard.len() >= bound && !heard.contains_key(&notice.host) {
        return Taken::NoRoom;
    }
    heard.insert(notice.host, notice.online);
    Taken::Nothing
}

fn change(hosts: &mut Arc<Vec<Host>>, notice: &Notice, bound: usize) -> Taken {
    match (hosts.iter().position(|known| *known == notice.host), notice.online) {
        (Some(at), false) => {
            Arc::make_mut(hosts).remove(at);
            Taken::Changed
        }
        (None, true) if hosts.len() >= bound => Taken::NoRoom,
        (None, true) => {
            Arc::make_mut(hosts).push(notice.host);
            Taken::Changed
        }
        (Some(_), true) | (None, false) => Taken::Nothing,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(port: u16) -> Host {
        Host::new([127, 0, 0, 1].into(), port).unwrap()
    }

    fn notice(port: u16, online: bool) -> Notice {
        Notice { method: "add".into(), host: host(port), online }
    }

    fn ports(cache: &HostCache) -> Vec<u16> {
        cache.hosts("add").unwrap_or_default().iter().map(|host| host.port()).collect()
    }

    enum Step {
        Asked,
        Answer(&'static [u16]),
        Failed,
        Online(u16),
        Offline(u16),
    }

    fn apply(cache: &mut HostCache, step: &Step) {
        match step {
            Step::Asked => assert_eq!(cache.look_up("add"), Known::Ask),
            Step::Answer(ports) => {
                cache.answer("add", &ports.iter().map(|port| host(*port)).collect::<Vec<_>>());
            }
            Step::Failed => cache.fail("add"),
            Step::Online(port) => {
                cache.notice(&notice(*port, true));
            }
            Step::Offline(port) => {
                cache.notice(&notice(*port, false));
            }
        }
    }

    #[test]
    fn a_reply_that_races_a_notice_neither_loses_nor_doubles_a_host() {
        use Step::{Answer, Asked, Failed, Offline, Online};
        let rows: [(&str, &[Step], &[u16]); 13] = [
            ("answer alone", &[Asked, Answer(&[1, 2])], &[1, 2]),
            ("a host twice in the answer", &[Asked, Answer(&[1, 2, 1])], &[1, 2]),
            ("notice after", &[Asked, Answer(&[1]), Online(2)], &[1, 2]),
            ("notice twice", &[Asked, Answer(&[1]), Online(2), Online(2)], &[1, 2]),
            ("online overtakes an older list", &[Asked, Online(2), Answer(&[1])], &[1, 2]),
            ("online that the list has", &[Asked, Online(2), Answer(&[1, 2])], &[1, 2]),
            ("offline overtakes an older list", &[Asked, Offline(1), Answer(&[1, 2])], &[2]),
            ("offline that the list has", &[Asked, Offline(1), Answer(&[2])], &[2]),
            ("came and went before the answer", &[Asked, Online(3), Offline(3), Answer(&[1])], &[1]),
            ("went and came before the answer", &[Asked, Offline(1), Online(1), Answer(&[1])], &[1]),
            ("notice about what nobody asked for", &[Online(1)], &[]),
            ("what a failed look-up heard is forgotten", &[Asked, Online(9), Failed, Asked, Answer(&[1])], &[1]),
            ("an answer that nobody waits for", &[Asked, Answer(&[1]), Answer(&[2])], &[1]),
        ];
        for (name, steps, expected) in rows {
            let mut cache = HostCache::default();
            for step in steps {
                apply(&mut cache, step);
            }
            assert_eq!(ports(&cache), expected, "{name}");
        }
    }

    #[test]
    fn what_overtook_an_answer_is_told_with_it() {
        let mut cache = HostCache::default();
        cache.look_up("add");
        assert_eq!(cache.notice(&notice(2, true)), Change::default());
        cache.notice(&notice(1, true));
        assert_eq!(cache.answer("add", &[host(1)]), [notice(2, true)]);
    }

    #[test]
    fn a_host_departs_with_its_last_method() {
        let mut cache = HostCache::default();
        for method in ["add", "sub"] {
            cache.look_up(method);
            cache.answer(method, &[host(1)]);
        }
        assert_eq!(cache.notice(&notice(1, false)), Change { changed: true, departed: false });
        assert!(cache.lists(host(1)));
        let last = Notice { method: "sub".into(), ..notice(1, false) };
        assert_eq!(cache.notice(&last), Change { changed: true, departed: true });
        assert_eq!(cache.notice(&last), Change::default());
        assert!(!cache.lists(host(1)) && cache.listed.is_empty());
    }

    #[test]
    fn a_list_in_use_does_not_change_under_its_user() {
        let mut cache = HostCache::default();
        cache.look_up("add");
        cache.answer("add", &[host(1)]);
        let Known::Hosts(before) = cache.look_up("add") else { panic!("known") };
        cache.notice(&notice(2, true));
        assert_eq!((before.len(), ports(&cache).len()), (1, 2));
    }

    #[test]
    fn the_bounds_hold() {
        let mut cache = HostCache::new(CacheLimits { methods: 1, hosts_per_method: 2 });
        assert_eq!(cache.look_up("add"), Known::Ask);
        assert_eq!(cache.look_up("sub"), Known::Full);
        (1..9).for_each(|port| assert!(!cache.notice(&notice(port, true)).changed));
        let Some(Entry::Asking(heard)) = cache.methods.get("add") else { panic!("asking") };
        assert_eq!(heard.len(), 2);
        cache.answer("add", &[host(7), host(8), host(9)]);
        assert_eq!(ports(&cache), [7, 8]);
        assert!(!cache.notice(&notice(9, true)).changed);
        assert_eq!(cache.passed_over(), 6 + 2 + 1 + 1, "six early, two that came before, one of the list, one late");
    }
}
