use std::fmt;
use std::mem::replace;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use callboard_center::CenterBuilder;
use callboard_client::{Client, ClientBuilder, Connector};
use callboard_net::TaskGroup;
use callboard_registry::{Caller, CallerBuilder};
use callboard_server::{Server, ServerBuilder};
use tokio::sync::watch;
use tokio::task::AbortHandle;

use crate::network::{HostId, SimTransport};
use crate::sim::lock;
use crate::{Network, Sim};

/// A machine of a [`Sim`], on which programs are started, killed and started again.
#[derive(Clone)]
pub struct Host {
    sim: Sim,
    name: Arc<str>,
    id: HostId,
    programs: Arc<Mutex<Programs>>,
}

/// What runs on a host.
#[derive(Default)]
struct Programs {
    started: Vec<AbortHandle>,
    /// How often one was started.
    starts: u64,
    /// With all that they have started.
    group: TaskGroup,
    /// How often they were asked to end.
    asked: watch::Sender<u64>,
}

impl Host {
    pub(crate) fn new(sim: Sim, name: &str) -> Self {
        let (id, name) = (sim.network().add_host(), Arc::from(name));
        let programs = Programs::default();
        sim.watch(&name, &programs.group);
        Self { sim, name, id, programs: Arc::new(Mutex::new(programs)) }
    }

    /// What it is called in the trace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where programs on it listen, for example `tcp://10.0.0.1:7070`.
    pub fn address(&self, port: u16) -> String {
        format!("tcp://{}:{port}", self.id.ip())
    }

    /// Starts a program. It ends with its future, and where the host is killed. If it panics, so does the run.
    pub fn start<F: Future<Output = ()> + Send + 'static>(&self, program: impl FnOnce(Self) -> F) {
        self.sim.note(|| format!("{} starts", self.name));
        let program = Program { sim: self.sim.clone(), program: Box::pin(program(self.clone())) };
        let mut programs = self.programs();
        programs.starts += 1;
        let task = tokio::spawn(programs.group.run(program));
        programs.started.push(task.abort_handle());
    }

    /// Asks its programs to end, as SIGTERM does. Those that do not wait for [`asked_to_end`](Self::asked_to_end) go on.
    pub fn ask_to_end(&self) {
        self.sim.note(|| format!("{} is asked to end", self.name));
        self.programs().asked.send_modify(|asked| *asked += 1);
    }

    /// Waits until its programs are asked to end from now on.
    pub fn asked_to_end(&self) -> impl Future<Output = ()> + Send + use<> {
        let mut asked = self.programs().asked.subscribe();
        async move {
            // Without a sender they were killed, and this one with them.
            let _ = asked.changed().await;
        }
    }

    /// Its programs end by themselves: what they hold is dropped, and says what it says then.
    pub fn leave(&self) {
        self.sim.note(|| format!("{} leaves", self.name));
        self.programs().started.drain(..).for_each(|program| program.abort());
    }

    /// Ends its programs without a word of theirs: the system closes their connections.
    pub fn kill(&self) {
        self.sim.note(|| format!("{} is killed", self.name));
        self.network().kill(self.id);
        self.end();
    }

    /// Switches the machine off: nobody hears of it.
    pub fn switch_off(&self) {
        self.sim.note(|| format!("{} is switched off", self.name));
        self.network().switch_off(self.id);
        self.end();
    }

    /// Switches it on again, with nothing running.
    pub fn switch_on(&self) {
        self.sim.note(|| format!("{} is switched on", self.name));
        self.network().switch_on(self.id);
    }

    /// Its programs stand still, as after SIGSTOP. Others still connect to it; nobody answers.
    pub fn stop(&self) {
        self.sim.note(|| format!("{} stands still", self.name));
        self.programs().group.hold();
    }

    /// They go on: all of their timers are late, and what has come meanwhile is there.
    pub fn go_on(&self) {
        self.sim.note(|| format!("{} goes on", self.name));
        self.group().go_on();
    }

    /// Tasks that Callboard has started for its programs, and that have not ended.
    pub fn tasks(&self) -> usize {
        self.group().tasks()
    }

    /// From now on nothing passes between the two.
    pub fn cut(&self, other: &Self) {
        self.sim.note(|| format!("{} and {} are cut off from each other", self.name, other.name));
        self.network().cut(self.id, other.id);
    }

    /// The connections between the two are reset.
    pub fn reset(&self, other: &Self) {
        self.sim.note(|| format!("connections of {} and {} are reset", self.name, other.name));
        self.network().reset(self.id, other.id);
    }

    /// The connections between the two carry nothing any more, for ever, and neither is told; new ones can be made.
    pub fn lose(&self, other: &Self) {
        self.sim.note(|| format!("connections of {} and {} are lost", self.name, other.name));
        self.network().lose(self.id, other.id);
    }

    /// The same, only of what this host has sent and sends.
    pub fn lose_to(&self, other: &Self) {
        self.sim.note(|| format!("what {} sends to {} is lost", self.name, other.name));
        self.network().lose_to(self.id, other.id);
    }

    /// All passes again.
    pub fn heal(&self, other: &Self) {
        self.sim.note(|| format!("{} and {} reach each other again", self.name, other.name));
        self.network().heal(self.id, other.id);
    }

    /// Access to the network for the programs of now.
    pub fn transport(&self) -> SimTransport {
        SimTransport { network: self.network().clone(), host: self.id, run: self.network().run_of(self.id) }
    }

    /// The same for clients.
    pub fn connector(&self) -> Connector {
        Connector::over(self.transport())
    }

    /// Settings of a client on this host.
    pub fn client(&self) -> ClientBuilder {
        let seed = self.sim.draw(u64::MAX);
        Client::builder()
            .connector(self.connector())
            .seed(seed)
            .deadlines_by_runtime(true)
            .remember_v1(false)
            .instance(self.instance())
    }

    /// Settings of a caller on this host.
    pub fn caller(&self) -> CallerBuilder {
        Caller::builder().client(self.client())
    }

    /// Settings of a server on this host; end with [`ServerBuilder::start_over`].
    pub fn server(&self, port: u16) -> ServerBuilder {
        Server::builder().here(true).listen(self.address(port))
    }

    /// Settings of a center on this host, at port 7070; end with [`CenterBuilder::start_over`].
    pub fn center(&self) -> CenterBuilder {
        CenterBuilder::default().here(true).instance(self.instance()).listen(self.address(7070))
    }

    /// Names the programs of now.
    pub(crate) fn instance(&self) -> String {
        format!("{}-{}", self.name, self.programs().starts)
    }

    fn network(&self) -> &Network {
        self.sim.network()
    }

    /// The programs end with all that they have started.
    fn end(&self) {
        let ended = {
            let mut programs = self.programs();
            let starts = programs.starts;
            replace(&mut *programs, Programs { starts, ..Programs::default() })
        };
        self.sim.watch(&self.name, &self.group());
        ended.started.iter().for_each(AbortHandle::abort);
        ended.group.end();
    }

    fn group(&self) -> TaskGroup {
        self.programs().group.clone()
    }

    fn programs(&self) -> MutexGuard<'_, Programs> {
        lock(&self.programs)
    }
}

/// A program whose panics are those of the run.
struct Program<F> {
    sim: Sim,
    program: Pin<Box<F>>,
}

impl<F: Future<Output = ()>> Future for Program<F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let polled = catch_unwind(AssertUnwindSafe(|| self.program.as_mut().poll(cx)));
        polled.unwrap_or_else(|why| {
            self.sim.failed(why);
            Poll::Ready(())
        })
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).field("id", &self.id).finish_non_exhaustive()
    }
}
