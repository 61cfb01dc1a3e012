use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;
use std::{io, thread};

use callboard_common::{Connection, ConnectionId};
use callboard_net::{Conn, spawn_on};
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until};

use crate::calls::Calls;

/// The thread of this process that ends calls whose time is up. A thread of its own, so that a deadline holds whatever
/// the runtimes do, and so that a call that is answered in time (nearly each) touches no timer at all.
///
/// A connection sets its alarm for its earliest deadline. When that comes, it looks at all its calls and sets it anew.
pub(crate) struct Clock {
    alarms: Mutex<Alarms<Alarm>>,
    changed: Condvar,
}

/// Whose calls to look at.
struct Alarm {
    calls: Weak<Calls>,
    conn: Conn,
}

impl Clock {
    /// The process's clock, started with the first use.
    pub(crate) fn get() -> io::Result<&'static Self> {
        static CLOCK: OnceLock<Clock> = OnceLock::new();
        static STARTED: Mutex<bool> = Mutex::new(false);
        let clock = CLOCK.get_or_init(Self::new);
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if !*started {
            thread::Builder::new().name("callboard-clock".to_owned()).spawn(|| clock.run())?;
            *started = true;
        }
        Ok(clock)
    }

    pub(crate) const fn new() -> Self {
        Self { alarms: Mutex::new(Alarms(BTreeMap::new())), changed: Condvar::new() }
    }

    /// Has this connection's calls looked at then.
    pub(crate) fn set(&self, at: Instant, calls: Weak<Calls>, conn: Conn) {
        let id = conn.id();
        if self.alarms().set(at, id, Alarm { calls, conn }) {
            self.changed.notify_one();
        }
    }

    /// Takes an alarm back.
    pub(crate) fn clear(&self, at: Instant, conn: &Conn) {
        let alarm = self.alarms().clear(at, conn.id());
        // Without the lock. It is never the last handle to its connection, which would end it: the caller has one.
        drop(alarm);
    }

    /// How many alarms are set.
    #[cfg(test)]
    pub(crate) fn alarm_count(&self) -> usize {
        self.alarms().0.len()
    }

    /// Who sets an alarm waits while what this returns lives.
    #[cfg(test)]
    pub(crate) fn stop(&self) -> MutexGuard<'_, impl Sized> {
        self.alarms()
    }

    fn run(&self) {
        let mut alarms = self.alarms();
        loop {
            let now = Instant::now();
            alarms = match alarms.next(now) {
                Next::Nothing => self.changed.wait(alarms).unwrap_or_else(PoisonError::into_inner),
                Next::In(left) => self.changed.wait_timeout(alarms, left).unwrap_or_else(PoisonError::into_inner).0,
                Next::Due(Alarm { calls, conn }) => {
                    drop(alarms);
                    if let Some(calls) = calls.upgrade() {
                        calls.end_overdue(&conn, now);
                    }
                    drop(conn);
                    self.alarms()
                }
            };
        }
    }

    fn alarms(&self) -> MutexGuard<'_, Alarms<Alarm>> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who looks at a connection's calls when their time is up.
#[derive(Clone, Copy)]
pub(crate) enum Alarmist {
    /// The thread of the process.
    Clock(&'static Clock),
    /// The timers of the connection's runtime, which follow its time where that is paused.
    Runtime,
}

impl Alarmist {
    pub(crate) fn get(by_runtime: bool) -> io::Result<Self> {
        if by_runtime { Ok(Self::Runtime) } else { Clock::get().map(Self::Clock) }
    }

    pub(crate) fn set(self, at: Instant, calls: Weak<Calls>, conn: Conn, runtime: &Handle) {
        match self {
            Self::Clock(clock) => clock.set(at, calls, conn),
            Self::Runtime => {
                spawn_on(runtime, async move {
                    tokio::select! {
                        biased;
                        // Nothing waits any more then.
                        () = conn.closed() => {}
                        () = sleep_until(at) => {
                            if let Some(calls) = calls.upgrade() {
                                calls.end_overdue(&conn, Instant::now());
                            }
                        }
                    }
                });
            }
        }
    }

    /// Takes an alarm back; one of a runtime rings all the same and finds nothing, unless its connection ends before.
    pub(crate) fn clear(self, at: Instant, conn: &Conn) {
        if let Self::Clock(clock) = self {
            clock.clear(at, conn);
        }
    }
}

/// What was set, by time; connections that set the same time in the order of their ids.
struct Alarms<T>(BTreeMap<(Instant, ConnectionId), T>);

/// What there is to do.
#[derive(Debug, PartialEq)]
enum Next<T> {
    Nothing,
    In(Duration),
    /// It is taken out.
    Due(T),
}

impl<T> Alarms<T> {
    /// Whether it is the first now, so that whoever waits for the one before it must wait anew.
    fn set(&mut self, at: Instant, conn: ConnectionId, alarm: T) -> bool {
        self.0.insert((at, conn), alarm);
        self.0.first_key_value().is_some_and(|(first, _)| *first == (at, conn))
    }

    fn clear(&mut self, at: Instant, conn: ConnectionId) -> Option<T> {
        self.0.remove(&(at, conn))
    }

    fn next(&mut self, now: Instant) -> Next<T> {
        let Some(first) = self.0.first_entry() else { return Next::Nothing };
        let (at, _) = *first.key();
        if at > now { Next::In(at - now) } else { Next::Due(first.remove()) }
    }
}

impl<T> Default for Alarms<T> {
    fn default() -> Self {
        Self(BTreeMap::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: ConnectionId = ConnectionId(1);
    const TWO: ConnectionId = ConnectionId(2);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn alarms_are_due_in_the_order_of_their_times_whatever_order_they_were_set_in() {
        let (mut alarms, start) = (Alarms::default(), Instant::now());
        let set =
            [(30, ONE, "third"), (10, TWO, "first"), (20, ONE, "second"), (10, ConnectionId(3), "with the first")];
        for (after, conn, name) in set {
            alarms.set(start + ms(after), conn, name);
        }
        let due: Vec<_> = std::iter::from_fn(|| match alarms.next(start + ms(30)) {
            Next::Due(name) => Some(name),
            _ => None,
        })
        .collect();
        assert_eq!(due, ["first", "with the first", "second", "third"]);
        assert_eq!(alarms.next(start + ms(30)), Next::Nothing);
    }

    #[test]
    fn what_is_not_due_yet_stays_and_says_how_long() {
        let (mut alarms, start) = (Alarms::default(), Instant::now());
        alarms.set(start + ms(10), ONE, "one");
        assert_eq!(alarms.next(start), Next::In(ms(10)));
        assert_eq!(alarms.next(start + ms(9)), Next::In(ms(1)));
        assert_eq!(alarms.next(start + ms(10)), Next::Due("one"));
    }

    #[test]
    fn only_an_alarm_before_all_others_wakes_the_clock() {
        let (mut alarms, start) = (Alarms::default(), Instant::now());
        let rows = [(20, ONE, true), (30, TWO, false), (10, TWO, true), (10, ONE, true), (15, ONE, false)];
        for (after, conn, wakes) in rows {
            assert_eq!(alarms.set(start + ms(after), conn, ()), wakes, "{after} {conn}");
        }
    }

    #[test]
    fn an_alarm_that_was_taken_back_never_rings_and_others_do() {
        let (mut alarms, start) = (Alarms::default(), Instant::now());
        alarms.set(start, ONE, "of one");
        alarms.set(start, TWO, "of two");
        alarms.set(start + ms(1), ONE, "of one, later");
        assert_eq!(alarms.clear(start, ONE), Some("of one"));
        assert_eq!(alarms.clear(start, ONE), None);
        assert_eq!(alarms.next(start + ms(1)), Next::Due("of two"));
        assert_eq!(alarms.next(start + ms(1)), Next::Due("of one, later"));
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_of_a_runtime_ends_with_its_connection() {
        let group = callboard_net::TaskGroup::default();
        let conn = Conn::unmade(&"127.0.0.1:1".parse().unwrap(), &callboard_net::Limits::default(), "it is to end");
        let (at, runtime) = (Instant::now() + Duration::from_mins(10), Handle::current());
        group.run(async { Alarmist::Runtime.set(at, Weak::new(), conn, &runtime) }).await;
        for _ in 0..10 {
            tokio::time::sleep(ms(1)).await;
        }
        assert_eq!(group.tasks(), 0);
    }

    #[test]
    fn of_many_connections_each_is_looked_at_once_and_not_before_its_time() {
        let (mut alarms, start) = (Alarms::default(), Instant::now());
        let times = |conn: u64| ms(conn * 7_919 % 1_000);
        for conn in 0..10_000 {
            alarms.set(start + times(conn), ConnectionId(conn), conn);
        }
        let mut rung = Vec::new();
        for tick in 0..1_000 {
            while let Next::Due(conn) = alarms.next(start + ms(tick)) {
                assert_eq!(times(conn), ms(tick));
                rung.push(conn);
            }
        }
        rung.sort_unstable();
        assert!(rung.into_iter().eq(0..10_000));
    }
}
