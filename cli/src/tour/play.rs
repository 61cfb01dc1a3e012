use anyhow::ensure;

use super::process::Process;
use super::report::Report;

/// Plays the tour from its first step to its last.
pub(crate) async fn play() -> anyhow::Result<()> {
    let mut report = Report::begin("Callboard: real processes on this machine, talking over loopback")?;
    let center = report.step("a center starts", start_center()).await?;
    let mut a = report.step("provider A starts", start_provider("provider A", ANY_PORT, &center)).await?;
    let mut b = report.step("provider B starts", start_provider("provider B", ANY_PORT, &center)).await?;
    report.step("a command discovers both providers", discover(&center, &a, &b)).await?;
    let mut caller = report.step("a caller starts", start_caller(&center)).await?;
    report.step("its calls are spread over both providers", spread_calls(&mut caller, &mut a, &mut b)).await?;
    let mut first = report.step("subscriber 1 subscribes", subscribe("subscriber 1", &center)).await?;
    let mut second = report.step("subscriber 2 subscribes", subscribe("subscriber 2", &center)).await?;
    report.step("a message reaches both subscribers", publish(&center, &mut first, &mut second)).await?;
    report.step("provider A is killed", kill(&mut a)).await?;
    report.step("the caller is told that provider A is offline", notice(&mut caller, "offline", &a)).await?;
    report.step("calls go on, at provider B", go_on_calling(&mut caller, &mut b)).await?;
    let mut a = report.step("provider A comes back", bring_back("provider A", &a.address, &center)).await?;
    report.step("the caller is told that provider A is online", notice(&mut caller, "online", &a)).await?;
    report.step("calls are spread over both again", spread_calls(&mut caller, &mut a, &mut b)).await?;
    report.end()
}

/// A process that listens.
#[derive(Debug)]
struct Service {
    process: Process,
    /// `tcp://ip:port`
    address: String,
}

/// What a step returns: what the next ones need, and what was seen.
type Seen<T = ()> = anyhow::Result<(T, String)>;

impl Service {
    async fn start(name: &str, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut process = Process::start(name, arguments)?;
        let address = process.line("listening on ").await?;
        Ok(Self { process, address })
    }

    /// `ip:port`
    fn host(&self) -> &str {
        self.address.trim_start_matches("tcp://")
    }
}

async fn start_center() -> Seen<Service> {
    let center = Service::start("the center", &["center", "--listen", ANY_PORT]).await?;
    let seen = format!("a center listens on {} (process {})", center.address, center.process.id());
    Ok((center, seen))
}

async fn start_provider(name: &str, listen: &str, center: &Service) -> Seen<Service> {
    let arguments = ["provide", "--demo", "--show-calls", "--listen", listen, "--center", &center.address];
    let provider = Service::start(name, &arguments).await?;
    let seen =
        format!("{name} serves add on {} and has registered it (process {})", provider.address, provider.process.id());
    Ok((provider, seen))
}

async fn bring_back(name: &str, listen: &str, center: &Service) -> Seen<Service> {
    let (provider, _) = start_provider(name, listen, center).await?;
    let seen = format!("{name} is back on {} (process {})", provider.address, provider.process.id());
    Ok((provider, seen))
}

async fn discover(center: &Service, a: &Service, b: &Service) -> Seen {
    let mut hosts = Process::finish(&["discover", "add", "--center", &center.address]).await?;
    let seen = format!("`callboard discover add` finds {}", hosts.join(" and "));
    let mut expected = [a.host(), b.host()];
    hosts.sort_unstable();
    expected.sort_unstable();
    ensure!(hosts == expected, "it found {hosts:?} and not {expected:?}");
    Ok(((), seen))
}

async fn start_caller(center: &Service) -> Seen<Process> {
    let mut caller = Process::start("the caller", &["tour-caller", "--center", &center.address])?;
    caller.line("ready").await?;
    let seen = format!("a caller has discovered add (process {})", caller.id());
    Ok((caller, seen))
}

/// Has calls made, and counts where they were served.
async fn spread_calls(caller: &mut Process, a: &mut Service, b: &mut Service) -> Seen {
    caller.tell(&CALLS.to_string()).await?;
    caller.line(&format!("answered {CALLS}")).await?;
    let (mut by_a, mut by_b) = (0, 0);
    while by_a + by_b < CALLS {
        tokio::select! {
            served = a.process.line("served add") => { served?; by_a += 1; }
            served = b.process.line("served add") => { served?; by_b += 1; }
        }
    }
    ensure!(by_a > 0 && by_b > 0, "provider A served {by_a} and provider B {by_b}");
    Ok(((), format!("the caller made {CALLS} calls of add: provider A served {by_a}, provider B {by_b}")))
}

async fn subscribe(name: &str, center: &Service) -> Seen<Process> {
    let mut subscriber = Process::start(name, &["sub", TOPIC, "--create", "--center", &center.address])?;
    subscriber.remark("subscribed").await?;
    let seen = format!("{name} hears the topic \"{TOPIC}\" (process {})", subscriber.id());
    Ok((subscriber, seen))
}

async fn publish(center: &Service, first: &mut Process, second: &mut Process) -> Seen {
    Process::finish(&["pub", TOPIC, MESSAGE, "--center", &center.address]).await?;
    for subscriber in [first, second] {
        let heard = subscriber.line("").await?;
        ensure!(heard == MESSAGE, "{} heard \"{heard}\"", subscriber.name());
    }
    Ok(((), format!("`callboard pub {TOPIC} \"{MESSAGE}\"` has reached both subscribers")))
}

async fn kill(provider: &mut Service) -> Seen {
    let seen = format!("kill -9 {} ends provider A without a farewell", provider.process.id());
    provider.process.kill().await?;
    Ok(((), seen))
}

async fn notice(caller: &mut Process, word: &str, provider: &Service) -> Seen {
    caller.line(&format!("{word} {}", provider.host())).await?;
    Ok(((), format!("the center has told the caller: add is {word} at {}", provider.host())))
}

async fn go_on_calling(caller: &mut Process, b: &mut Service) -> Seen {
    caller.tell(&CALLS.to_string()).await?;
    caller.line(&format!("answered {CALLS}")).await?;
    for _ in 0..CALLS {
        b.process.line("served add").await?;
    }
    Ok(((), format!("the caller made {CALLS} further calls: provider B served them all")))
}

const ANY_PORT: &str = "tcp://127.0.0.1:0";
const CALLS: usize = 10;
const TOPIC: &str = "news";
const MESSAGE: &str = "curtain up";
