mod fair;

use std::collections::BTreeMap;
use std::time::Duration;

use proptest::prelude::*;

use super::leaving::MAX_PLACES;
use super::*;
use crate::HostCache;

/// What it shows, what is done, and what is told, in order.
type Row = (&'static str, Vec<Step>, Vec<&'static str>);

#[derive(Clone, Debug)]
enum Step {
    /// By a connection with a session, of the run that is called so.
    Register(u32, &'static str, &'static str, u16),
    RegisterV1(u32, &'static str, u16),
    /// The host of a connection is tried.
    Reached(u32, u16),
    Refused(u32, u16),
    TimedOut(u32, u16),
    Discover(u32, &'static str),
    /// With those that are held back.
    DiscoverAll(u32, &'static str),
    Withdraw(u32, &'static str),
    /// A session peer says that it goes.
    Going(u32),
    /// The connection of a session peer ends.
    End(u32),
    EndV1(u32),
    /// The same of one that owed a sign of life, and has so many milliseconds left to give it.
    EndSilent(u32, u64),
    /// So many milliseconds go by.
    After(u64),
}
use Step::{
    After, Discover, DiscoverAll, End, EndSilent, EndV1, Going, Reached, Refused as NotThere, Register, RegisterV1,
    TimedOut, Withdraw,
};

/// A center without sockets, its clock, and what it has told.
struct House {
    availability: Availability<u32, String>,
    now: Instant,
    told: Told,
}

/// Writes down what is told.
#[derive(Default)]
struct Told {
    lines: Vec<String>,
    /// What each watcher knows of each method.
    views: BTreeMap<(u32, String), BTreeSet<u16>>,
    /// The same as our own callers know it.
    caches: BTreeMap<u32, HostCache>,
    /// Those whose connections have ended: what is still told them goes nowhere.
    ended: BTreeSet<u32>,
    /// Of how many registrations together a connection's host was not reached.
    unreached: Vec<(u32, usize)>,
}

impl Effects<u32> for Told {
    fn notice(&mut self, notice: &Notice, watchers: &BTreeSet<u32>) {
        let (sign, port) = (if notice.online { '+' } else { '-' }, notice.host.port());
        for watcher in watchers.difference(&self.ended) {
            self.lines.push(format!("{watcher}: {sign}{} {port}", notice.method));
            let view = self.views.get_mut(&(*watcher, notice.method.to_string())).expect("told what it did not ask");
            assert!(if notice.online { view.insert(port) } else { view.remove(&port) }, "{watcher}: {notice}");
            self.caches.entry(*watcher).or_default().notice(notice);
        }
    }
}

impl Outcomes<u32, String> for Told {
    fn decided(&mut self, ticket: String, outcome: Result<(), NotEntered>) {
        let outcome = match outcome {
            Ok(()) => "ok".to_owned(),
            Err(NotEntered::Unreached { why, .. }) => why,
            Err(NotEntered::Withdrawn) => "withdrawn".to_owned(),
            Err(why) => format!("{why:?}"),
        };
        self.lines.push(format!("{ticket}: {outcome}"));
    }

    fn unreached(&mut self, peer: &u32, _host: Host, _why: &str, registrations: usize) {
        self.unreached.push((*peer, registrations));
    }

    fn crowded_out(&mut self, peer: &u32) {
        self.lines.push(format!("crowded out: {peer}"));
    }

    fn held(&mut self, method: &str, host: Host, _until: Instant) {
        self.lines.push(format!("held: {method} {}", host.port()));
    }
}

fn host(port: u16) -> Host {
    Host::new([127, 0, 0, 1].into(), port).unwrap()
}

impl House {
    fn new(policy: AvailabilityPolicy) -> Self {
        let limits = RegistryLimits { registered_per_connection: 8, ..RegistryLimits::default() };
        Self { availability: Availability::new(limits, policy), now: Instant::now(), told: Told::default() }
    }

    fn take(&mut self, step: &Step) {
        let (availability, now, told) = (&mut self.availability, self.now, &mut self.told);
        match *step {
            Register(peer, run, method, port) => {
                let instance = (!run.is_empty()).then_some(run);
                let claim = Claim { method, host: host(port), instance, store: None, is_v1: false };
                let ticket = format!("{peer} {method} {port}");
                match availability.register(&peer, &claim, now, told).unwrap() {
                    Admission::Entered => told.lines.push(format!("{ticket}: ok")),
                    Admission::Waits => availability.wait(&peer, &claim, ticket, now),
                }
            }
            RegisterV1(peer, method, port) => {
                let claim = Claim { method, host: host(port), instance: None, store: None, is_v1: true };
                let admission = availability.register(&peer, &claim, now, told);
                assert_eq!(admission, Ok(Admission::Entered), "a v1 peer is taken at its word");
            }
            Reached(peer, port) => self.tried(peer, port, &Ok(())),
            NotThere(peer, port) => self.tried(peer, port, &Err(unreached(true))),
            TimedOut(peer, port) => self.tried(peer, port, &Err(unreached(false))),
            Discover(peer, method) => self.discover(peer, method, false),
            DiscoverAll(peer, method) => self.discover(peer, method, true),
            Withdraw(peer, method) => availability.withdraw(&peer, method, None, now, told),
            Going(peer) => availability.going(&peer, now, told),
            End(peer) => self.end(peer, Duration::MAX),
            EndV1(peer) => self.end(peer, Duration::ZERO),
            EndSilent(peer, left) => self.end(peer, Duration::from_millis(left)),
            After(millis) => self.pass(Duration::from_millis(millis)),
        }
    }

    fn discover(&mut self, peer: u32, method: &'static str, all: bool) {
        let listing = self.availability.discover(&peer, method, all, self.now, &mut self.told).unwrap();
        let ports = listing.hosts.iter().map(|listed| listed.host.port()).collect();
        self.told.views.insert((peer, method.to_owned()), ports);
        let cache = self.told.caches.entry(peer).or_default();
        cache.suspect(method);
        cache.look_up(method);
        cache.answer(method, &listing.hosts, Some(listing.revision));
    }

    /// As if its attempt had begun after all that it waits for.
    fn tried(&mut self, peer: u32, port: u16, outcome: &Result<(), Unreached>) {
        for reason in FOR_REGISTRATIONS {
            self.availability.attempts.withdraw(reason, &peer, host(port));
        }
        let attempt = Attempt { peers: vec![peer], host: host(port), patience: Patience::Full };
        self.availability.tried(&attempt, outcome, self.now, &mut self.told);
    }

    fn end(&mut self, peer: u32, patience: Duration) {
        self.told.views.retain(|(watcher, _), _| *watcher != peer);
        self.told.caches.remove(&peer);
        self.told.ended.insert(peer);
        self.availability.ended(&peer, patience, self.now, &mut self.told);
    }

    /// As the keeper does: what is due is done when it is.
    fn pass(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.availability.next_deadline().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.availability.on_time(self.now, &mut self.told);
        }
        self.now = end;
    }

    fn attempts(&mut self) -> Vec<(Vec<u32>, u16)> {
        let attempts = std::iter::from_fn(|| self.availability.next_attempt());
        attempts.map(|attempt| (attempt.peers, attempt.host.port())).collect()
    }
}

fn unreached(is_refused: bool) -> Unreached {
    Unreached {
        is_refused,
        is_late: !is_refused,
        why: if is_refused { "refused" } else { "no answer in time" }.to_owned(),
    }
}

fn check(rows: Vec<Row>) {
    for (name, steps, told) in rows {
        let mut house = House::new(AvailabilityPolicy::default());
        for step in &steps {
            house.take(step);
        }
        assert_eq!(house.told.lines, told, "{name}");
    }
}

#[test]
fn who_registers_is_announced_once_its_host_was_reached() {
    let asks = || Discover(9, "add");
    let add = || Register(1, "a", "add", 1);
    check(vec![
        ("it waits", vec![asks(), add()], vec![]),
        ("reached", vec![asks(), add(), Reached(1, 1)], vec!["9: +add 1", "1 add 1: ok"]),
        ("refused", vec![asks(), add(), NotThere(1, 1)], vec!["1 add 1: refused"]),
        ("no answer", vec![asks(), add(), TimedOut(1, 1)], vec!["1 add 1: no answer in time"]),
        (
            "again after a refusal",
            vec![asks(), add(), NotThere(1, 1), add(), Reached(1, 1)],
            vec!["1 add 1: refused", "9: +add 1", "1 add 1: ok"],
        ),
        (
            "once for all of a connection",
            vec![asks(), add(), Register(1, "a", "sub", 1), Reached(1, 1), Register(1, "a", "mul", 1)],
            vec!["9: +add 1", "1 add 1: ok", "1 sub 1: ok", "1 mul 1: ok"],
        ),
        (
            "each connection and each host for itself",
            vec![asks(), add(), Register(1, "a", "add", 2), Register(2, "b", "add", 1), Reached(1, 1)],
            vec!["9: +add 1", "1 add 1: ok"],
        ),
        ("v1 at once", vec![asks(), RegisterV1(1, "add", 1)], vec!["9: +add 1"]),
        (
            "withdrawn before it was reached",
            vec![asks(), add(), Withdraw(1, "add"), Reached(1, 1)],
            vec!["1 add 1: withdrawn"],
        ),
        ("gone before it was reached", vec![asks(), add(), End(1), Reached(1, 1), After(5000)], vec![]),
    ]);
}

#[test]
fn each_host_of_a_connection_is_tried_once_and_the_departed_first() {
    let mut house = House::new(AvailabilityPolicy::default());
    for step in [Register(1, "a", "add", 1), Register(1, "a", "sub", 1), Register(1, "a", "add", 2)] {
        house.take(&step);
    }
    assert_eq!(house.attempts(), [(vec![1], 1), (vec![1], 2)]);
    for step in [Reached(1, 1), Register(2, "b", "add", 3), Register(3, "c", "add", 4), End(3), End(1)] {
        house.take(&step);
    }
    assert_eq!(house.attempts(), [(vec![1], 1), (vec![2], 3)], "what waited ends with its connection");
    assert_eq!(house.availability.metrics(), RegistryMetrics { reached: 1, departures: 1, ..Default::default() });
}

#[test]
fn who_is_gone_unexpectedly_may_come_back() {
    let online = || vec![Register(1, "a", "add", 1), Reached(1, 1), Discover(9, "add")];
    let rows: Vec<Row> = vec![
        ("refused is offline now", vec![End(1), NotThere(1, 1)], vec!["9: -add 1"]),
        ("accepted is not", vec![End(1), Reached(1, 1), After(1999)], vec![]),
        ("but later", vec![End(1), Reached(1, 1), After(2000)], vec!["9: -add 1"]),
        ("no answer is not", vec![End(1), TimedOut(1, 1), After(1999)], vec![]),
        ("not tried yet", vec![End(1), After(2000), Reached(1, 1)], vec!["9: -add 1"]),
        (
            "the same run is back",
            vec![End(1), After(1000), Register(2, "a", "add", 1), Reached(2, 1), After(9000)],
            vec!["2 add 1: ok"],
        ),
        (
            "and gone for good",
            vec![End(1), Register(2, "a", "add", 1), Reached(2, 1), End(2), NotThere(2, 1), After(9000)],
            vec!["2 add 1: ok", "9: -add 1"],
        ),
        (
            "and withdraws",
            vec![End(1), Register(2, "a", "add", 1), Reached(2, 1), Withdraw(2, "add")],
            vec!["2 add 1: ok", "9: -add 1"],
        ),
        (
            "another run at the same host",
            vec![End(1), Register(2, "b", "add", 1), Reached(2, 1), After(9000)],
            vec!["9: -add 1", "9: +add 1", "2 add 1: ok"],
        ),
        (
            "another run that is not reached",
            vec![End(1), Register(2, "b", "add", 1), NotThere(2, 1), After(1999)],
            vec!["2 add 1: refused"],
        ),
        (
            "another run elsewhere",
            vec![End(1), Register(2, "b", "add", 2), Reached(2, 2), After(2000)],
            vec!["9: +add 2", "2 add 2: ok", "9: -add 1"],
        ),
        ("a v1 provider at the same host", vec![End(1), RegisterV1(2, "add", 1)], vec!["9: -add 1", "9: +add 1"]),
        (
            "back in time, and reached a little later",
            vec![End(1), After(1900), Register(2, "a", "add", 1), After(900), Reached(2, 1), After(9000)],
            vec!["2 add 1: ok"],
        ),
        (
            "back in time, and not reached",
            vec![End(1), After(1900), Register(2, "a", "add", 1), After(1000), TimedOut(2, 1)],
            vec!["9: -add 1", "2 add 1: no answer in time"],
        ),
        ("silent until it was dead", vec![EndSilent(1, 0)], vec!["9: -add 1"]),
        ("silent until shortly before", vec![EndSilent(1, 10), After(9)], vec![]),
        ("and then dead", vec![EndSilent(1, 10), After(10)], vec!["9: -add 1"]),
        ("though it is reached", vec![EndSilent(1, 10), Reached(1, 1), After(10)], vec!["9: -add 1"]),
        ("silent, and refused", vec![EndSilent(1, 900), NotThere(1, 1)], vec!["9: -add 1"]),
        (
            "silent, and back in the time that is left",
            vec![EndSilent(1, 900), After(800), Register(2, "a", "add", 1), Reached(2, 1), After(9000)],
            vec!["2 add 1: ok"],
        ),
        ("no more than the grace is left", vec![EndSilent(1, 90_000), After(2000)], vec!["9: -add 1"]),
        ("a v1 connection", vec![RegisterV1(3, "add", 3), EndV1(3)], vec!["9: +add 3", "9: -add 3"]),
        (
            "a run without a name",
            vec![Register(3, "", "add", 3), Reached(3, 3), End(3)],
            vec!["9: +add 3", "3 add 3: ok", "9: -add 3"],
        ),
        ("another connection says the same", vec![RegisterV1(3, "add", 1), End(1), NotThere(1, 1)], vec![]),
        ("it said so", vec![Going(1)], vec!["9: -add 1"]),
        ("it said so, and its end tells nothing", vec![Going(1), End(1), After(2000)], vec!["9: -add 1"]),
        (
            "it said so while a registration waited",
            vec![Register(1, "a", "sub", 2), Going(1), Reached(1, 2)],
            vec!["1 sub 2: withdrawn", "9: -add 1"],
        ),
        ("all was taken back before", vec![Withdraw(1, "add"), End(1)], vec!["9: -add 1"]),
    ];
    for (name, steps, told) in rows {
        let steps = [online(), steps].concat();
        check(vec![(name, steps, [vec!["1 add 1: ok"], told].concat())]);
    }
}

#[test]
fn what_the_same_run_does_not_take_over_goes_in_the_end() {
    let steps = ["add", "sub"].map(|method| Register(1, "a", method, 1)).to_vec();
    let then = vec![
        Reached(1, 1),
        Discover(9, "add"),
        Discover(9, "sub"),
        End(1),
        Register(2, "a", "sub", 1),
        Reached(2, 1),
        After(2000),
    ];
    check(vec![("one of two", [steps, then].concat(), vec!["1 add 1: ok", "1 sub 1: ok", "2 sub 1: ok", "9: -add 1"])]);
}

#[test]
fn who_watches_and_provides_watches_no_longer() {
    let steps = vec![
        Register(1, "a", "add", 1),
        Reached(1, 1),
        Discover(1, "add"),
        End(1),
        RegisterV1(2, "add", 2),
        After(2000),
    ];
    check(vec![("its connection is gone", steps, vec!["1 add 1: ok"])]);
}

/// So often it comes and goes, which takes no time.
fn flaps(times: usize) -> Vec<Step> {
    std::iter::repeat_n([Register(1, "a", "add", 1), Withdraw(1, "add")], times).flatten().collect()
}

#[test]
fn who_comes_and_goes_too_often_is_announced_later() {
    let start = || vec![Register(1, "a", "sub", 1), Reached(1, 1), Discover(9, "add")];
    let add = || Register(1, "a", "add", 1);
    let thrice = ["9: +add 1", "1 add 1: ok", "9: -add 1"].repeat(3);
    let held = || vec!["held: add 1", "1 add 1: ok"];
    let rows: Vec<Row> = vec![
        ("five changes are told, and going always", vec![], vec![]),
        ("coming waits", vec![add(), After(59_999)], held()),
        ("until the minute has room", vec![add(), After(60_000)], [held(), vec!["9: +add 1"]].concat()),
        ("gone before that", vec![add(), Withdraw(1, "add"), After(60_000)], held()),
        (
            "as often as it likes",
            vec![add(), Withdraw(1, "add"), add(), After(60_000)],
            [held(), held(), vec!["9: +add 1"]].concat(),
        ),
        ("who asks now does not find it", vec![add(), Discover(8, "add"), Withdraw(1, "add")], held()),
        ("a v1 provider is announced at once", vec![RegisterV1(2, "add", 1)], vec!["9: +add 1"]),
        (
            "also where it is held back",
            vec![add(), RegisterV1(2, "add", 1), After(60_000)],
            [held(), vec!["9: +add 1"]].concat(),
        ),
        (
            "another host is not concerned",
            vec![Register(1, "a", "add", 2), Reached(1, 2)],
            vec!["9: +add 2", "1 add 2: ok"],
        ),
        (
            "who sees all found it, and is not told again",
            vec![add(), DiscoverAll(8, "add"), After(60_000)],
            [held(), vec!["9: +add 1"]].concat(),
        ),
        (
            "and is told that it goes",
            vec![add(), DiscoverAll(8, "add"), Withdraw(1, "add"), After(60_000)],
            [held(), vec!["8: -add 1"]].concat(),
        ),
    ];
    for (name, steps, told) in rows {
        let steps = [start(), flaps(3), steps].concat();
        check(vec![(name, steps, [vec!["1 sub 1: ok"], thrice.clone(), told].concat())]);
    }
}

/// What a registration takes that waits, beside the name of its method, with an instance of one byte.
const WAITING_BYTES: usize = 461;

/// A house that has room for so many entries of methods whose names are as long as this.
fn narrow(entries: usize, method: &str) -> House {
    let mut house = House::new(AvailabilityPolicy::default());
    let limits = RegistryLimits { total_bytes: entries * (WAITING_BYTES + method.len()), ..RegistryLimits::default() };
    house.availability = Availability::new(limits, AvailabilityPolicy::default());
    house
}

#[test]
fn who_takes_most_is_crowded_out_whether_it_is_in_the_table_waits_or_has_just_gone() {
    let mine = vec![Register(1, "a", "add", 1), Register(1, "a", "sub", 1), Register(1, "a", "mul", 1)];
    let in_table = [mine.clone(), vec![Reached(1, 1)]].concat();
    let ok = ["1 add 1: ok", "1 sub 1: ok", "1 mul 1: ok"].as_slice();
    let rows = [
        ("in the table", in_table.clone(), ok),
        ("where its host is not reached yet", mine, &[]),
        ("where it may be back", [in_table, vec![End(1)]].concat(), ok),
    ];
    let newcomer = [RegisterV1(2, "add", 2), Discover(3, "new")];
    for (name, steps, told) in rows {
        let mut house = narrow(3, "add");
        steps.iter().chain(&newcomer).for_each(|step| house.take(step));
        assert_eq!(house.told.lines, [told, &["crowded out: 1"]].concat(), "{name}");
        assert_eq!(house.availability.metrics().crowded_out, 1, "{name}");
        assert_eq!(house.availability.size(), TableSize { methods: 2, connections: 2, bytes: 2 * 463 }, "{name}");
        for step in [End(1), EndV1(2), EndV1(3), After(10_000)] {
            house.take(&step);
        }
        assert_eq!(house.availability.size(), TableSize::default(), "{name}");
    }
}

/// One with the limits of a center.
fn roomy() -> House {
    let mut house = House::new(AvailabilityPolicy::default());
    house.availability = Availability::new(RegistryLimits::default(), AvailabilityPolicy::default());
    house
}

#[test]
fn who_had_much_leaves_a_piece_at_a_time_and_keeps_nobody_waiting() {
    const MANY: usize = 3 * AT_ONCE;
    let methods: Vec<&'static str> = (0..MANY).map(|number| &*format!("{number:03}").leak()).collect();
    // (how it goes, its last step, what of its entries is left after that)
    let rows = [
        ("v1", vec![EndV1(1)], MANY - AT_ONCE),
        ("back no more", vec![End(1), After(0), NotThere(1, 1)], MANY - AT_ONCE),
        ("its grace is over", vec![End(1)], MANY),
    ];
    for (name, steps, left) in rows {
        let mut house = roomy();
        for method in &methods {
            for step in &[Discover(9, method), Register(1, "a", method, 1), Reached(1, 1)] {
                house.take(step);
            }
        }
        house.told.lines.clear();
        for step in &steps {
            house.take(step);
        }
        assert_eq!(house.told.lines.len(), MANY - left, "{name}");
        if left == MANY {
            house.now = house.availability.next_deadline().unwrap();
        }
        for done in (MANY - left + AT_ONCE..=MANY).step_by(AT_ONCE) {
            assert_eq!(house.availability.next_deadline(), Some(house.now), "{name}");
            house.availability.on_time(house.now, &mut house.told);
            assert_eq!(house.told.lines.len(), done, "{name}");
        }
        house.availability.on_time(house.now, &mut house.told);
        assert_eq!((house.told.lines.len(), house.availability.next_deadline()), (MANY, None), "{name}");
        let sorted: Vec<_> = house.told.lines.chunks(AT_ONCE).map(<[String]>::is_sorted).collect();
        assert_eq!(sorted, [true; 3], "{name}: {:?}", house.told.lines);
    }
}

#[test]
fn many_hosts_and_many_watchers_of_one_method_are_pieces_too() {
    let ports = || (1..).take(4 * AT_ONCE);
    let mut house = roomy();
    let watchers: Vec<_> = (100..).take(4 * crate::table::TOLD).collect();
    for watcher in watchers.iter().copied() {
        house.take(&Discover(watcher, "add"));
    }
    for port in ports() {
        house.take(&RegisterV1(1, "add", port));
    }
    house.told.lines.clear();
    house.take(&EndV1(1));
    while house.availability.next_deadline().is_some() {
        // An entry for which so many are told is five, and the last of a piece may go beyond it.
        assert!(house.told.lines.len() <= watchers.len() * (AT_ONCE / 5 + 1), "{}", house.told.lines.len());
        house.told.lines.clear();
        house.availability.on_time(house.now, &mut house.told);
    }
    assert_eq!(house.availability.hosts("add").count(), 0);
    let left = house.told.views.iter().filter(|(_, ports)| !ports.is_empty()).count();
    assert_eq!(left, 0, "all were told of all");
}

#[test]
fn who_comes_in_place_of_one_with_much_is_told_of_at_once_and_the_rest_of_that_goes_in_pieces() {
    let methods: Vec<&'static str> = (0..4 * AT_ONCE).map(|number| &*format!("{number:03}").leak()).collect();
    let last = methods[methods.len() - 1];
    let news = [format!("9: -{last} 1"), format!("9: +{last} 1")];
    // Whose time is over, and who may be back.
    for end in [EndSilent(1, 0), End(1)] {
        let mut house = roomy();
        for method in &methods {
            for step in &[Register(1, "a", method, 1), Reached(1, 1)] {
                house.take(step);
            }
        }
        house.take(&Discover(9, last));
        house.take(&end);
        house.told.lines.clear();
        for step in &[Register(2, "b", last, 1), Reached(2, 1)] {
            house.take(step);
        }
        assert_eq!(house.told.lines[..2], news, "{end:?}");
        let (left, is_more) = (house.availability.size().methods, house.availability.next_deadline());
        assert!(left >= 2 * AT_ONCE && is_more == Some(house.now), "{end:?}: {left}");
        house.take(&After(0));
        assert_eq!(house.availability.size().methods, 1, "{end:?}");
        assert_eq!(house.availability.hosts(last).collect::<Vec<_>>(), [host(1)], "{end:?}");
    }
}

#[test]
fn who_registered_at_very_many_hosts_is_not_waited_for() {
    for (hosts, waits) in [(MAX_PLACES, true), (MAX_PLACES + 1, false)] {
        let mut house = roomy();
        for port in (1..).take(hosts) {
            house.take(&Register(1, "a", "add", port));
            house.take(&Reached(1, port));
        }
        house.take(&End(1));
        house.take(&After(0));
        assert_eq!(house.availability.has_departed(host(1)), waits, "{hosts}");
        house.take(&After(120_000));
        assert_eq!(house.availability.size(), TableSize::default(), "{hosts}");
    }
}

#[test]
fn who_leaves_with_much_holds_up_nothing_else_that_is_due() {
    let mut house = roomy();
    let methods: Vec<&'static str> = (0..4 * AT_ONCE).map(|number| &*format!("{number:03}").leak()).collect();
    for step in &[Discover(9, "add"), Register(2, "a", "add", 2), Reached(2, 2), End(2)] {
        house.take(step);
    }
    house.now = house.availability.next_deadline().unwrap();
    for method in &methods {
        house.take(&RegisterV1(1, method, 1));
    }
    house.take(&EndV1(1));
    house.availability.on_time(house.now, &mut house.told);
    assert_eq!(house.told.lines.last().unwrap(), "9: -add 2");
    assert_eq!(house.availability.next_deadline(), Some(house.now), "not all of the other one has gone");
}

#[test]
fn who_watched_much_leaves_a_piece_at_a_time_while_what_it_registered_stays() {
    let mut house = roomy();
    let methods: Vec<&'static str> = (0..2 * AT_ONCE).map(|number| &*format!("{number:03}").leak()).collect();
    for method in &methods {
        house.take(&Discover(1, method));
    }
    for step in &[Register(1, "a", "add", 1), Reached(1, 1), End(1)] {
        house.take(step);
    }
    for left in [AT_ONCE + 1, 1, 1] {
        assert_eq!(house.availability.size().methods, left);
        house.availability.on_time(house.now, &mut house.told);
    }
    assert!(house.availability.has_departed(host(1)), "it may be back");
    house.take(&After(120_000));
    assert_eq!(house.availability.size(), TableSize::default());
}

#[test]
fn one_that_is_crowded_out_makes_room_for_many_before_another_one_goes() {
    let names: Vec<&'static str> = (0..4 * AT_ONCE).map(|number| &*format!("{number:03}").leak()).collect();
    let mut house = narrow(4 * AT_ONCE, "000");
    let (more, fewer) = names.split_at(2 * AT_ONCE + 1);
    for (peer, own) in [(1, more), (2, fewer)] {
        for name in own {
            house.take(&RegisterV1(peer, name, 1));
        }
    }
    for port in 2..32 {
        let own: Vec<_> = (0..2).map(|number| &*format!("{port:02}{number}").leak()).collect();
        for name in own {
            house.take(&RegisterV1(u32::from(port) + 10, name, port));
        }
    }
    assert_eq!(house.told.lines, ["crowded out: 1"]);
    assert_eq!(house.availability.metrics().crowded_out, 1);
    // Its end finds the rest of it.
    house.take(&EndV1(1));
    house.take(&After(0));
    assert_eq!(house.availability.next_deadline(), None);
}

#[test]
fn what_waits_takes_its_room_until_it_is_decided() {
    let mut house = narrow(2, "add");
    let ends: [&[Step]; 5] =
        [&[NotThere(1, 1)], &[Withdraw(1, "add")], &[Going(1)], &[End(1)], &[Reached(1, 1), Withdraw(1, "add")]];
    for end in ends {
        house.take(&Register(1, "a", "add", 1));
        assert_eq!(house.availability.size(), TableSize { bytes: WAITING_BYTES + 3, ..TableSize::default() });
        for step in end {
            house.take(step);
        }
        assert_eq!(house.availability.size(), TableSize::default(), "{end:?}");
    }
    house.take(&Register(1, "a", "add", 2));
    house.take(&Register(1, "a", "add", 3));
    let (claim, now) = (Claim { method: "sub", host: host(4), instance: None, store: None, is_v1: false }, house.now);
    let refused = house.availability.register(&1, &claim, now, &mut house.told).unwrap_err();
    assert_eq!(refused, Refused::Total { bound: 2 * (WAITING_BYTES + 3) });
}

#[test]
fn of_long_names_fewer_changes_are_remembered() {
    let mut damping = Damping::new(5, Duration::from_mins(1));
    let now = Instant::now();
    for number in 0..10_000 {
        damping.record(&format!("{number:04096}").into(), host(1), now);
    }
    assert_eq!(damping.len(), (8 << 20) / 4096 + 1);
}

#[test]
fn what_is_remembered_of_changes_is_bounded() {
    let mut damping = Damping::new(5, Duration::from_mins(1));
    let now = Instant::now();
    for number in 0..70_000 {
        damping.record(&format!("m{number}").into(), host(1), now);
    }
    assert_eq!(damping.len(), 65_536);
    assert_eq!(damping.wait("m69999", host(1), now + Duration::from_mins(1)), None);
    assert_eq!(damping.len(), 0);
}

#[test]
fn peers_that_are_gone_leave_no_attempts_behind() {
    let mut house = House::new(AvailabilityPolicy::default());
    for peer in 0..10_000 {
        house.take(&Register(peer, "a", "add", 1));
        house.take(&End(peer));
    }
    assert!(house.availability.attempts.is_empty());
}

#[test]
fn all_times_may_be_as_long_as_any() {
    let (probe_timeout, provider_grace, flap_window) = (Duration::MAX, Duration::MAX, Duration::MAX);
    let policy = AvailabilityPolicy { probe_timeout, provider_grace, flap_window, ..AvailabilityPolicy::default() };
    let mut house = House::new(policy);
    for step in [Register(1, "a", "add", 1), Reached(1, 1), End(1), Register(2, "a", "add", 1), Reached(2, 1)] {
        house.take(&step);
    }
    assert_eq!(house.told.lines, ["1 add 1: ok", "2 add 1: ok"]);
    assert_eq!(house.availability.size().connections, 1, "its place was kept until it came back");
}

#[test]
fn hosts_that_do_not_answer_hold_up_neither_a_registration_nor_a_departure() {
    let mut house = House::new(AvailabilityPolicy::default());
    house.take(&Register(1, "a", "add", 1));
    assert_eq!(house.attempts(), [(vec![1], 1)]);
    house.take(&Reached(1, 1));
    for peer in 1000..1900 {
        house.take(&Register(peer, "x", "m", 9));
    }
    assert_eq!(house.attempts(), [((1000..1900).collect(), 9)], "one attempt for all");
    house.take(&Register(2, "b", "add", 2));
    house.take(&End(1));
    assert_eq!(house.attempts(), [(vec![1], 1), (vec![2], 2)], "at once");
    for port in 100..1000 {
        house.take(&Register(3, "c", "add", port));
    }
    assert_eq!(house.attempts().len(), 16, "a quarter");
    house.take(&Register(4, "d", "add", 3));
    assert_eq!(house.attempts(), [(vec![4], 3)], "at once");
}

#[test]
fn a_center_that_ends_refuses_what_waits() {
    let mut house = House::new(AvailabilityPolicy::default());
    for (peer, port) in [(3, 3), (1, 1), (2, 2)] {
        house.take(&Register(peer, "a", "add", port));
    }
    house.availability.drain(&mut house.told);
    assert_eq!(house.told.lines, ["1 add 1: Draining", "2 add 2: Draining", "3 add 3: Draining"]);
    assert_eq!((house.attempts(), house.availability.probes.is_empty()), (vec![], true));
}

#[test]
fn what_waits_for_one_host_is_decided_in_pieces() {
    for is_there in [true, false] {
        let mut house = House::new(AvailabilityPolicy::default());
        for (peer, method) in [(1, "add"), (2, "sub"), (2, "add")] {
            for _ in 0..tried::AT_ONCE + 6 {
                house.take(&Register(peer, "a", method, 1));
            }
        }
        assert_eq!(house.attempts(), [(vec![1, 2], 1)]);
        let attempt = Attempt { peers: vec![1, 2], host: host(1), patience: Patience::Full };
        let outcome = if is_there { Ok(()) } else { Err(unreached(true)) };
        let told = if is_there { "ok" } else { "refused" };
        house.availability.tried(&attempt, &outcome, house.now, &mut house.told);
        assert_eq!(std::mem::take(&mut house.told.lines), vec![format!("1 add 1: {told}"); tried::AT_ONCE]);
        assert_eq!(house.availability.next_deadline(), Some(house.now), "there is more to tell");
        // What is said between the pieces holds, and who comes then waits for an attempt that begins then.
        house.take(&Register(1, "a", "mul", 1));
        house.take(&Withdraw(2, "sub"));
        let withdrawn = vec!["2 sub 1: withdrawn".to_owned(); tried::AT_ONCE + 6];
        assert_eq!(std::mem::take(&mut house.told.lines), withdrawn);
        house.availability.on_time(house.now, &mut house.told);
        assert!(house.told.lines.len() <= tried::AT_ONCE);
        house.pass(Duration::ZERO);
        let rest = [("1 add", 6), ("2 add", tried::AT_ONCE + 6)];
        let rest: Vec<_> =
            rest.into_iter().flat_map(|(who, number)| vec![format!("{who} 1: {told}"); number]).collect();
        assert_eq!(house.told.lines, rest);
        assert_eq!(house.attempts(), [(vec![1], 1)]);
        let unreached = if is_there { vec![] } else { vec![(1, tried::AT_ONCE + 6), (2, tried::AT_ONCE + 6)] };
        assert_eq!(house.told.unreached, unreached, "once for each");
    }
}

#[test]
fn who_has_gone_before_it_is_told_is_not_entered() {
    let mut house = House::new(AvailabilityPolicy::default());
    for _ in 0..=tried::AT_ONCE {
        house.take(&Register(1, "a", "add", 1));
        house.take(&Register(2, "b", "sub", 1));
    }
    let attempt = Attempt { peers: vec![1, 2], host: host(1), patience: Patience::Full };
    assert_eq!(house.attempts(), [(vec![1, 2], 1)]);
    house.availability.tried(&attempt, &Ok(()), house.now, &mut house.told);
    house.take(&EndV1(1));
    house.take(&EndV1(2));
    house.pass(Duration::ZERO);
    assert_eq!(house.told.lines, vec!["1 add 1: ok"; tried::AT_ONCE]);
    assert_eq!((house.availability.size(), house.availability.probes.is_empty()), (TableSize::default(), true));
    // And a center that ends has refused all.
    for _ in 0..=tried::AT_ONCE {
        house.take(&Register(3, "c", "add", 1));
    }
    house.told.lines.clear();
    house.availability.tried(&Attempt { peers: vec![3], ..attempt }, &Ok(()), house.now, &mut house.told);
    house.availability.drain(&mut house.told);
    assert_eq!(house.told.lines.split_off(tried::AT_ONCE), ["3 add 1: Draining"]);
    assert_eq!(house.availability.next_deadline(), None);
}

fn step() -> impl Strategy<Value = Step> {
    let (peer, port) = (1..4_u32, 1..3_u16);
    let (run, method) = (prop::sample::select(vec!["a", "b", ""]), prop::sample::select(vec!["add", "sub"]));
    let (plain, seeing_all) = (7..9_u32, 9..11_u32);
    prop_oneof![
        6 => (peer.clone(), run, method.clone(), port.clone()).prop_map(|(k, i, m, p)| Register(k, i, m, p)),
        1 => (4..6_u32, method.clone(), port.clone()).prop_map(|(k, m, p)| RegisterV1(k, m, p)),
        6 => (peer.clone(), port.clone()).prop_map(|(k, p)| Reached(k, p)),
        2 => (peer.clone(), port.clone()).prop_map(|(k, p)| NotThere(k, p)),
        1 => (peer.clone(), port).prop_map(|(k, p)| TimedOut(k, p)),
        2 => (plain, method.clone()).prop_map(|(k, m)| Discover(k, m)),
        2 => (seeing_all, method.clone()).prop_map(|(k, m)| DiscoverAll(k, m)),
        2 => (peer.clone(), method).prop_map(|(k, m)| Withdraw(k, m)),
        1 => peer.clone().prop_map(Going),
        3 => peer.prop_map(End),
        1 => (4..6_u32).prop_map(EndV1),
        1 => (7..11_u32).prop_map(EndV1),
        3 => (1..3000_u64).prop_map(After),
    ]
}

/// A connection that ended does not come back: after each end, the next one in its place has a number of its own.
fn renumbered(steps: Vec<Step>) -> Vec<Step> {
    let mut ends = BTreeMap::<u32, u32>::new();
    let mut number = |peer: &mut u32, is_end: bool| {
        let ended = ends.entry(*peer).or_default();
        *peer += 100 * *ended;
        *ended += u32::from(is_end);
    };
    let mut steps = steps;
    for step in &mut steps {
        match step {
            End(peer) | EndV1(peer) | EndSilent(peer, _) => number(peer, true),
            Register(peer, ..) | RegisterV1(peer, ..) | Reached(peer, _) | NotThere(peer, _) | TimedOut(peer, _) => {
                number(peer, false);
            }
            Discover(peer, _) | DiscoverAll(peer, _) | Withdraw(peer, _) | Going(peer) => number(peer, false),
            After(_) => {}
        }
    }
    steps
}

impl House {
    fn announced(&self, method: &str) -> BTreeSet<u16> {
        self.availability.table.hosts(method).map(Host::port).collect()
    }

    /// What each watcher knows is what was announced, and perhaps more of what it found itself.
    fn check_views(&self) {
        for ((watcher, method), view) in &self.told.views {
            assert!(view.is_superset(&self.announced(method)), "{watcher}: {method}");
            let more = view.iter().filter(|port| !self.announced(method).contains(port));
            for port in more {
                assert!(self.availability.table.is_held(method, host(*port)), "{watcher}: {port}");
            }
            let cached = self.told.caches[watcher].hosts(method).unwrap();
            assert_eq!(cached.iter().map(|host| host.port()).collect::<BTreeSet<_>>(), *view);
        }
    }
}

proptest! {
    #[test]
    fn nobody_hears_twice_of_one_thing_and_nothing_is_left_in_the_end(
        steps in prop::collection::vec(step(), 0..120),
        at_once in prop::sample::select(vec![1, 2, AT_ONCE]),
    ) {
        let mut house = House::new(AvailabilityPolicy { flap_changes: 2, ..AvailabilityPolicy::default() });
        house.availability.at_once = at_once;
        let providers = (1..4).map(End).chain((4..6).map(EndV1));
        let watchers = (7..11).map(EndV1);
        let all = steps.into_iter().chain(providers).chain([After(120_000)]).chain(watchers).chain([After(0)]).collect();
        for step in renumbered(all) {
            house.take(&step);
            house.check_views();
        }
        prop_assert_eq!(house.availability.size(), TableSize::default());
        prop_assert!(house.availability.probes.is_empty() && house.availability.held.is_empty());
        prop_assert_eq!((house.attempts(), house.availability.next_deadline()), (vec![], None));
    }
}
