use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Client, IdempotencyKey, Tries};
use callboard_common::{Executed, Host, ResultCode};
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
    /// The run that was picked last, of a call under a key.
    run: Option<String>,
    /// Which run of which provider alone may be asked again: a call under a key may have been executed there.
    only: Option<(Host, Option<String>)>,
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
        if let Some((host, run)) = self.only.clone() {
            return self.same_again(host, run.as_deref()).await;
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
                    self.run = self.key.and_then(|_| run_of(&client));
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

    /// A connection to the one provider that knows whether the call was executed, if it is still there.
    async fn same_again(&mut self, host: Host, run: Option<&str>) -> Result<Client, CallError> {
        let connected =
            timeout_at(self.deadline, self.caller.pool.client(host)).await.map_err(|_| self.no_time(host))?;
        let why = match connected {
            Ok(client) if run.is_some() && run_of(&client).as_deref() == run => {
                self.picked = Some(host);
                return Ok(self.in_time(&client));
            }
            Ok(_) => "another one is there now, which does not know its key".to_owned(),
            Err(why) => why.to_string(),
        };
        let what = format!("nobody knows whether it was executed, and who would is gone: {why}");
        Err(CallError::new(CallErrorKind::Unavailable, format!("tcp://{host}"), call_of(self.method), what))
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
        if self.tries.stays() && error.executed() == Executed::Unknown && self.only.is_none() {
            self.only = self.picked.map(|host| (host, self.run.take()));
        }
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

/// Which run of a provider this leads to; `None` where nobody knows.
fn run_of(client: &Client) -> Option<String> {
    client.session().map(|session| session.instance).filter(|run| !run.is_empty())
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
