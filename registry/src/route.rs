use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Client};
use callboard_common::{Executed, Host, ResultCode};
use tokio::task::coop::consume_budget;
use tokio::time::{Instant, timeout_at};

use crate::caller::Inner;
use crate::errors::{NO_CALLS, call_of, center_gone, no_choice, nobody_provides, unreachable};

/// The way of one call to a provider: each host is tried once at most, within one deadline.
pub(crate) struct Route<'a> {
    caller: &'a Inner,
    method: &'a str,
    deadline: Instant,
    picked: Option<Host>,
    tried: Vec<(Host, String)>,
}

/// Whom to try, and how many others there are after it.
struct Pick {
    host: Host,
    others: usize,
}

impl<'a> Route<'a> {
    pub(crate) fn new(caller: &'a Inner, method: &'a str, deadline: Instant) -> Self {
        Self { caller, method, deadline, picked: None, tried: Vec::new() }
    }

    /// A connection to a provider that was not tried yet; its calls end with this call's deadline.
    pub(crate) async fn next(&mut self) -> Result<Client, CallError> {
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
            self.picked = Some(host);
            let share = share(self.time_left(), others);
            match timeout_at(self.deadline.min(Instant::now() + share), pool.client(host)).await {
                Ok(Ok(client)) => return Ok(client.with_timeout(self.time_left())),
                Ok(Err(why)) => self.tried.push((host, why.to_string())),
                Err(_) if self.time_left().is_zero() => return Err(self.no_time(host)),
                Err(_) => {
                    pool.doubt(host);
                    self.tried.push((host, format!("no connection within {} ms", share.as_millis())));
                }
            }
        }
    }

    /// Whether another provider may be tried: this one was not there, or takes no calls, and has executed nothing.
    pub(crate) fn goes_on_after(&mut self, error: &CallError) -> bool {
        if error.executed() != Executed::No || self.time_left().is_zero() {
            return false;
        }
        let why = match error.kind() {
            CallErrorKind::Connect | CallErrorKind::Disconnected => "its connection has ended",
            CallErrorKind::Remote { code: ResultCode::Unavailable, .. } => NO_CALLS,
            _ => return false,
        };
        self.tried.extend(self.picked.take().map(|host| (host, why.to_owned())));
        true
    }

    async fn pick(&self) -> Result<Pick, CallError> {
        let Inner { discovery, balancer, pool, .. } = self.caller;
        let hosts = discovery.hosts_until(self.method, self.deadline).await?;
        if self.tried.is_empty() {
            let first = self.choose(balancer.pick(self.method, &hosts), &hosts)?;
            if hosts.len() == 1 || !pool.is_doubtful(first.host) {
                return Ok(first);
            }
        }
        let is_new = |host: &Host| self.tried.iter().all(|(tried, _)| tried != host);
        let left: Vec<Host> = hosts.iter().copied().filter(is_new).collect();
        let sound: Vec<Host> = left.iter().copied().filter(|host| !pool.is_doubtful(*host)).collect();
        let choice = if sound.is_empty() { &left } else { &sound };
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
            (true, true) => nobody_provides(&center, self.method),
            (false, true) => no_choice(&center, self.method),
        }
    }

    fn no_time(&self, host: Host) -> CallError {
        let what = "the deadline passed while connecting to it";
        CallError::new(CallErrorKind::Timeout, format!("tcp://{host}"), call_of(self.method), what)
            .with_executed(Executed::No)
    }

    fn time_left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}

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
