use callboard_client::{CallError, CallErrorKind, Client};
use callboard_common::{Executed, Host};
use tokio::time::{Instant, timeout_at};

use crate::caller::Inner;
use crate::errors::{call_of, center_gone, no_choice, nobody_provides, unreachable};

/// The way of one call to a provider: each host is tried once at most, within one deadline.
pub(crate) struct Route<'a> {
    caller: &'a Inner,
    method: &'a str,
    deadline: Instant,
    picked: Option<Host>,
    tried: Vec<(Host, String)>,
}

impl<'a> Route<'a> {
    pub(crate) fn new(caller: &'a Inner, method: &'a str, deadline: Instant) -> Self {
        Self { caller, method, deadline, picked: None, tried: Vec::new() }
    }

    /// A connection to a provider that was not tried yet; its calls end with this call's deadline.
    pub(crate) async fn next(&mut self) -> Result<Client, CallError> {
        loop {
            let host = self.pick().await?;
            self.picked = Some(host);
            match timeout_at(self.deadline, self.caller.pool.client(host)).await {
                Ok(Ok(client)) => return Ok(client.with_timeout(self.time_left())),
                Ok(Err(why)) => self.tried.push((host, why.to_string())),
                Err(_) => return Err(self.no_time(host)),
            }
        }
    }

    /// Whether another provider may be tried: this one was not there, and nothing was sent to it.
    pub(crate) fn goes_on_after(&mut self, error: &CallError) -> bool {
        let unreached = matches!(error.kind(), CallErrorKind::Connect | CallErrorKind::Disconnected);
        let goes_on = unreached && error.executed() == Executed::No && Instant::now() < self.deadline;
        if let Some(host) = self.picked.take().filter(|_| goes_on) {
            self.tried.push((host, String::from("its connection has ended")));
        }
        goes_on
    }

    async fn pick(&self) -> Result<Host, CallError> {
        let Inner { discovery, balancer, .. } = self.caller;
        let hosts = discovery.hosts_until(self.method, self.deadline).await?;
        if self.tried.is_empty() {
            return self.choose(balancer.pick(self.method, &hosts), &hosts);
        }
        let is_new = |host: &Host| self.tried.iter().all(|(tried, _)| tried != host);
        let left: Vec<Host> = hosts.iter().copied().filter(is_new).collect();
        self.choose(balancer.pick(self.method, &left), &left)
    }

    fn choose(&self, picked: Option<usize>, hosts: &[Host]) -> Result<Host, CallError> {
        picked.and_then(|index| hosts.get(index)).copied().ok_or_else(|| self.nobody(hosts.is_empty()))
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

    fn time_left(&self) -> std::time::Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }
}
