use std::collections::BTreeMap;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::{io, thread};

use callboard_common::{Connection, ConnectionId};
use callboard_net::Conn;
use tokio::time::Instant;

use crate::calls::Calls;

/// The thread of this process that ends calls whose time is up. A thread of its own, so that a deadline holds whatever the
/// runtimes do, and so that a call that is answered in time (nearly each) touches no timer at all.
///
/// A connection sets its alarm for its earliest deadline. When that comes, it looks at all its calls and sets it anew.
pub(crate) struct Clock {
    alarms: Mutex<BTreeMap<(Instant, ConnectionId), Alarm>>,
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
        let clock = CLOCK.get_or_init(|| Self { alarms: Mutex::default(), changed: Condvar::new() });
        let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
        if !*started {
            thread::Builder::new().name("callboard-clock".to_owned()).spawn(|| clock.run())?;
            *started = true;
        }
        Ok(clock)
    }

    /// Has this connection's calls looked at then.
    pub(crate) fn set(&self, at: Instant, calls: Weak<Calls>, conn: Conn) {
        let mut alarms = self.alarms();
        let key = (at, conn.id());
        alarms.insert(key, Alarm { calls, conn });
        if alarms.first_key_value().is_some_and(|(first, _)| *first == key) {
            self.changed.notify_one();
        }
    }

    /// Takes an alarm back.
    pub(crate) fn clear(&self, at: Instant, conn: &Conn) {
        let alarm = self.alarms().remove(&(at, conn.id()));
        // Without the lock: the last handle to a connection may end it.
        drop(alarm);
    }

    fn run(&self) {
        let mut alarms = self.alarms();
        loop {
            let now = Instant::now();
            alarms = match alarms.first_entry() {
                None => self.changed.wait(alarms).unwrap_or_else(PoisonError::into_inner),
                Some(first) if first.key().0 > now => {
                    let left = first.key().0 - now;
                    self.changed.wait_timeout(alarms, left).unwrap_or_else(PoisonError::into_inner).0
                }
                Some(first) => {
                    let Alarm { calls, conn } = first.remove();
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

    fn alarms(&self) -> MutexGuard<'_, BTreeMap<(Instant, ConnectionId), Alarm>> {
        self.alarms.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
