use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use callboard_center::CenterBuilder;
use callboard_client::{Client, ClientBuilder, Connector};
use callboard_registry::{Caller, CallerBuilder};
use callboard_server::{Server, ServerBuilder};
use tokio::task::AbortHandle;

use crate::network::{HostId, SimTransport};
use crate::{Network, Sim};

/// A machine of a [`Sim`], on which programs are started, killed and started again.
#[derive(Clone)]
pub struct Host {
    sim: Sim,
    name: Arc<str>,
    id: HostId,
    programs: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Host {
    pub(crate) fn new(sim: Sim, name: &str) -> Self {
        let id = sim.network().add_host();
        Self { sim, name: name.into(), id, programs: Arc::default() }
    }

    /// What it is called in the trace.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where programs on it listen, for example `tcp://10.0.0.1:7070`.
    pub fn address(&self, port: u16) -> String {
        format!("tcp://{}:{port}", self.id.ip())
    }

    /// Starts a program. It ends with its future, and where the host is killed.
    pub fn start<F: Future<Output = ()> + Send + 'static>(&self, program: impl FnOnce(Self) -> F) {
        self.sim.note(|| format!("{} starts", self.name));
        let task = tokio::spawn(program(self.clone()));
        self.programs().push(task.abort_handle());
    }

    /// Its programs end by themselves: what they hold is dropped, and says what it says then.
    pub fn leave(&self) {
        self.sim.note(|| format!("{} leaves", self.name));
        self.abort();
    }

    /// Ends its programs without a word of theirs: the system closes their connections.
    pub fn kill(&self) {
        self.sim.note(|| format!("{} is killed", self.name));
        self.network().kill(self.id);
        self.abort();
    }

    /// Switches the machine off: nobody hears of it.
    pub fn switch_off(&self) {
        self.sim.note(|| format!("{} is switched off", self.name));
        self.network().switch_off(self.id);
        self.abort();
    }

    /// Switches it on again, with nothing running.
    pub fn switch_on(&self) {
        self.sim.note(|| format!("{} is switched on", self.name));
        self.network().switch_on(self.id);
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
    fn instance(&self) -> String {
        format!("{}-{}", self.name, self.network().run_of(self.id))
    }

    fn network(&self) -> &Network {
        self.sim.network()
    }

    fn abort(&self) {
        self.programs().drain(..).for_each(|program| program.abort());
    }

    fn programs(&self) -> MutexGuard<'_, Vec<AbortHandle>> {
        self.programs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Host").field("name", &self.name).field("id", &self.id).finish_non_exhaustive()
    }
}
