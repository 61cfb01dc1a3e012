use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

/// What it shows, what is done, who is told what, and the ports that are left.
type Row = (&'static str, Vec<Step>, Vec<String>, &'static [u16]);

/// Writes down who is told what, in order.
#[derive(Default)]
struct Log(Vec<(u8, String)>);

impl Effects<u8> for Log {
    fn notice(&mut self, notice: &Notice, watchers: &BTreeSet<u8>) {
        assert!(!watchers.is_empty());
        self.0.extend(watchers.iter().map(|watcher| (*watcher, notice.to_string())));
    }
}

#[derive(Debug)]
enum Step {
    Register(u8, &'static str, u16),
    Discover(u8, &'static str),
    StopWatching(u8, &'static str),
    Withdraw(u8, &'static str, Option<u16>),
    Leave(u8),
}
use Step::{Discover, Leave, Register, StopWatching, Withdraw};

fn host(port: u16) -> Host {
    Host::new([127, 0, 0, 1].into(), port).unwrap()
}

fn run(table: &mut Table<u8>, steps: &[Step]) -> Vec<String> {
    let mut log = Log::default();
    for step in steps {
        match *step {
            Register(peer, method, port) => table.register(&peer, method, host(port), None, &mut log).unwrap(),
            Discover(peer, method) => drop(table.discover(&peer, method).unwrap()),
            StopWatching(peer, method) => table.stop_watching(&peer, method),
            Withdraw(peer, method, port) => table.withdraw(&peer, method, port.map(host), &mut log),
            Leave(peer) => table.leave(&peer, &mut log),
        }
    }
    log.0.into_iter().map(|(watcher, notice)| format!("{watcher}: {notice}")).collect()
}

fn ports(table: &Table<u8>, method: &str) -> Vec<u16> {
    table.hosts(method).map(Host::port).collect()
}

#[test]
fn who_is_told_what() {
    let online = |port| format!("9: \"add\" online at 127.0.0.1:{port}");
    let offline = |port| format!("9: \"add\" offline at 127.0.0.1:{port}");
    let rows: Vec<Row> = vec![
        ("nobody watches", vec![Register(1, "add", 1), Leave(1)], vec![], &[]),
        ("first provider", vec![Discover(9, "add"), Register(1, "add", 1)], vec![online(1)], &[1]),
        (
            "a watcher twice is one",
            vec![Discover(9, "add"), Discover(9, "add"), Register(1, "add", 1)],
            vec![online(1)],
            &[1],
        ),
        ("another method", vec![Discover(9, "add"), Register(1, "sub", 1)], vec![], &[]),
        (
            "the same again",
            vec![Discover(9, "add"), Register(1, "add", 1), Register(1, "add", 1)],
            vec![online(1)],
            &[1],
        ),
        (
            "the same by another connection, and one goes",
            vec![Discover(9, "add"), Register(1, "add", 1), Register(2, "add", 1), Leave(1)],
            vec![online(1)],
            &[1],
        ),
        (
            "the same by another connection, and both go",
            vec![Discover(9, "add"), Register(1, "add", 1), Register(2, "add", 1), Leave(1), Leave(2)],
            vec![online(1), offline(1)],
            &[],
        ),
        (
            "back again is last",
            vec![Register(1, "add", 1), Register(2, "add", 2), Leave(1), Register(1, "add", 1)],
            vec![],
            &[2, 1],
        ),
        (
            "one method withdrawn",
            vec![
                Discover(9, "add"),
                Register(1, "add", 1),
                Register(1, "add", 2),
                Register(1, "sub", 1),
                Register(2, "add", 3),
                Withdraw(1, "add", None),
            ],
            vec![online(1), online(2), online(3), offline(1), offline(2)],
            &[3],
        ),
        (
            "one host withdrawn",
            vec![Discover(9, "add"), Register(1, "add", 1), Register(1, "add", 2), Withdraw(1, "add", Some(1))],
            vec![online(1), online(2), offline(1)],
            &[2],
        ),
        (
            "what is not there is not missed",
            vec![
                Discover(9, "add"),
                Register(1, "add", 1),
                Withdraw(1, "add", Some(7)),
                Withdraw(1, "sub", None),
                Withdraw(2, "add", None),
                Leave(3),
                StopWatching(4, "add"),
            ],
            vec![online(1)],
            &[1],
        ),
        ("no longer a watcher", vec![Discover(9, "add"), StopWatching(9, "add"), Register(1, "add", 1)], vec![], &[1]),
        (
            "all roles in one connection, which is not told of its own end",
            vec![Discover(9, "add"), Register(9, "add", 1), Leave(9)],
            vec![online(1)],
            &[],
        ),
    ];
    for (name, steps, told, left) in rows {
        let mut table = Table::default();
        assert_eq!(run(&mut table, &steps), told, "{name}");
        assert_eq!(ports(&table, "add"), left, "{name}");
    }
}

#[test]
fn what_all_take_together_is_bounded_and_who_has_most_gives_way() {
    let limits = RegistryLimits { total_bytes: 4 * cost("add") + 2 * METHOD_BYTES, ..RegistryLimits::default() };
    let mut table = Table::new(limits);
    run(&mut table, &[Register(1, "add", 1), Register(1, "add", 2), Discover(1, "sub"), Register(2, "add", 1)]);
    let full = Refused::Total { bound: limits.total_bytes };
    assert_eq!((full.code(), table.size().bytes), (callboard_common::ResultCode::Overloaded, limits.total_bytes));
    // What is there already takes no more.
    run(&mut table, &[Register(1, "add", 1), Discover(1, "sub"), Register(2, "add", 1)]);
    let rows = [
        ("who has most", 1, "sub", None),
        ("who has less, and would not have as much", 2, "sub", Some(1)),
        ("a newcomer", 3, "sub", Some(1)),
        (
            "a newcomer with so long a name that it would have most",
            3,
            "a name that is far too long".repeat(20).leak(),
            None,
        ),
    ];
    for (who, peer, method, gives_way) in rows {
        assert_eq!(table.register(&peer, method, host(9), None, &mut Log::default()), Err(full), "{who}");
        assert_eq!(table.discover(&peer, "new"), Err(full), "{who}");
        assert_eq!(table.gives_way(&peer, table.entry_bytes(&peer, method, None)), gives_way, "{who}");
    }
    run(&mut table, &[Leave(1), Register(3, "sub", 9), Discover(3, "add")]);
    assert_eq!(table.size().bytes, 3 * cost("add") + 2 * METHOD_BYTES);
    assert_eq!(table.gives_way(&2, table.entry_bytes(&2, "sub", None)), None, "there is room");
}

/// At least as much as was measured in a center, with an allocator that wastes little.
#[test]
fn what_is_counted_is_what_is_taken() {
    let (mut table, none) = (Table::<u8>::default(), &mut Log::default());
    let mut grown = 0;
    let mut grows_by = |table: &Table<u8>| {
        let before = std::mem::replace(&mut grown, table.size().bytes);
        grown - before
    };
    table.register(&1, "m.0001", host(1), Some("run"), none).unwrap();
    assert!(grows_by(&table) >= 420, "a method of its own");
    table.discover(&2, "m.0002").unwrap();
    assert!(grows_by(&table) >= 461, "a method that only one watches");
    table.discover(&3, "m.0002").unwrap();
    assert!((79..300).contains(&grows_by(&table)), "one that others name, too");
    let other = "another run".repeat(20);
    for (port, instance) in (2..).zip([&other, &"yet another".repeat(20), &other]) {
        table.register(&1, "m.0002", host(port), Some(instance), none).unwrap();
        assert!(grows_by(&table) >= 79 + 320, "an instance of its own");
    }
    table.withdraw(&1, "m.0002", None, none);
    table.register(&1, "m.0002", host(1), Some("run"), none).unwrap();
    for peer in [1, 2, 3] {
        table.leave(&peer, none);
    }
    assert_eq!(table.size(), TableSize::default());
}

#[test]
fn the_bounds_hold_for_each_connection() {
    let limits = RegistryLimits {
        registered_per_connection: 2,
        watched_per_connection: 1,
        max_name_bytes: 3,
        ..RegistryLimits::default()
    };
    let mut table = Table::new(limits);
    run(&mut table, &[Register(1, "add", 1), Register(1, "add", 2), Discover(1, "add")]);
    assert_eq!(table.register(&1, "add", host(2), None, &mut Log::default()), Ok(()));
    assert_eq!(table.register(&1, "sub", host(1), None, &mut Log::default()), Err(Refused::Registered { bound: 2 }));
    assert_eq!(table.register(&2, "sub", host(1), None, &mut Log::default()), Ok(()));
    assert_eq!(table.discover(&1, "sub"), Err(Refused::Watched { bound: 1 }));
    assert_eq!(table.discover(&1, "add").map(|listing| listing.hosts.len()), Ok(2));
    assert_eq!(table.discover(&2, "adds"), Err(Refused::Name { name_bytes: 4, bound: 3 }));
    // What goes makes room.
    run(&mut table, &[Withdraw(1, "add", Some(1)), Register(1, "sub", 1), StopWatching(1, "add"), Discover(1, "sub")]);
    run(&mut table, &[Leave(1), Leave(2)]);
    assert_eq!(table.size(), TableSize::default());
}

#[test]
fn a_revision_never_means_two_sets() {
    let mut table = Table::default();
    let revision = |table: &mut Table<u8>| table.discover(&9, "add").unwrap().revision;
    assert_eq!(revision(&mut table), 0);
    run(&mut table, &[Register(1, "add", 1), Register(2, "add", 1), Register(1, "add", 2), Leave(1)]);
    assert_eq!(revision(&mut table), 3, "what changes nothing has no number");
    run(&mut table, &[StopWatching(9, "add"), Leave(2)]);
    assert_eq!(table.size(), TableSize::default());
    assert_eq!(revision(&mut table), 4, "also where the method was forgotten meanwhile");
}

struct Instances<'a>(&'a mut Vec<Option<String>>);
impl Effects<u8> for Instances<'_> {
    fn notice(&mut self, notice: &Notice, _watchers: &BTreeSet<u8>) {
        self.0.push(notice.instance.as_deref().map(str::to_owned));
    }
}

#[test]
fn an_entry_names_the_run_that_is_there() {
    let (mut table, mut log) = (Table::default(), Vec::new());
    let listed = |table: &mut Table<u8>| {
        let hosts = table.discover(&9, "add").unwrap().hosts;
        hosts.first().and_then(|listed| listed.instance.as_deref().map(str::to_owned))
    };
    assert_eq!(listed(&mut table), None);
    table.register(&1, "add", host(1), Some("a"), &mut Instances(&mut log)).unwrap();
    assert_eq!(listed(&mut table).as_deref(), Some("a"));
    table.register(&2, "add", host(1), Some("b"), &mut Instances(&mut log)).unwrap();
    assert_eq!(listed(&mut table).as_deref(), Some("b"));
    table.leave(&1, &mut Instances(&mut log));
    table.leave(&2, &mut Instances(&mut log));
    assert_eq!(log, [Some("a".to_owned()), Some("b".to_owned())]);
}

#[test]
fn nothing_is_left_when_all_have_gone() {
    let mut table = Table::default();
    run(&mut table, &[Discover(1, "add"), StopWatching(1, "add")]);
    assert_eq!(table.size(), TableSize::default());
    run(&mut table, &[Register(1, "add", 1), Withdraw(1, "add", Some(1))]);
    assert_eq!(table.size(), TableSize::default());
    run(&mut table, &[Register(1, "add", 1), Discover(2, "add"), Register(2, "sub", 1), Leave(2)]);
    assert_eq!(table.size(), TableSize { methods: 1, connections: 1, bytes: cost("add") + METHOD_BYTES });
    run(&mut table, &[Leave(1)]);
    assert_eq!(table.size(), TableSize::default());
}

/// What the table should hold, in lists that are searched from end to end, and what each watcher knows.
#[derive(Default)]
struct Model {
    entries: Vec<(&'static str, u16, Vec<u8>)>,
    watchers: BTreeSet<(u8, &'static str)>,
    views: BTreeMap<(u8, String), BTreeSet<Host>>,
    /// The last revision that each watcher was told.
    revisions: BTreeMap<(u8, String), u64>,
}

impl Model {
    fn apply(&mut self, step: &Step) {
        match *step {
            Register(peer, method, port) => self.register(peer, method, port),
            Discover(peer, method) => drop(self.watchers.insert((peer, method))),
            StopWatching(peer, method) => self.forget_view(peer, method),
            Withdraw(peer, method, port) => {
                self.remove(peer, |of, at| of == method && port.is_none_or(|port| port == at));
            }
            Leave(peer) => {
                for method in METHODS {
                    self.forget_view(peer, method);
                }
                self.remove(peer, |_, _| true);
            }
        }
    }

    fn register(&mut self, peer: u8, method: &'static str, port: u16) {
        match self.entries.iter_mut().find(|(of, at, _)| *of == method && *at == port) {
            Some((_, _, by)) if by.contains(&peer) => {}
            Some((_, _, by)) => by.push(peer),
            None => self.entries.push((method, port, vec![peer])),
        }
    }

    fn remove(&mut self, peer: u8, goes: impl Fn(&str, u16) -> bool) {
        self.entries.iter_mut().filter(|(of, at, _)| goes(of, *at)).for_each(|(_, _, by)| by.retain(|k| *k != peer));
        self.entries.retain(|(_, _, by)| !by.is_empty());
    }

    fn forget_view(&mut self, peer: u8, method: &'static str) {
        self.watchers.remove(&(peer, method));
        self.views.remove(&(peer, method.to_owned()));
        self.revisions.remove(&(peer, method.to_owned()));
    }

    fn ports(&self, method: &str) -> Vec<u16> {
        self.entries.iter().filter(|(of, _, _)| *of == method).map(|(_, at, _)| *at).collect()
    }
}

/// A watcher takes each notice as news: what it has can't come, and what it does not have can't go.
impl Effects<u8> for Model {
    fn notice(&mut self, notice: &Notice, watchers: &BTreeSet<u8>) {
        for watcher in watchers {
            let of = (*watcher, notice.method.to_string());
            let last = self.revisions.get_mut(&of).expect("told what it did not ask");
            assert_eq!(notice.revision, Some(*last + 1), "a change was not told, or told twice: {notice}");
            *last += 1;
            let view = self.views.get_mut(&of).expect("told what it did not ask");
            assert!(if notice.online { view.insert(notice.host) } else { view.remove(&notice.host) }, "{notice}");
        }
    }
}

const METHODS: [&str; 3] = ["add", "echo", "sub"];

fn step() -> impl Strategy<Value = Step> {
    let (peer, method, port) = (0..4u8, prop::sample::select(&METHODS[..]), 1..4u16);
    prop_oneof![
        4 => (peer.clone(), method.clone(), port.clone()).prop_map(|(k, m, p)| Register(k, m, p)),
        3 => (peer.clone(), method.clone()).prop_map(|(k, m)| Discover(k, m)),
        1 => (peer.clone(), method.clone()).prop_map(|(k, m)| StopWatching(k, m)),
        2 => (peer.clone(), method, prop::option::of(port)).prop_map(|(k, m, p)| Withdraw(k, m, p)),
        1 => peer.prop_map(Leave),
    ]
}

proptest! {
    #[test]
    fn it_does_what_lists_would_do(steps in prop::collection::vec(step(), 0..80)) {
        let mut table = Table::default();
        let mut model = Model::default();
        let all_leave = (0..4).map(Leave);
        for step in steps.into_iter().chain(all_leave) {
            // First, since it looks at what the leaver still knows.
            if let Leave(peer) = step {
                for method in METHODS {
                    model.forget_view(peer, method);
                }
            }
            match step {
                Register(peer, method, port) => table.register(&peer, method, host(port), None, &mut model).unwrap(),
                Discover(peer, method) => {
                    let listing = table.discover(&peer, method).unwrap();
                    let hosts = listing.hosts.into_iter().map(|listed| listed.host).collect();
                    model.views.insert((peer, method.to_owned()), hosts);
                    model.revisions.insert((peer, method.to_owned()), listing.revision);
                }
                StopWatching(peer, method) => table.stop_watching(&peer, method),
                Withdraw(peer, method, port) => table.withdraw(&peer, method, port.map(host), &mut model),
                Leave(peer) => table.leave(&peer, &mut model),
            }
            model.apply(&step);
            for method in METHODS {
                prop_assert_eq!(ports(&table, method), model.ports(method));
            }
            prop_assert_eq!(model.views.len(), model.watchers.len());
            for ((_, method), view) in &model.views {
                prop_assert_eq!(view, &table.hosts(method).collect::<BTreeSet<_>>());
            }
            let peers: BTreeSet<u8> = model.entries.iter().flat_map(|(_, _, by)| by.iter().copied())
                .chain(model.watchers.iter().map(|(peer, _)| *peer)).collect();
            let methods: BTreeSet<&str> = model.entries.iter().map(|(method, _, _)| *method)
                .chain(model.watchers.iter().map(|(_, method)| *method)).collect();
            let provided = model.entries.iter().map(|(method, _, by)| by.len() * cost(method)).sum::<usize>();
            let watched = model.watchers.iter().map(|(_, method)| cost(method)).sum::<usize>();
            let bytes = provided + watched + methods.len() * METHOD_BYTES;
            let size = TableSize { methods: methods.len(), connections: peers.len(), bytes };
            prop_assert_eq!(table.size(), size);
        }
        prop_assert_eq!(table.size(), TableSize::default());
    }
}
