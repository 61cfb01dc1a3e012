use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use callboard_client::{CallError, CallErrorKind, Client, Line, Resume, Resuming, WeakLine, ask_ahead, spawn};
use callboard_common::{
    Connection, Decode, Feature, Host, Json, Message, ResultCode, ServiceAnswer, ServiceOp, ServiceRequest,
};
use tokio::sync::oneshot;
use tokio::time::timeout;

/// What one provider has told a center, and tells it again when a lost connection was made again.
#[derive(Debug)]
pub(crate) struct Announcer {
    center: Client,
    announced: Mutex<Announced>,
    /// Itself, for the tasks that announce again.
    this: Weak<Self>,
}

/// What the center was asked to enter.
#[derive(Debug, Default)]
struct Announced {
    entries: Entries,
    /// What it was asked to take back since, and may have still.
    leaving: Entries,
    /// The provider has gone: nothing more is registered.
    over: bool,
    /// The connection over which all was announced again last.
    resumed: Option<WeakLine>,
}

/// Methods, and the hosts at which each is provided.
type Entries = BTreeMap<String, BTreeSet<Host>>;

impl Announcer {
    pub(crate) fn new(center: Client) -> Arc<Self> {
        let announcer = Arc::new_cyclic(|this| Self { center, announced: Mutex::default(), this: Weak::clone(this) });
        let resume: Arc<dyn Resume> = Arc::<Self>::clone(&announcer);
        announcer.center.on_resume(Arc::downgrade(&resume));
        announcer
    }

    pub(crate) const fn center(&self) -> &Client {
        &self.center
    }

    pub(crate) fn can_withdraw(&self) -> bool {
        match self.coming() {
            Some(line) => line.session().is_some_and(|session| session.features.has(Feature::Withdraw)),
            None => self.center.knows(Feature::Withdraw),
        }
    }

    /// Whether the center can be told something at the moment.
    pub(crate) fn is_there(&self) -> bool {
        self.center.is_online() || self.coming().is_some()
    }

    /// Ends the connection over which the center was told last.
    pub(crate) fn hang_up(&self) {
        match self.coming() {
            Some(line) => line.conn().end(NOT_TAKEN_BACK),
            None => self.center.hang_up(NOT_TAKEN_BACK),
        }
    }

    /// Announces, and waits for all answers.
    pub(crate) async fn register(&self, methods: &[String], hosts: &[Host]) -> Result<(), CallError> {
        // Where a connection is about to be made again; if none is in time, sending says so.
        let _ = timeout(self.center.timeout(), self.center.online()).await;
        let entries: Vec<_> =
            methods.iter().flat_map(|method| hosts.iter().map(move |host| (method.clone(), *host))).collect();
        self.tell_all(ServiceOp::Register, &entries, &Over::Moment).await
    }

    /// From now on all that is announced to the center has these, though it may not be told yet.
    pub(crate) fn enter(&self, methods: &[String], hosts: &[Host]) {
        let mut announced = self.announced();
        if !announced.over {
            for method in methods {
                announced.entries.entry(method.clone()).or_default().extend(hosts);
            }
        }
    }

    /// Sees to it that the center is told of what was entered: over the connection of the moment, or else the next one.
    pub(crate) fn tell_in_background(&self) {
        // One that is being put in place may have been told before all was entered.
        if let Some(line) = self.coming().or_else(|| self.center.is_online().then(|| self.center.line())) {
            spawn(Self::announce_again(Weak::clone(&self.this), line.downgrade()));
        }
    }

    /// Nothing more is told of this method, to a center that is away.
    pub(crate) fn forget(&self, method: &str) {
        let mut announced = self.announced();
        announced.entries.remove(method);
        announced.leaving.remove(method);
    }

    /// Takes one method back, and waits for all answers. Until they have come it is known what was to be taken back:
    /// this may be dropped, or fail, before that.
    pub(crate) async fn withdraw_method(&self, method: &str) -> Result<(), CallError> {
        // First, so that it is not announced again meanwhile.
        let hosts = self.announced().begin_to_leave(method);
        let entries: Vec<_> = hosts.into_iter().map(|host| (method.to_owned(), host)).collect();
        self.tell_all(ServiceOp::Withdraw, &entries, &Over::Moment).await?;
        self.announced().leaving.remove(method);
        Ok(())
    }

    /// Takes all back, and waits for all answers. Until [`end`](Self::end) it is known what was to be taken back: this
    /// may be dropped before all was asked for.
    pub(crate) async fn withdraw(&self) -> Result<(), CallError> {
        let entries = {
            let mut announced = self.announced();
            announced.over = true;
            announced.all()
        };
        self.tell_all(ServiceOp::Withdraw, &entries, &Over::Moment).await
    }

    /// Nothing more is announced; gives what was.
    pub(crate) fn end(&self) -> Vec<(String, Host)> {
        let mut announced = self.announced();
        announced.over = true;
        let entries = announced.all();
        announced.entries.clear();
        announced.leaving.clear();
        entries
    }

    /// Asks the center to take back an entry, and does not wait: what is asked over the connection from now on comes
    /// after it. Where the center does not do it, the connection is ended, which takes all back.
    pub(crate) fn take_back(&self, method: &str, host: Host) -> Result<(), CallError> {
        let body = ServiceRequest::new(method, ServiceOp::Withdraw).at(host);
        let center = self.center.clone();
        let done = move |outcome: Result<Message, CallError>| {
            let is_done = |message: &Message| {
                ServiceAnswer::decode::<Json>(message.body()).is_ok_and(|answer| answer.code == ResultCode::Ok)
            };
            let is_taken_back = match outcome {
                Ok(message) => is_done(&message),
                // The end of its connection took all back. There may be another one by now.
                Err(error) => matches!(error.kind(), CallErrorKind::Disconnected),
            };
            if !is_taken_back {
                center.hang_up(NOT_TAKEN_BACK);
            }
        };
        let subject = subject(ServiceOp::Withdraw, method, host);
        match self.coming() {
            Some(line) => line.exchange_in_order(&subject, &body, done),
            None => self.center.exchange_in_order(&subject, &body, done),
        }
    }

    /// Announces all again over one connection, as often as it takes; over when the center has it all, or the
    /// connection is lost. It keeps neither the connection nor the provider while it waits.
    async fn announce_again(this: Weak<Self>, over: WeakLine) {
        let mut pause = FIRST_PAUSE;
        loop {
            let (Some(announcer), Some(line)) = (this.upgrade(), over.upgrade()) else { return };
            let entries = flat(&announcer.announced().entries);
            match announcer.tell_all(ServiceOp::Register, &entries, &Over::Again(&line)).await {
                Ok(()) => return,
                // The next connection begins anew.
                Err(error) if matches!(error.kind(), CallErrorKind::Disconnected) => return,
                Err(error) => tracing::warn!(%error, "not announced again yet; trying again in {pause:?}"),
            }
            drop((announcer, line));
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Sends one request for each entry, some of them ahead of the answers, and waits for all answers. What the center
    /// refuses does not keep the others from being told; the first refusal is the error.
    async fn tell_all(&self, op: ServiceOp, entries: &[(String, Host)], over: &Over<'_>) -> Result<(), CallError> {
        let refused = OnceLock::new();
        ask_ahead(entries, AHEAD, |(method, host)| {
            let told = self.tell(op, method, *host, over)?;
            Ok(told.map(|told| self.confirm(told, &refused)))
        })
        .await?;
        if let Some(error) = refused.into_inner() {
            return Err(error);
        }
        if op == ServiceOp::Register {
            over.set_provider(&self.center);
        }
        Ok(())
    }

    /// `None` where it would register for a provider that has gone, or again what was taken back.
    fn tell(&self, op: ServiceOp, method: &str, host: Host, over: &Over<'_>) -> Result<Option<Told>, CallError> {
        let mut announced = self.announced();
        if op == ServiceOp::Register && announced.over {
            return Ok(None);
        }
        if matches!(over, Over::Again(_)) && !announced.entries.get(method).is_some_and(|hosts| hosts.contains(&host)) {
            return Ok(None);
        }
        let (done, answer) = oneshot::channel();
        let subject = subject(op, method, host);
        let line = match over {
            Over::Again(line) => Line::clone(line),
            Over::Moment => announced.coming(&self.center).unwrap_or_else(|| self.center.line()),
        };
        let mut body = ServiceRequest::new(method, op).at(host);
        // Else a center that only stood still when a session was offered would announce it at once.
        body.probe = op == ServiceOp::Register && line.may_know_sessions();
        // Under the lock, so that nothing is registered behind its withdrawal. The receiver may have gone with a
        // dropped future.
        let done = |outcome| drop(done.send(outcome));
        line.exchange_in_order(&subject, &body, done)?;
        if op == ServiceOp::Register {
            // From now on the center may have it, whatever becomes of the answer.
            announced.entries.entry(method.to_owned()).or_default().insert(host);
        }
        Ok(Some(Told { subject, answer }))
    }

    /// The center's refusal of this entry becomes the one that is known, unless there is one.
    async fn confirm(&self, Told { subject, answer }: Told, refused: &OnceLock<CallError>) -> Result<(), CallError> {
        // The client says how every request ends, so there is no end but the connection's that it does not tell.
        let message = answer.await.map_err(|_| self.center.refused(&subject, ResultCode::Disconnected, None))??;
        let answer = ServiceAnswer::decode::<Json>(message.body());
        let ServiceAnswer { code, error, .. } = answer.map_err(|why| self.center.unreadable(&subject, why))?;
        if code != ResultCode::Ok {
            let _ = refused.set(self.center.refused(&subject, code, error)); // the first counts
        }
        Ok(())
    }

    fn coming(&self) -> Option<Line> {
        self.announced().coming(&self.center)
    }

    fn announced(&self) -> MutexGuard<'_, Announced> {
        self.announced.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Announced {
    /// Where the method is to be taken back.
    fn begin_to_leave(&mut self, method: &str) -> BTreeSet<Host> {
        if let Some(hosts) = self.entries.remove(method) {
            self.leaving.entry(method.to_owned()).or_default().extend(hosts);
        }
        self.leaving.get(method).cloned().unwrap_or_default()
    }

    /// All that the center may have.
    fn all(&self) -> Vec<(String, Host)> {
        let mut all = flat(&self.leaving);
        all.extend(flat(&self.entries));
        all
    }

    /// A connection that is about to take the place of a lost one: what was announced has been, over it.
    fn coming(&self, center: &Client) -> Option<Line> {
        if center.is_online() {
            return None;
        }
        self.resumed.as_ref().and_then(WeakLine::upgrade).filter(Line::is_online)
    }
}

impl Resume for Announcer {
    /// In the background: others that share the connection need not wait for it.
    fn resume<'a>(&'a self, line: &'a Line) -> Resuming<'a> {
        #[cfg(feature = "planted")]
        if callboard_common::Planted::NotAnnouncedAgain.is_planted() {
            return Box::pin(async { Ok(()) });
        }
        let has_entries = {
            let mut announced = self.announced();
            announced.resumed = Some(line.downgrade());
            // The end of the connection before took it back.
            announced.leaving.clear();
            !announced.entries.is_empty()
        };
        if has_entries {
            spawn(Self::announce_again(Weak::clone(&self.this), line.downgrade()));
        }
        Box::pin(async { Ok(()) })
    }
}

/// Which connection something is told over.
enum Over<'a> {
    /// That of the moment.
    Moment,
    /// One that takes the place of a lost one: only what has not been taken back meanwhile is told again.
    Again(&'a Line),
}

impl Over<'_> {
    fn set_provider(&self, center: &Client) {
        match self {
            Self::Moment => center.set_provider(),
            Self::Again(line) => line.conn().set_provider(),
        }
    }
}

/// A request whose answer has not been looked at.
#[derive(Debug)]
struct Told {
    subject: String,
    answer: oneshot::Receiver<Result<Message, CallError>>,
}

fn flat(entries: &Entries) -> Vec<(String, Host)> {
    entries.iter().flat_map(|(method, hosts)| hosts.iter().map(move |host| (method.clone(), *host))).collect()
}

fn subject(op: ServiceOp, method: &str, host: Host) -> String {
    let what = if op == ServiceOp::Register { "registration" } else { "withdrawal" };
    if host.is_relayed() {
        return format!("{what} of \"{method}\" through the center");
    }
    format!("{what} of \"{method}\" at {host}")
}

const NOT_TAKEN_BACK: &str = "the center does not take back what was registered over it";
/// So many requests go ahead of their answers: enough to hide the way there and back.
const AHEAD: usize = 64;
/// How long to wait before a center that has refused is asked again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
