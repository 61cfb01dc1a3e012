//! A center, two providers and two callers, all of whose calls are brought to one point before one of the parts is killed.

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use crate::ledger::Entry;
use crate::part::{PATIENCE, Part};
use crate::roles::GO;
use crate::sockets::Buffers;
use crate::verdict::Verdict;

/// How far calls have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Point {
    /// Some wait in the caller for room in its connections; before the center is killed, they wait for its answer to where
    /// the providers are.
    BeforeSend,
    /// All lie in the sockets of providers that stand still.
    Sent,
    /// All wait in the providers for their turn, but for one at each that runs.
    Queued,
    /// All have begun and none has ended.
    Running,
    /// All have ended, and all answers lie in the sockets of callers that stand still.
    Answered,
    /// All have ended, and the answers are too long for the sockets of callers that stand still.
    AnswerInFlight,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Victim {
    /// One of the two; the other one lives.
    Provider,
    /// One of the two.
    Caller,
    /// It is started anew at once.
    Center,
}

/// What happens in one house.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) point: Point,
    pub(crate) victim: Victim,
    /// Of each caller.
    pub(crate) calls: usize,
    /// What stands still goes on before the kill, not after it: then the two race.
    pub(crate) races: bool,
    /// The callers repeat what may have run: a bug, to see it found.
    pub(crate) careless: bool,
}

pub(crate) struct House {
    plan: Plan,
    center: Part,
    providers: [Part; 2],
    callers: [Part; 2],
    folder: TempDir,
}

impl House {
    pub(crate) async fn start(plan: Plan) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let center = plan.center(&folder).await?;
        let providers = tokio::try_join!(plan.provider(&folder, "p"), plan.provider(&folder, "q"))?.into();
        let callers = tokio::try_join!(plan.caller(&folder, "a"), plan.caller(&folder, "b"))?.into();
        Ok(Self { plan, center, providers, callers, folder })
    }

    /// Makes the calls, kills, lets all others come to their end, and reads the ledgers.
    pub(crate) async fn run(mut self) -> Result<Verdict> {
        let plan = self.plan;
        self.bring_there().await.with_context(|| format!("calls do not come to the point of {plan:?}"))?;
        if plan.races {
            self.resume().await?;
        }
        match plan.victim {
            Victim::Provider => first(&mut self.providers).kill().await?,
            Victim::Caller => first(&mut self.callers).kill().await?,
            Victim::Center => {
                self.center.kill().await?;
                self.center = plan.center(&self.folder).await?;
            }
        }
        self.resume().await?;
        self.settle().await.with_context(|| format!("after {plan:?}"))
    }

    async fn bring_there(&mut self) -> Result<()> {
        match (self.plan.point, self.plan.victim) {
            (Point::BeforeSend, Victim::Center) => self.center.pause().await?,
            (Point::BeforeSend | Point::Sent, _) => pause(&mut self.providers).await?,
            _ => {}
        }
        for caller in &mut self.callers {
            caller.say(GO).await?;
        }
        let until = Instant::now() + PATIENCE;
        while !self.is_there().await? {
            self.give_up_at(until)?;
        }
        if matches!(self.plan.point, Point::Answered | Point::AnswerInFlight) {
            pause(&mut self.callers).await?;
            self.let_go().await?;
            while !self.is_answered().await? {
                self.give_up_at(until)?;
            }
        }
        Ok(())
    }

    fn give_up_at(&self, until: Instant) -> Result<()> {
        if Instant::now() < until {
            return Ok(());
        }
        bail!("{} made, {} begun, {:?}", self.made()?, self.begun()?, self.buffers()?)
    }

    async fn is_there(&mut self) -> Result<bool> {
        sleep(LOOK).await;
        if self.made()? < self.calls() {
            return Ok(false);
        }
        let (all, bytes) = (self.calls() as u64, self.plan.parameters() as u64);
        let buffers = self.buffers()?;
        Ok(match (self.plan.point, self.plan.victim) {
            (Point::BeforeSend, Victim::Center) => true,
            (Point::BeforeSend, _) => {
                let sent: u64 = buffers.iter().map(|buffers| buffers.towards + buffers.arrived).sum();
                buffers.iter().all(|buffers| buffers.towards > 0) && sent + bytes < all * bytes
            }
            (Point::Sent, _) => buffers.iter().map(|buffers| buffers.arrived).sum::<u64>() >= all * bytes,
            (Point::Queued, _) => self.begun()? == self.providers.len() && self.in_flight().await? == self.calls(),
            (Point::Running | Point::Answered | Point::AnswerInFlight, _) => self.begun()? == self.calls(),
        })
    }

    async fn is_answered(&mut self) -> Result<bool> {
        sleep(LOOK).await;
        if self.count_at_providers(|entry| matches!(entry, Entry::Ended(_)))? < self.calls() {
            return Ok(false);
        }
        let buffers = self.buffers()?;
        if self.plan.point == Point::AnswerInFlight {
            return Ok(buffers.iter().all(|buffers| buffers.back > 0));
        }
        let returned: u64 = buffers.iter().map(|buffers| buffers.returned).sum();
        Ok(returned >= self.calls() as u64 * self.plan.answers() as u64)
    }

    /// All living callers have been told of all their calls, and what still runs has ended.
    async fn settle(mut self) -> Result<Verdict> {
        self.let_go().await?;
        for caller in living(&mut self.callers) {
            caller.ended().await.context("a caller")?;
        }
        for provider in living(&mut self.providers) {
            provider.leave().await.context("a provider")?;
        }
        self.center.leave().await.context("the center")?;
        let providers = self.providers.iter().map(Part::entries).collect::<Result<Vec<_>>>()?;
        let callers = self.callers.iter().map(|caller| Ok((caller.was_killed, caller.entries()?)));
        let mut verdict = Verdict::of(&providers, &callers.collect::<Result<Vec<_>>>()?);
        verdict.kills = 1;
        Ok(verdict)
    }

    /// The providers' calls may end.
    async fn let_go(&mut self) -> Result<()> {
        for provider in living(&mut self.providers) {
            provider.say(GO).await?;
        }
        Ok(())
    }

    async fn resume(&mut self) -> Result<()> {
        for part in self.providers.iter_mut().chain(&mut self.callers).chain([&mut self.center]) {
            part.resume().await?;
        }
        Ok(())
    }

    fn calls(&self) -> usize {
        self.callers.len() * self.plan.calls
    }

    fn made(&self) -> Result<usize> {
        count(&self.callers, |entry| matches!(entry, Entry::Made(_)))
    }

    fn begun(&self) -> Result<usize> {
        self.count_at_providers(|entry| matches!(entry, Entry::Began(_)))
    }

    fn count_at_providers(&self, what: impl Fn(&Entry) -> bool) -> Result<usize> {
        count(&self.providers, what)
    }

    /// As the providers say.
    async fn in_flight(&mut self) -> Result<usize> {
        let mut sum = 0;
        for provider in &mut self.providers {
            provider.say("look").await?;
            sum += provider.line().await?.parse::<usize>()?;
        }
        Ok(sum)
    }

    fn buffers(&self) -> Result<Vec<Buffers>> {
        self.providers.iter().map(|provider| Buffers::of(provider.first.parse()?)).collect()
    }
}

impl Plan {
    async fn center(self, folder: &TempDir) -> Result<Part> {
        Part::start("center", folder.path().join("none"), &[address(folder)]).await
    }

    async fn provider(self, folder: &TempDir, name: &str) -> Result<Part> {
        let ledger = folder.path().join(name);
        let concurrency = if self.point == Point::Queued { 1 } else { MANY };
        let arguments =
            [address(folder), ledger.display().to_string(), concurrency.to_string(), self.answers().to_string()];
        Part::start("provider", ledger, &arguments).await
    }

    async fn caller(self, folder: &TempDir, name: &str) -> Result<Part> {
        let ledger = folder.path().join(name);
        let (calls, bytes) = (self.calls.to_string(), self.parameters().to_string());
        let mut arguments = vec![address(folder), ledger.display().to_string(), name.to_owned(), calls, bytes];
        // Else they know where the providers are, and need no center.
        if (self.point, self.victim) != (Point::BeforeSend, Victim::Center) {
            arguments.push("--warm".to_owned());
        }
        if self.careless {
            arguments.push("--careless".to_owned());
        }
        Part::start("caller", ledger, &arguments).await
    }

    fn parameters(self) -> usize {
        if self.point == Point::BeforeSend { LONG } else { SHORT }
    }

    fn answers(self) -> usize {
        if self.point == Point::AnswerInFlight { LONG } else { SHORT }
    }
}

async fn pause(parts: &mut [Part]) -> Result<()> {
    for part in parts {
        part.pause().await?;
    }
    Ok(())
}

fn first(parts: &mut [Part; 2]) -> &mut Part {
    let [first, _] = parts;
    first
}

fn living(parts: &mut [Part; 2]) -> impl Iterator<Item = &mut Part> {
    parts.iter_mut().filter(|part| !part.was_killed)
}

fn count(parts: &[Part], what: impl Fn(&Entry) -> bool) -> Result<usize> {
    parts.iter().map(|part| Ok(part.entries()?.iter().filter(|entry| what(entry)).count())).sum()
}

fn address(folder: &TempDir) -> String {
    format!("unix://{}", folder.path().join("center").display())
}

/// Calls that may run at once: more than are made.
const MANY: usize = 4096;
/// Bytes of which those of all calls of a connection fit into its sockets.
const SHORT: usize = 500;
/// And of which they do not.
const LONG: usize = 256 << 10;
/// Between two looks.
const LOOK: Duration = Duration::from_millis(2);
