use std::io;
use std::time::Duration;

use callboard_client::{Client, all_together};
use callboard_net::Stopped;
use callboard_registry::Provider;
use callboard_server::Server;
use tokio::time::timeout;

use crate::{Signal, Signals};

/// How a provider that was asked to leave has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Left {
    /// What asked it to.
    pub signal: Signal,
    /// What became of the calls that it had; or the second signal, which stopped it at once.
    pub calls: Result<Stopped, Signal>,
}

/// Takes back what `provider` announced, then stops `server`, in the order in which no call is lost. Says what became
/// of the calls that were in flight.
///
/// 1. The center tells all watchers that the provider is offline. A center that does not answer is given a second;
///    calls that still come are executed as ever.
/// 2. Callers with a session are told (GOAWAY). New calls are refused with UNAVAILABLE, not executed, upon which a
///    [`Caller`](crate::Caller) tries another provider by itself.
/// 3. Calls in flight are answered, for up to the server's [`grace`](callboard_server::ServerBuilder::grace).
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> anyhow::Result<()> {
/// # let embedded = callboard::Center::builder().listen("127.0.0.1:0").loops(1).start().await?;
/// # let center = embedded.address();
/// use callboard::{Provider, Router, Server};
///
/// let router = Router::new().method("double", |n: i64| Ok(n * 2));
/// let server = Server::builder().router(router.clone()).listen("127.0.0.1:0").start().await?;
/// let provider = Provider::connect(center).await?.announce(router.names(), server.addresses()).await?;
/// let calls = callboard::leave(provider, server).await;
/// println!("{} calls were answered, and {} were cut", calls.finished, calls.cut);
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// Dropping the future stops the server at once; the provider's connection takes back what it announced.
pub async fn leave(provider: Provider, server: Server) -> Stopped {
    withdraw(provider).await;
    server.shutdown().await
}

/// The same for a provider that [listens nowhere](crate::Place::Relay): takes back what it announced, then ends its
/// connection to the center, or to each, once the calls that came over it are answered, after `grace` at the latest. No call
/// is lost, since a center passes on none after the answer to a withdrawal.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> anyhow::Result<()> {
/// # use std::time::Duration;
/// # let embedded = callboard::Center::builder().listen("127.0.0.1:0").loops(1).start().await?;
/// # let center = embedded.address();
/// use callboard::{Client, Place, Provider, Router};
///
/// let router = Router::new().method("double", |n: i64| Ok(n * 2));
/// let connection = Client::builder().serves(router.clone()).connect(center).await?;
/// let provider = Provider::new(connection).announce(router.names(), Place::Relay).await?;
/// let calls = callboard::leave_relayed(provider, Duration::from_secs(10)).await;
/// println!("{} calls were done with, and {} were cut", calls.finished, calls.cut);
/// # Ok(())
/// # }
/// ```
///
/// # Cancel safety
/// Dropping the future leaves the connections to end by themselves; their end takes back what was announced.
pub async fn leave_relayed(provider: Provider, grace: Duration) -> Stopped {
    let centers = provider.centers().clone();
    withdraw(provider).await;
    let stopped = all_together(centers.iter().map(|center| center.finish(grace))).await;
    stopped.into_iter().fold(Stopped::default(), |all, one| Stopped {
        finished: all.finished + one.finished,
        given_up: all.given_up + one.given_up,
        cut: all.cut + one.cut,
    })
}

async fn withdraw(provider: Provider) {
    match timeout(WITHDRAW_TIME, provider.withdraw()).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%error, "not withdrawn; the end of the connection says it"),
        Err(_) => tracing::warn!("the center does not answer the withdrawal; the end of the connection says it"),
    }
}

/// Serves until SIGTERM or SIGINT, then [leaves](leave) in good order; a second signal stops at once.
///
/// This is the main loop of a provider. As process 1 of a container, make [`Signals`] first and call
/// [`serve_until`]: until somebody takes them, signals do nothing there.
///
/// ```no_run
/// use callboard::{Provider, Router, Server};
/// use std::process::ExitCode;
///
/// #[tokio::main]
/// async fn main() -> anyhow::Result<ExitCode> {
///     let router = Router::new().method("double", |n: i64| Ok(n * 2));
///     let server = Server::builder().router(router.clone()).listen("0.0.0.0:7071").start().await?;
///     let provider = Provider::connect("127.0.0.1:7070").await?;
///     let provider = provider.announce(router.names(), server.addresses()).await?;
///     let left = callboard::serve_until_signal(provider, server).await?;
///     Ok(left.exit_code())
/// }
/// ```
///
/// # Errors
/// The system does not let this program take signals; what was announced is taken back.
///
/// # Cancel safety
/// Dropping the future stops the server at once; the provider's connection takes back what it announced.
pub async fn serve_until_signal(provider: Provider, server: Server) -> io::Result<Left> {
    let mut signals = Signals::new()?;
    Ok(serve_until(&mut signals, provider, server).await)
}

/// The same with signals that were taken before, so that none can come too early.
///
/// # Cancel safety
/// As [`serve_until_signal`].
pub async fn serve_until(signals: &mut Signals, provider: Provider, server: Server) -> Left {
    let signal = signals.next().await;
    tracing::info!("{signal}: leaving, with {} calls in flight", server.in_flight());
    let calls = signals.unless_again(leave(provider, server)).await;
    tell(&calls);
    Left { signal, calls }
}

/// The same for a provider that [listens nowhere](leave_relayed).
///
/// # Cancel safety
/// As [`leave_relayed`].
pub async fn serve_relayed_until(signals: &mut Signals, provider: Provider, grace: Duration) -> Left {
    let signal = signals.next().await;
    let in_flight: usize = provider.centers().iter().map(Client::serving).sum();
    tracing::info!("{signal}: leaving, with {in_flight} calls in flight");
    let calls = signals.unless_again(leave_relayed(provider, grace)).await;
    tell(&calls);
    Left { signal, calls }
}

fn tell(calls: &Result<Stopped, Signal>) {
    match *calls {
        Ok(Stopped { finished, given_up, cut: 0 }) => {
            tracing::info!("left; {finished} calls in flight were answered, and {given_up} given up by their callers");
        }
        Ok(Stopped { finished, given_up, cut }) => {
            tracing::warn!(
                "left; {finished} calls in flight were answered, {given_up} given up by their callers, and {cut} outlasted \
                 the grace"
            );
        }
        Err(second) => tracing::warn!("{second} again: stopped at once"),
    }
}

impl Left {
    /// 0, or that of the second signal.
    pub fn exit_code(self) -> std::process::ExitCode {
        self.calls.map_or_else(Into::into, |_| std::process::ExitCode::SUCCESS)
    }
}

/// How long a center may take to answer. One that lives takes milliseconds, and calls are executed meanwhile.
const WITHDRAW_TIME: Duration = Duration::from_secs(1);
