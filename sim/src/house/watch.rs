use std::collections::BTreeSet;
use std::sync::Mutex;
use std::time::Duration;

use callboard_common::Host;
use callboard_registry::{Caller, Notice};
use tokio::time::Instant;
use tokio_stream::StreamExt;

use super::METHOD;
use super::programs::until_done;
use crate::sim::lock;
use crate::{Listening, Sim};

/// What a watcher was told of who comes and goes.
#[derive(Debug)]
pub(super) struct Watch {
    sim: Sim,
    online: Mutex<BTreeSet<String>>,
}

impl Watch {
    pub(super) fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), online: Mutex::default() }
    }

    /// Follows the notices from now on.
    pub(super) async fn follow(&self, caller: &Caller) {
        let mut notices = caller.notices();
        let known = until_done(|| caller.hosts(METHOD)).await;
        for host in &known {
            self.must_be_callable(*host);
        }
        *lock(&self.online) = known.iter().map(ToString::to_string).collect();
        while let Some(Notice { method, host, online, .. }) = notices.next().await {
            if *method != *METHOD {
                continue;
            }
            self.sim.note(|| format!("the watcher hears: {host} is {}", if online { "online" } else { "offline" }));
            if online {
                self.must_be_callable(host);
                lock(&self.online).insert(host.to_string());
            } else {
                lock(&self.online).remove(&host.to_string());
            }
        }
    }

    /// Who is online by what was told.
    pub(super) fn online(&self) -> BTreeSet<String> {
        lock(&self.online).clone()
    }

    fn must_be_callable(&self, host: Host) {
        let listening = self.sim.network().listening(host.to_socket_addr());
        if let Err(why) = is_callable(listening, Instant::now()) {
            panic!("{host} is told to be online, {why}");
        }
    }
}

/// A provider that is told to be online listens, or did until lately.
fn is_callable(listening: Listening, now: Instant) -> Result<(), String> {
    match listening {
        Listening::Now => Ok(()),
        Listening::Never => Err("before anybody listens there".to_owned()),
        Listening::Until(since) if now - since <= LATE => Ok(()),
        Listening::Until(since) => Err(format!("but nobody has listened there for {:?}", now - since)),
    }
}

/// How long ago a provider may have gone that is told to be online: the center needs 3 s to notice a silent one, may stand
/// still for 4 s itself, and the notice may be on its way for as long.
const LATE: Duration = Duration::from_secs(12);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_has_gone_long_ago_or_never_came_is_not_callable() {
        let now = Instant::now();
        let rows = [
            (Listening::Now, true),
            (Listening::Never, false),
            (Listening::Until(now), true),
            (Listening::Until(now - LATE), true),
            (Listening::Until(now - LATE - Duration::from_millis(1)), false),
        ];
        for (listening, is_right) in rows {
            assert_eq!(is_callable(listening, now).is_ok(), is_right, "{listening:?}");
        }
    }
}
