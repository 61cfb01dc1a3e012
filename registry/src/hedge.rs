//! Calls that a second provider is given, too, where the first takes long.

use std::pin::{Pin, pin};
use std::sync::OnceLock;
use std::time::Duration;

use callboard_client::CallError;
use callboard_common::{Executed, Host};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use crate::Caller;
use crate::route::Route;

/// How two tries at once have ended.
struct Raced<R> {
    /// The first answer, or the last error.
    outcome: Result<R, CallError>,
    /// Whom it is of; `None` if that is the first.
    second: Option<Host>,
    /// The other try, and whether it was executed; `None` if there was none.
    other: Option<(Option<Host>, Executed)>,
}

impl Caller {
    pub(crate) async fn call_hedged<R: DeserializeOwned>(
        &self,
        method: &str,
        params: &(impl Serialize + ?Sized),
        delay: Duration,
    ) -> Result<R, CallError> {
        let mut route = self.route(method, self.tries());
        loop {
            let error = match try_hedged(&mut route, method, params, delay).await {
                Ok(result) => return Ok(result),
                Err(error) => error,
            };
            route.after(error).await?;
        }
    }
}

/// One try, or two at once.
async fn try_hedged<R: DeserializeOwned>(
    route: &mut Route<'_>,
    method: &str,
    params: &(impl Serialize + ?Sized),
    delay: Duration,
) -> Result<R, CallError> {
    let provider = route.next().await?;
    let raced = {
        let mut first = pin!(provider.call(method, params));
        if let Ok(outcome) = timeout(delay, &mut first).await {
            return outcome;
        }
        race(route, first, method, params).await
    };
    // From here on nobody waits for the one that has not answered: its provider has been told.
    route.settle(raced.second, raced.other);
    raced.outcome
}

/// The first answer counts. Where one try fails so that a repeat might not, the other is waited for.
async fn race<R, First>(
    route: &mut Route<'_>,
    mut first: Pin<&mut First>,
    method: &str,
    params: &(impl Serialize + ?Sized),
) -> Raced<R>
where
    R: DeserializeOwned,
    First: Future<Output = Result<R, CallError>>,
{
    let (tries, asked) = (route.tries(), OnceLock::new());
    let mut second = pin!(async {
        let (host, provider) = route.hedge().await?;
        let _ = asked.set(host);
        Some(provider.call::<R>(method, params).await)
    });
    let ended = tokio::select! {
        biased;
        outcome = &mut first => Ended::First(outcome),
        outcome = &mut second => Ended::Second(outcome),
    };
    let waits_for = match (ended, asked.get().copied()) {
        (Ended::First(Err(error)), Some(host)) if tries.may_repeat(&error) => WaitsFor::Second(host, error),
        (Ended::First(outcome), second) => {
            return Raced { outcome, second: None, other: second.map(|host| (Some(host), Executed::Unknown)) };
        }
        (Ended::Second(Some(Err(error))), host) if tries.may_repeat(&error) => {
            WaitsFor::First(Some((host, error.executed())))
        }
        (Ended::Second(Some(outcome)), second) => {
            return Raced { outcome, second, other: Some((None, Executed::Unknown)) };
        }
        (Ended::Second(None), _) => WaitsFor::First(None),
    };
    match waits_for {
        WaitsFor::First(other) => Raced { outcome: first.await, second: None, other },
        WaitsFor::Second(host, error) => {
            let (other, outcome) = (Some((None, error.executed())), second.await);
            Raced { outcome: outcome.unwrap_or(Err(error)), second: Some(host), other }
        }
    }
}

/// Which of two tries has ended first. There may be no second.
enum Ended<R> {
    First(Result<R, CallError>),
    Second(Option<Result<R, CallError>>),
}

/// Which of two tries goes on, and what is known of the other.
enum WaitsFor {
    First(Option<(Option<Host>, Executed)>),
    Second(Host, CallError),
}
