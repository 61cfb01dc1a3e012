use std::sync::Arc;
use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Client, IdempotencyKey, Tries};
use callboard_common::{Executed, Host, ResultCode, Session};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, sleep, timeout_at};

use crate::caller::Inner;
use crate::errors::{NO_CALLS, call_of, center_gone, no_choice, nobody_provides, unreachable};

/// The way of one call over the providers, within one deadline. Each host is tried once at most before all others have
/// been; a call that is made again after a pause may turn to all of them anew.
pub(crate) struct Route<'a> {
    caller: &'a Inner,
    method: &'a str,
    deadline: Instant,
    tries: Tries,
    picked: Option<Host>,
    tried: Vec<(Host, String)>,
    /// After a pause those that were tried may be tried again.
    begins_anew: bool,
    key: Option<&'a IdempotencyKey>,
    /// What the one that was picked last has said of itself, of a call under a key.
    run: Option<Arc<Session>>,
    /// Who alone may be asked again: a call under a key may have been executed there.
    only: Option<Only>,
}

/// One run of a provider, or one with the same store.
#[derive(Clone)]
struct Only {
    host: Host,
    run: Option<Arc<Session>>,
    /// Before the next look for its successor, after a center has said that it is not there.
    pause: Duration,
}

/// What a provider is to a call under a key that may have been executed.
enum Asked {
    /// It knows the key, if the call came to it.
    Knows(Client),
    /// It is another one.
    Stranger,
    /// It is not there, for this reason.
    Gone(String),
}

/// Whom to try, and how many others there are after it.
struct Pick {
    host: Host,
    others: usize,
}

impl<'a> Route<'a> {
    pub(crate) fn new(
        caller: &'a Inner,
        method: &'a str,
        deadline: Instant,
        tries: Tries,
        key: Option<&'a IdempotencyKey>,
    ) -> Self {
        Self {
            caller,
            method,
            deadline,
            tries,
            picked: None,
            tried: Vec::new(),
            begins_anew: false,
            key,
            run: None,
            only: None,
        }
    }

    /// A connection to a provider that was not tried yet; its calls end with the time for this try.
    pub(crate) async fn next(&mut self) -> Result<Client, CallError> {
        if let Some(Only { host, run, .. }) = self.only.clone() {
            // It is rare, and calls are smaller without it.
            return Box::pin(self.same_again(host, run.as_deref())).await;
        }
        let pool = &self.caller.pool;
        loop {
            let Pick { host, others } = match self.pick().await {
                Ok(pick) => pick,
                Err(error) => {
                    // Nothing was waited for, perhaps. Who tries again at once must let the news come in for which it
                    // waits.
                    consume_budget().await;
                    return Err(error);
                }
            };
            let share = share(self.time_left(), others);
            match timeout_at(self.deadline.min(Instant::now() + share), pool.client(host)).await {
                Ok(Ok(client)) => {
                    self.picked = Some(host);
                    self.run = self.key.and_then(|_| client.run()).map(Arc::new);
                    return Ok(self.in_time(&client));
                }
                Ok(Err(why)) => self.tried.push((host, why.to_string())),
                Err(_) if self.time_left().is_zero() => return Err(self.no_time(host)),
                Err(_) => {
                    pool.doubt(host);
                    self.tried.push((host, format!("no connection within {} ms", share.as_millis())));
                }
            }
        }
    }

    /// A connection to the one provider that knows whether the call was executed, if it is still there. Where it has a store,
    /// its successor is waited for.
    async fn same_again(&mut self, host: Host, run: Option<&Session>) -> Result<Client, CallError> {
        let (store, mut pause) = (run.and_then(|run| run.store.as_ref()), FIRST_PAUSE);
        loop {
            if let Some((host, client)) = self.relayed_successor(host, run).await {
                return Ok(self.stay_at(host, &client));
            }
            let (why, is_taken) = match self.ask(host, run).await? {
                Asked::Knows(client) => return Ok(self.stay_at(host, &client)),
                Asked::Stranger => (STRANGER.to_owned(), true),
                Asked::Gone(why) => (why, false),
            };
            if store.is_some() {
                if let Some((host, client)) = self.successor(host, run).await? {
                    return Ok(self.stay_at(host, &client));
                }
                if !is_taken && pause < self.time_left() {
                    sleep(pause).await;
                    pause = (pause * 2).min(LONGEST_PAUSE);
                    continue;
                }
            }
            let what = format!("nobody knows whether it was executed, and who would is gone: {why}");
            return Err(CallError::new(
                CallErrorKind::Unavailable,
                format!("tcp://{host}"),
                call_of(self.method),
                what,
            ));
        }
    }

    /// One with the same store at another host. The center lists last who has come last.
    async fn successor(&self, host: Host, run: Option<&Session>) -> Result<Option<(Host, Client)>, CallError> {
        let hosts = self.caller.discovery.hosts_until(self.method, self.deadline).await.unwrap_or_default();
        for other in hosts.iter().rev().copied().filter(|other| *other != host).take(MOST_SUCCESSORS) {
            if let Asked::Knows(client) = self.ask(other, run).await? {
                return Ok(Some((other, client)));
            }
        }
        Ok(None)
    }

    /// The same where both listen nowhere. A center lists the one that has gone for as long as it may be back: where both
    /// are listed, the last has the store.
    async fn relayed_successor(&self, host: Host, run: Option<&Session>) -> Option<(Host, Client)> {
        let Inner { discovery, pool, .. } = self.caller;
        let store = run.filter(|_| host.is_relayed())?.store.as_deref()?;
        let hosts = discovery.hosts_until(self.method, self.deadline).await.ok()?;
        let has_it = |other: &Host| discovery.named(*other).and_then(|named| named.store).as_deref() == Some(store);
        let last = hosts.iter().rev().copied().find(has_it).filter(|last| *last != host)?;
        let client = pool.client(last).await.ok()?;
        // It may be another one by now.
        client.run().is_some_and(|now| run.is_some_and(|run| now.knows_keys_of(run))).then_some((last, client))
    }

    /// Whether the provider at a host knows the keys of that run.
    async fn ask(&self, host: Host, run: Option<&Session>) -> Result<Asked, CallError> {
        let Inner { discovery, pool, .. } = self.caller;
        if host.is_relayed() && run.is_none_or(|run| run.store.is_none()) {
            return Ok(Asked::Gone(RELAYED.to_owned()));
        }
        if run.is_some_and(|run| run.store.is_some()) && discovery.instance(host).is_none() {
            // Whoever is there already is spoken to when the center has told who it is: only then it is asked for a session.
            return Ok(Asked::Gone("it has gone".to_owned()));
        }
        let others = usize::from(run.is_some_and(|run| run.store.is_some()));
        let until = self.deadline.min(Instant::now() + share(self.time_left(), others));
        let connected = match timeout_at(until, pool.client(host)).await {
            Ok(connected) => connected,
            Err(_) if self.time_left().is_zero() => return Err(self.no_time(host)),
            Err(_) => return Ok(Asked::Gone(NO_ANSWER.to_owned())),
        };
        Ok(match connected {
            Ok(client) => {
                let knows = run.is_some_and(|run| client.run().is_some_and(|now| now.knows_keys_of(run)));
                if knows { Asked::Knows(client) } else { Asked::Stranger }
            }
            Err(why) => Asked::Gone(why.to_string()),
        })
    }

    /// From now on the call goes there only.
    fn stay_at(&mut self, host: Host, client: &Client) -> Client {
        self.picked = Some(host);
        if let Some(only) = &mut self.only {
            only.host = host;
        }
        self.in_time(client)
    }

    /// A connection to another provider for a second try beside the one that was given last; `None` if there is none
    /// that is likely to answer, or no more tries are permitted.
    pub(crate) async fn hedge(&mut self) -> Option<(Host, Client)> {
        let Inner { discovery, balancer, pool, retries, .. } = self.caller;
        let hosts = discovery.hosts_until(self.method, self.deadline).await.ok()?;
        let is_other = |host: &Host| Some(*host) != self.picked && self.is_new(*host) && !pool.is_doubtful(*host);
        let others: Vec<Host> = hosts.iter().copied().filter(is_other).collect();
        let picked = if others.is_empty() { None } else { balancer.pick_again(self.method, &others) };
        let host = *others.get(picked?)?;
        match timeout_at(self.deadline, pool.client(host)).await.ok()? {
            Ok(client) => retries.hedge(&mut self.tries).then(|| (host, self.in_time(&client))),
            Err(why) => {
                self.tried.push((host, why.to_string()));
                None
            }
        }
    }

    /// A try has failed, or none could be made: waits until the next one may be, by another provider where there is one.
    ///
    /// # Errors
    /// What the caller is told, where there is to be none.
    pub(crate) async fn after(&mut self, error: CallError) -> Result<(), CallError> {
        self.stay(&error);
        if let Some(pause) = self.waits_for_successor(&error) {
            Box::pin(sleep(pause)).await;
            return Ok(());
        }
        let picked = self.picked.take();
        let was_found = picked.is_some();
        if was_found {
            self.tries.note(error.executed());
        } else if !matches!(error.kind(), CallErrorKind::Unavailable) {
            // What the center says, or nobody.
            return Err(self.tries.told(error));
        }
        self.tried.extend(picked.map(|host| (host, why_not(&error).to_owned())));
        let (has_others, left) = (was_found && self.only.is_none(), self.time_left());
        if let Some(pause) = self.caller.retries.after(&mut self.tries, error, has_others, left)? {
            self.begins_anew = true;
            // It is rare, and calls are smaller without it.
            Box::pin(sleep(pause)).await;
        }
        Ok(())
    }

    /// After this error of the provider that was picked, a call under a key may have to stay there.
    fn stay(&mut self, error: &CallError) {
        #[cfg(feature = "planted")]
        if callboard_common::Planted::RepeatedElsewhere.is_planted() {
            return;
        }
        if self.tries.stays() && error.executed() == Executed::Unknown && self.only.is_none() {
            self.only = self.picked.map(|host| Only { host, run: self.run.take(), pause: FIRST_PAUSE });
        }
    }

    /// A center has said that the one provider which knows is not there. Where it has a store this is no try, as little as
    /// one that can't be connected to: how long until the next look.
    fn waits_for_successor(&mut self, error: &CallError) -> Option<Duration> {
        let (picked, left) = (self.picked, self.time_left());
        let Only { host, run, pause } = self.only.as_mut()?;
        let is_there_no_more = error.executed() == Executed::No
            && matches!(error.code(), Some(ResultCode::Unavailable | ResultCode::Disconnected));
        let has_store = run.as_ref().is_some_and(|run| run.store.is_some());
        if !(is_there_no_more && has_store && host.is_relayed() && picked == Some(*host) && *pause < left) {
            return None;
        }
        let next = (*pause * 2).min(LONGEST_PAUSE);
        Some(std::mem::replace(pause, next))
    }

    /// Two tries at once have ended, or are left to themselves. The last was that of `second`, else of the first; of the
    /// other is known whether it was executed.
    pub(crate) fn settle(&mut self, second: Option<Host>, other: Option<(Option<Host>, Executed)>) {
        if let Some((host, executed)) = other {
            self.tries.note(executed);
            let host = host.or(self.picked);
            self.tried.extend(host.map(|host| (host, NO_ANSWER.to_owned())));
        }
        self.picked = second.or(self.picked);
    }

    pub(crate) const fn tries(&self) -> Tries {
        self.tries
    }

    async fn pick(&mut self) -> Result<Pick, CallError> {
        let Inner { discovery, balancer, pool, .. } = self.caller;
        let hosts = discovery.hosts_to_call(self.method, self.deadline).await?;
        if self.tried.is_empty() {
            let first = self.choose(balancer.pick(self.method, &hosts), &hosts)?;
            if hosts.len() == 1 || !(first.host.is_relayed() || pool.is_doubtful(first.host)) {
                return Ok(first);
            }
            // Nobody can be called directly: they take turns.
            if first.host.is_relayed() && hosts.iter().all(|host| host.is_relayed()) {
                return Ok(first);
            }
        }
        let is_sound = |host: &Host| !pool.is_doubtful(*host);
        let mut left: Vec<Host> = hosts.iter().copied().filter(|host| self.is_new(*host)).collect();
        let mut sound: Vec<Host> = left.iter().copied().filter(is_sound).collect();
        if sound.is_empty() && std::mem::take(&mut self.begins_anew) {
            self.tried.clear();
            left = hosts.to_vec();
            sound = hosts.iter().copied().filter(is_sound).collect();
        }
        let choice = if sound.is_empty() { &left } else { &sound };
        // The way through the center is longer.
        let direct: Vec<Host> = choice.iter().copied().filter(|host| !host.is_relayed()).collect();
        let choice = if direct.is_empty() { choice } else { &direct };
        let Pick { host, .. } = self.choose(balancer.pick_again(self.method, choice), choice)?;
        Ok(Pick { host, others: left.len().saturating_sub(1) })
    }

    fn choose(&self, picked: Option<usize>, hosts: &[Host]) -> Result<Pick, CallError> {
        let host = picked.and_then(|index| hosts.get(index)).copied();
        host.map(|host| Pick { host, others: hosts.len() - 1 }).ok_or_else(|| self.nobody(hosts.is_empty()))
    }

    /// Why there is nobody to turn to.
    fn nobody(&self, none_left: bool) -> CallError {
        let client = self.caller.discovery.client();
        let center = client.address().to_string();
        match (none_left, self.tried.is_empty()) {
            (_, false) => unreachable(&center, self.method, &self.tried),
            (true, true) if client.is_closed() => center_gone(&center, self.method),
            (true, true) => nobody_provides(&center, self.method, self.caller.discovery.warms_up()),
            (false, true) => no_choice(&center, self.method),
        }
    }

    fn no_time(&self, host: Host) -> CallError {
        let what = "the deadline passed while connecting to it";
        CallError::new(CallErrorKind::Timeout, format!("tcp://{host}"), call_of(self.method), what)
            .with_executed(Executed::No)
    }

    fn is_new(&self, host: Host) -> bool {
        self.tried.iter().all(|(tried, _)| *tried != host)
    }

    /// The same connection for a call that ends with this try.
    fn in_time(&self, client: &Client) -> Client {
        let left = self.time_left();
        let client = client.with_timeout(self.tries.per_try().map_or(left, |limit| limit.min(left)));
        match self.key {
            None => client,
            Some(key) => client.under(key.clone()),
        }
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

/// Why a host was passed over.
fn why_not(error: &CallError) -> &'static str {
    match error.kind() {
        CallErrorKind::Remote { code: ResultCode::Unavailable, .. } => NO_CALLS,
        CallErrorKind::Remote { code: ResultCode::Overloaded, .. } => "it is overloaded",
        CallErrorKind::Remote { .. } => "it answered with an error",
        CallErrorKind::Timeout => NO_ANSWER,
        _ => "its connection has ended",
    }
}

const NO_ANSWER: &str = "no answer in time";
/// The session is the center's there, and says nothing of the provider; where that has a store discovery says so.
const RELAYED: &str = "it is called through a center, behind which another one may have its name by now";
const STRANGER: &str = "another one is there now, which does not know its key";
/// So many providers are asked, the last that have come, whether they have the store of one that is gone.
const MOST_SUCCESSORS: usize = 8;
/// Between two looks for the successor of a provider, each twice the one before.
const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// How much of the time that is left one host may take to be connected to, so that some is left for the others. However
/// many there are, it is long enough for one that lives.
fn share(left: Duration, others: usize) -> Duration {
    let shares = u32::try_from(others).unwrap_or(u32::MAX).saturating_add(1).min(MOST_SHARES);
    (left / shares).max(LEAST_SHARE).min(left)
}

/// So many connections that never come about still leave a third of the deadline.
const MOST_SHARES: u32 = 4;
/// Less is too short for a far host.
const LEAST_SHARE: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_takes_its_share_of_the_deadline_and_the_last_one_all_of_it() {
        let rows = [(1000, 0, 1000), (1000, 1, 500), (1000, 2, 333), (1000, 9, 250), (1000, usize::MAX, 250)];
        let short = [(120, 3, 50), (120, 0, 120), (30, 3, 30), (0, 3, 0), (0, 0, 0)];
        for (left, others, expected) in rows.into_iter().chain(short) {
            assert_eq!(share(Duration::from_millis(left), others).as_millis(), expected, "{left} {others}");
        }
    }
}
