use proptest::prelude::*;

use super::*;

fn host(port: u16) -> Host {
    Host::new([127, 0, 0, 1].into(), port).unwrap()
}

fn notice(port: u16, online: bool) -> Notice {
    Notice::new("add", host(port), online)
}

fn listed(ports: &[u16]) -> Vec<ListedHost> {
    ports.iter().map(|port| host(*port).into()).collect()
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
            cache.answer("add", &listed(ports), None);
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
    assert_eq!(cache.answer("add", &listed(&[1]), None), [notice(2, true)]);
}

#[test]
fn a_host_departs_with_its_last_method() {
    let mut cache = HostCache::default();
    for method in ["add", "sub"] {
        cache.look_up(method);
        cache.answer(method, &listed(&[1]), None);
    }
    assert_eq!(cache.notice(&notice(1, false)), Change { changed: true, ..Change::default() });
    assert!(cache.lists(host(1)));
    let last = Notice { method: "sub".into(), ..notice(1, false) };
    assert_eq!(cache.notice(&last), Change { changed: true, departed: true, missed: false });
    assert_eq!(cache.notice(&last), Change::default());
    assert!(!cache.lists(host(1)) && cache.hosts.is_empty());
}

#[test]
fn a_center_asked_again_replaces_what_was_known() {
    let mut cache = HostCache::default();
    cache.look_up("add");
    cache.answer("add", &listed(&[1, 2]), Some(9));
    let changes = cache.renew("add", &listed(&[2, 3]), Some(1), false);
    let gone = Change { changed: true, departed: true, missed: false };
    let come = Change { changed: true, ..Change::default() };
    assert_eq!(changes, [(notice(1, false), gone), (notice(3, true), come)]);
    assert_eq!(ports(&cache), [2, 3]);
    assert!(cache.notice(&revised(2, false, 2)).changed, "numbers begin anew with the center");
    assert_eq!(cache.renew("sub", &listed(&[1]), None, false), [], "nobody asked for it");
    assert_eq!(cache.asked_for(), ["add".into()]);
}

#[test]
fn what_a_center_that_began_anew_does_not_name_stays_for_a_while() {
    let mut cache = HostCache::default();
    cache.look_up("add");
    cache.answer("add", &listed(&[1, 2, 3]), None);
    assert_eq!(cache.renew("add", &[], None, true), []);
    assert_eq!(ports(&cache), [1, 2, 3]);
    assert!(!cache.notice(&notice(1, true)).changed, "it is there, as was known");
    assert!(cache.notice(&notice(2, false)).changed);
    let gone = Change { changed: true, departed: true, missed: false };
    assert_eq!(cache.drop_unconfirmed(), [(notice(3, false), gone)]);
    assert_eq!((ports(&cache), cache.drop_unconfirmed()), (vec![1], vec![]));
}

#[test]
fn a_list_in_use_does_not_change_under_its_user() {
    let mut cache = HostCache::default();
    cache.look_up("add");
    cache.answer("add", &listed(&[1]), None);
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
    assert_eq!(cache.methods["add"].heard(), 2);
    cache.answer("add", &listed(&[7, 8, 9]), None);
    assert_eq!(ports(&cache), [7, 8]);
    assert!(!cache.notice(&notice(9, true)).changed);
    assert_eq!(cache.passed_over(), 6 + 2 + 1 + 1, "six early, two that came before, one of the list, one late");
}

fn revised(port: u16, online: bool, revision: u64) -> Notice {
    Notice { revision: Some(revision), ..notice(port, online) }
}

#[test]
fn the_highest_revision_that_there_is_does_no_harm() {
    let mut cache = HostCache::default();
    cache.look_up("add");
    for port in [1, 2] {
        cache.notice(&revised(port, true, u64::MAX));
    }
    cache.answer("add", &listed(&[3]), Some(u64::MAX - 1));
    assert_eq!(ports(&cache), [3, 1, 2]);
    assert!(!cache.notice(&revised(3, false, u64::MAX)).changed);
}

#[test]
fn a_missed_change_is_seen_and_asked_for() {
    enum What {
        Ask,
        Answer(&'static [u16], u64),
        Notice(u16, bool, u64),
    }
    use What::{Answer, Ask, Notice};
    let first = [Ask, Answer(&[1], 4)];
    let rows: [(&str, &[What], &[u16], bool); 12] = [
        ("in order", &[Notice(2, true, 5), Notice(1, false, 6)], &[2], false),
        ("the same twice", &[Notice(2, true, 5), Notice(2, true, 5)], &[1, 2], false),
        ("one that the answer has", &[Notice(1, false, 3)], &[1], false),
        ("one missed", &[Notice(3, true, 6)], &[1, 3], true),
        ("it stays missed", &[Notice(3, true, 6), Notice(4, true, 7)], &[1, 3, 4], true),
        ("an old one comes late", &[Notice(3, true, 6), Notice(1, false, 5)], &[1, 3], true),
        ("asked again", &[Notice(3, true, 6), Ask, Answer(&[2, 3], 6)], &[2, 3], false),
        (
            "asked again, and told meanwhile",
            &[Notice(3, true, 6), Ask, Notice(1, false, 7), Answer(&[1, 3], 6)],
            &[3],
            false,
        ),
        (
            "what the answer has already",
            &[Notice(3, true, 6), Ask, Notice(1, false, 7), Answer(&[2, 3], 8)],
            &[2, 3],
            false,
        ),
        ("missed again while asked", &[Notice(3, true, 6), Ask, Notice(2, true, 8), Answer(&[3], 6)], &[3, 2], true),
        (
            "out of order while asked",
            &[Notice(3, true, 6), Ask, Notice(4, true, 8), Notice(2, true, 7), Answer(&[3], 6)],
            &[3, 4, 2],
            true,
        ),
        ("the last one went", &[Notice(1, false, 5)], &[], false),
    ];
    for (name, steps, expected, stale) in rows {
        let mut cache = HostCache::default();
        for step in first.iter().chain(steps) {
            match step {
                Ask => assert!(matches!(cache.look_up("add"), Known::Ask | Known::Stale(_)), "{name}"),
                Answer(ports, revision) => drop(cache.answer("add", &listed(ports), Some(*revision))),
                Notice(port, online, revision) => drop(cache.notice(&revised(*port, *online, *revision))),
            }
        }
        assert_eq!(ports(&cache), expected, "{name}");
        assert_eq!(matches!(cache.look_up("add"), Known::Stale(_)), stale, "{name}");
    }
}

#[test]
fn what_changed_while_nobody_told_is_told_with_the_next_answer() {
    let mut cache = HostCache::default();
    cache.look_up("add");
    cache.answer("add", &listed(&[1, 2, 3]), Some(9));
    assert!(cache.suspect("add") && !cache.suspect("nothing"));
    assert!(matches!(cache.look_up("add"), Known::Stale(_)));
    assert!(matches!(cache.look_up("add"), Known::Hosts(_)), "one asks");
    cache.fail("add");
    assert!(matches!(cache.look_up("add"), Known::Stale(_)), "and if that fails, the next one");
    // Another center's numbers begin anew.
    let told = cache.answer("add", &listed(&[2, 4]), Some(1));
    assert_eq!(told, [notice(1, false), notice(3, false), notice(4, true)]);
    assert_eq!((cache.lists(host(1)), cache.lists(host(4))), (false, true));
    assert!(cache.notice(&revised(2, false, 2)).departed);
    assert!(matches!(cache.look_up("add"), Known::Hosts(_)));
}

#[test]
fn the_run_at_a_host_is_the_last_that_was_told() {
    let mut cache = HostCache::default();
    cache.look_up("add");
    let told = Notice { instance: Some("early".into()), ..revised(2, true, 2) };
    cache.notice(&told);
    let answered = ListedHost { instance: Some("a".into()), ..host(1).into() };
    cache.answer("add", &[answered], Some(1));
    cache.notice(&Notice { instance: Some("b".into()), ..revised(3, true, 3) });
    let shown = |port| cache.instance(host(port)).map(ToString::to_string);
    assert_eq!([1, 2, 3, 4].map(shown), [Some("a".to_owned()), Some("early".to_owned()), Some("b".to_owned()), None]);
    assert!(cache.notice(&revised(3, false, 4)).departed);
    assert_eq!(cache.instance(host(3)), None);
}

/// What happens between a center and a cache.
#[derive(Clone, Debug)]
enum Event {
    /// The set changes at the center.
    Change(u16),
    /// The cache asks if it is told to.
    LookUp,
    /// Of the messages on their way this one comes.
    Deliver(prop::sample::Index),
    /// And this one never does.
    Lose(prop::sample::Index),
    Duplicate(prop::sample::Index),
    /// Another center, or the same over another connection.
    Reconnect,
}

#[derive(Clone, Debug)]
enum Sent {
    Notice(Notice),
    Answer(Vec<ListedHost>, u64),
}

#[derive(Default)]
struct Told {
    set: Vec<u16>,
    revision: u64,
    on_the_way: Vec<Sent>,
    is_watched: bool,
}

impl Told {
    fn change(&mut self, port: u16) {
        let online = !self.set.contains(&port);
        self.set.retain(|known| *known != port);
        self.set.extend(online.then_some(port));
        self.revision += 1;
        if self.is_watched {
            self.on_the_way.push(Sent::Notice(revised(port, online, self.revision)));
        }
    }

    /// The answer may be lost; then the look-up fails.
    fn look_up(&mut self, cache: &mut HostCache) {
        if matches!(cache.look_up("add"), Known::Ask | Known::Stale(_)) {
            self.is_watched = true;
            self.on_the_way.push(Sent::Answer(listed(&self.set), self.revision));
        }
    }

    fn deliver(&mut self, at: usize, cache: &mut HostCache, view: &mut Vec<u16>) {
        let before = ports(cache);
        let told = match self.on_the_way.remove(at) {
            Sent::Notice(notice) => cache.notice(&notice).changed.then_some(notice).into_iter().collect(),
            Sent::Answer(hosts, revision) => {
                let is_first = cache.hosts("add").is_none();
                let told = cache.answer("add", &hosts, Some(revision));
                if is_first {
                    *view = ports(cache);
                }
                if is_first { Vec::new() } else { told }
            }
        };
        for notice in told {
            assert_ne!(notice.online, view.contains(&notice.host.port()), "{notice} is no news after {before:?}");
            view.retain(|known| *known != notice.host.port());
            view.extend(notice.online.then_some(notice.host.port()));
        }
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        4 => (1..5_u16).prop_map(Event::Change),
        2 => Just(Event::LookUp),
        6 => any::<prop::sample::Index>().prop_map(Event::Deliver),
        1 => any::<prop::sample::Index>().prop_map(Event::Lose),
        1 => any::<prop::sample::Index>().prop_map(Event::Duplicate),
        1 => Just(Event::Reconnect),
    ]
}

fn sorted(mut ports: Vec<u16>) -> Vec<u16> {
    ports.sort_unstable();
    ports
}

proptest! {
    #[test]
    fn whatever_is_lost_or_late_the_cache_is_right_or_knows_that_it_is_not(
        events in prop::collection::vec(event(), 0..60),
    ) {
        let (mut cache, mut center, mut view) = (HostCache::default(), Told::default(), Vec::new());
        center.look_up(&mut cache);
        for event in events {
            let count = center.on_the_way.len();
            match event {
                Event::Change(port) => center.change(port),
                Event::LookUp => center.look_up(&mut cache),
                Event::Deliver(at) if count > 0 => center.deliver(at.index(count), &mut cache, &mut view),
                Event::Duplicate(at) if count > 0 => {
                    let again = center.on_the_way[at.index(count)].clone();
                    if matches!(again, Sent::Notice(_)) {
                        center.on_the_way.push(again);
                    }
                }
                Event::Lose(at) if count > 0 => {
                    if let Sent::Answer(..) = center.on_the_way.remove(at.index(count)) {
                        cache.fail("add");
                    }
                }
                Event::Reconnect => {
                    center.on_the_way.clear();
                    center.is_watched = false;
                    center.revision = 0;
                    cache.fail("add");
                    cache.suspect("add");
                }
                _ => {}
            }
        }
        // One more change shows whether the cache has followed: it comes last, and in time.
        while !center.on_the_way.is_empty() {
            center.deliver(0, &mut cache, &mut view);
        }
        center.change(9);
        while !center.on_the_way.is_empty() {
            center.deliver(0, &mut cache, &mut view);
        }
        for _ in 0..2 {
            center.look_up(&mut cache);
            while !center.on_the_way.is_empty() {
                center.deliver(0, &mut cache, &mut view);
            }
        }
        prop_assert_eq!(sorted(ports(&cache)), sorted(center.set.clone()));
        prop_assert_eq!(sorted(view), sorted(center.set));
        prop_assert!(matches!(cache.look_up("add"), Known::Hosts(_)));
    }
}
