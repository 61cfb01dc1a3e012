//! A center, two providers and two callers, all of whose calls are brought to one point before one of the parts is killed.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use tempfile::TempDir;
use tokio::time::{Duration, Instant, sleep};

use crate::ledger::Entry;
use crate::part::{PATIENCE, Part};
use crate::plan::{Plan, Point, Victim, Way, address};
use crate::roles::{DROP, GO, LOOK};
use crate::sockets::{self, Buffers};
use crate::verdict::Verdict;

pub(crate) struct House {
    plan: Plan,
    center: Part,
    /// Where the others find it.
    at: String,
    providers: [Part; 2],
    callers: [Part; 2],
    folder: TempDir,
}

impl House {
    pub(crate) async fn start(plan: Plan) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let center = plan.center(&folder, 0).await?;
        // What goes through the center is seen in the system's table of TCP sockets only.
        let relays = plan.way.is_relayed();
        let at = if relays { format!("tcp://127.0.0.1:{}", center.first) } else { address(&folder) };
        let provider = |name| plan.provider(&folder, &at, name, 0);
        let providers = tokio::try_join!(provider("p"), provider("q"))?.into();
        let callers = tokio::try_join!(plan.caller(&folder, &at, "a"), plan.caller(&folder, &at, "b"))?.into();
        Ok(Self { plan, center, at, providers, callers, folder })
    }

    /// Makes the calls, kills, lets all others come to their end, and reads the ledgers.
    pub(crate) async fn run(mut self) -> Result<Verdict> {
        let plan = self.plan;
        self.bring_there().await.with_context(|| format!("calls do not come to the point of {plan:?}"))?;
        if plan.races {
            self.resume().await?;
        }
        if plan.way == Way::GivenUp {
            self.give_up_half().await?;
        }
        match plan.victim {
            Victim::Provider => self.kill_provider().await?,
            Victim::Caller => first(&mut self.callers).kill().await?,
            Victim::Center => {
                self.center.kill().await?;
                self.center = plan.center(&self.folder, self.center.first.parse()?).await?;
            }
        }
        self.resume().await?;
        self.settle().await.with_context(|| format!("after {plan:?}"))
    }

    async fn kill_provider(&mut self) -> Result<()> {
        let provider = first(&mut self.providers);
        provider.kill().await?;
        if self.plan.way.is_stored() {
            let port = provider.first.parse()?;
            // It needs the center, which may stand still, and is waited for by the callers.
            self.center.resume().await?;
            let mut next = self.plan.provider(&self.folder, &self.at, "p", port).await?;
            next.was_cut = true;
            *first(&mut self.providers) = next;
        }
        Ok(())
    }

    /// By the callers; where they do not stand still this returns when they have.
    async fn give_up_half(&mut self) -> Result<()> {
        for caller in &mut self.callers {
            // One that goes on may have been answered all its calls by now, and have ended.
            let _ = caller.say(DROP).await;
        }
        let stand_still = matches!(self.plan.point, Point::Answered | Point::AnswerInFlight);
        let (half, until) = (self.callers.len() * (self.plan.calls / 2), Instant::now() + PATIENCE);
        while !stand_still && count(&self.callers, |entry| matches!(entry, Entry::GivenUp(_)))? < half {
            self.give_up_at(until)?;
            sleep(PAUSE).await;
        }
        Ok(())
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
        bail!("{} made, {} begun, {:?}", self.made()?, self.begun()?, self.at_providers()?)
    }

    async fn is_there(&mut self) -> Result<bool> {
        sleep(PAUSE).await;
        if self.made()? < self.calls() {
            return Ok(false);
        }
        let (all, bytes) = (self.calls() as u64, self.plan.parameters() as u64);
        let buffers = self.at_providers()?;
        let arrived: u64 = buffers.iter().map(|buffers| buffers.arrived).sum();
        Ok(match (self.plan.point, self.plan.victim) {
            (Point::BeforeSend, Victim::Center) => true,
            (Point::BeforeSend, _) => {
                let sent: u64 = buffers.iter().map(|buffers| buffers.towards + buffers.arrived).sum();
                buffers.iter().all(|buffers| buffers.towards > 0) && sent + bytes < all * bytes
            }
            (Point::Sent, _) => arrived >= all * bytes,
            (Point::Queued, _) => {
                self.begun()? >= self.providers.len() && arrived == 0 && self.in_flight().await? >= self.calls()
            }
            (Point::Running | Point::Answered | Point::AnswerInFlight, _) => self.begun()? >= self.calls(),
        })
    }

    async fn is_answered(&mut self) -> Result<bool> {
        sleep(PAUSE).await;
        if self.count_at_providers(|entry| matches!(entry, Entry::Ended(_)))? < self.calls() {
            return Ok(false);
        }
        let buffers = self.at_callers()?;
        if self.plan.point == Point::AnswerInFlight {
            return Ok(buffers.iter().all(|buffers| buffers.towards > 0));
        }
        let arrived: u64 = buffers.iter().map(|buffers| buffers.arrived).sum();
        Ok(arrived >= self.calls() as u64 * self.plan.answers() as u64)
    }

    /// All living callers have been told of all their calls, and what still runs has ended.
    async fn settle(mut self) -> Result<Verdict> {
        self.let_go().await?;
        let mut repeats = 0;
        for caller in living(&mut self.callers) {
            repeats += caller.line().await.context("a caller")?.parse::<u64>()?;
            caller.ended().await.context("a caller")?;
        }
        for provider in living(&mut self.providers) {
            provider.leave().await.context("a provider")?;
        }
        self.center.leave().await.context("the center")?;
        let ledger = |part: &Part| Ok((part.was_killed || part.was_cut, part.entries()?));
        let providers = self.providers.iter().map(ledger).collect::<Result<Vec<_>>>()?;
        let callers = self.callers.iter().map(ledger).collect::<Result<Vec<_>>>()?;
        let mut verdict = Verdict::of(&providers, &callers, self.plan.way.rules());
        (verdict.kills, verdict.repeats) = (1, repeats);
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

    /// Of how many calls there is such an entry: some run more often than once.
    fn count_at_providers(&self, what: impl Fn(&Entry) -> bool) -> Result<usize> {
        let mut calls = BTreeSet::new();
        for provider in &self.providers {
            calls.extend(provider.entries()?.iter().filter(|entry| what(entry)).map(|entry| entry.call().to_owned()));
        }
        Ok(calls.len())
    }

    /// As the providers say; of those that listen nowhere the center does.
    async fn in_flight(&mut self) -> Result<usize> {
        if self.plan.way.is_relayed() {
            return self.center.ask(LOOK).await;
        }
        let mut sum = 0;
        for provider in &mut self.providers {
            sum += provider.ask(LOOK).await?;
        }
        Ok(sum)
    }

    /// What is on its way to each provider.
    fn at_providers(&self) -> Result<Vec<Buffers>> {
        self.providers.iter().map(|provider| Buffers::of(self.port(provider)?)).collect()
    }

    /// What is on its way to callers: of each connection of theirs to a provider, or to the center.
    fn at_callers(&self) -> Result<Vec<Buffers>> {
        if self.plan.way.is_relayed() {
            return self.callers.iter().map(|caller| Buffers::of(self.port(caller)?)).collect();
        }
        Ok(self.at_providers()?.into_iter().map(Buffers::seen_from_there).collect())
    }

    /// Of a provider that listens, or of the connection to the center.
    fn port(&self, part: &Part) -> Result<u16> {
        if !self.plan.way.is_relayed() {
            return Ok(part.first.parse()?);
        }
        sockets::port_of(part.id()?, self.center.first.parse()?)
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

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(2);
