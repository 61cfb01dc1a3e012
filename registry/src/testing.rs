//! A center, and programs around it, over real sockets.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use callboard_client::Client;
use callboard_common::{
    Decode, Dispatcher, ErrorInfo, Handler, Host, Json, Message, ResultCode, ServiceOp, ServiceRequest, refuse,
};
use callboard_net::{Conn, Serving, Settings, serve};
use callboard_server::{Router, Server, Sessions};

use crate::{AvailabilityPolicy, Place, Provider, RegistryLimits, RegistryService};

/// More than anything takes on a busy machine.
pub(crate) const LONG: Duration = Duration::from_secs(20);

pub(crate) struct Center {
    serving: Serving,
    registry: Arc<RegistryService<Conn>>,
    discoveries: Arc<AtomicUsize>,
    /// So many registrations are still to be refused.
    refusals: Arc<AtomicUsize>,
    probes: Arc<AtomicUsize>,
}

/// A registry that counts what it is asked.
struct Counting {
    registry: Arc<RegistryService<Conn>>,
    discoveries: Arc<AtomicUsize>,
    refusals: Arc<AtomicUsize>,
    /// Registrations that ask for their host to be reached first.
    probes: Arc<AtomicUsize>,
}

impl Handler<Conn> for Counting {
    fn handle(&self, conn: &Conn, message: Message) {
        let request = ServiceRequest::decode::<Json>(message.body()).ok();
        let op = request.as_ref().map(|request| request.op);
        if request.is_some_and(|request| request.probe) {
            self.probes.fetch_add(1, Ordering::SeqCst);
        }
        if op == Some(ServiceOp::Discover) {
            self.discoveries.fetch_add(1, Ordering::SeqCst);
        }
        let one_less = |left: usize| left.checked_sub(1);
        if op == Some(ServiceOp::Register)
            && self.refusals.fetch_update(Ordering::SeqCst, Ordering::SeqCst, one_less).is_ok()
        {
            let error = ErrorInfo::not_executed("not yet");
            return refuse(conn, &message, ResultCode::Unavailable, Some(ServiceOp::Register.to_wire()), &error);
        }
        self.registry.handle(conn, message);
    }

    fn closed(&self, conn: &Conn) {
        self.registry.closed(conn);
    }
}

impl Center {
    pub(crate) async fn start() -> Self {
        Self::start_at("127.0.0.1:0").await
    }

    /// One that knows sessions, at this address.
    pub(crate) async fn start_at(address: &str) -> Self {
        let settings = one_loop();
        let sessions = Sessions::for_server("test center", &settings.limits);
        let handler = |counting| Dispatcher::new().on_service(counting).on_session(sessions);
        Self::with_at(address, settings, handler).await
    }

    /// One that knows no sessions.
    pub(crate) async fn start_v1() -> Self {
        Self::with_at("127.0.0.1:0", one_loop(), |counting| Dispatcher::new().on_service(counting)).await
    }

    /// One that takes so long to be sure that nobody is on the way back to it.
    pub(crate) async fn start_young(address: &str, warm_up: Duration) -> Self {
        let settings = one_loop();
        let sessions = Sessions::for_server("test center", &settings.limits);
        let policy = AvailabilityPolicy { warm_up, ..AvailabilityPolicy::trusting() };
        let registry = RegistryService::with_policy(RegistryLimits::default(), policy);
        let handler = |counting| Dispatcher::new().on_service(counting).on_session(sessions);
        Self::of(registry, address, settings, handler).await
    }

    async fn with_at<H: Handler<Conn>>(address: &str, settings: Settings, handler: impl FnOnce(Counting) -> H) -> Self {
        Self::of(RegistryService::default(), address, settings, handler).await
    }

    async fn of<H: Handler<Conn>>(
        registry: RegistryService<Conn>,
        address: &str,
        settings: Settings,
        handler: impl FnOnce(Counting) -> H,
    ) -> Self {
        let registry = Arc::new(registry);
        let discoveries = Arc::new(AtomicUsize::new(0));
        let refusals = Arc::new(AtomicUsize::new(0));
        let probes = Arc::new(AtomicUsize::new(0));
        let counting = Counting {
            registry: Arc::clone(&registry),
            discoveries: Arc::clone(&discoveries),
            refusals: Arc::clone(&refusals),
            probes: Arc::clone(&probes),
        };
        let address = address.parse().unwrap();
        let serving = serve(&[address], settings, Arc::new(handler(counting))).await.unwrap();
        Self { serving, registry, discoveries, refusals, probes }
    }

    pub(crate) fn address(&self) -> String {
        self.serving.addresses()[0].to_string()
    }

    pub(crate) fn discoveries(&self) -> usize {
        self.discoveries.load(Ordering::SeqCst)
    }

    /// How many registrations have asked for their host to be reached first.
    pub(crate) fn probes(&self) -> usize {
        self.probes.load(Ordering::SeqCst)
    }

    /// The next registrations are refused.
    pub(crate) fn refuse(&self, registrations: usize) {
        self.refusals.store(registrations, Ordering::SeqCst);
    }

    pub(crate) fn registry(&self) -> &RegistryService<Conn> {
        &self.registry
    }

    pub(crate) async fn stop(self) {
        self.registry.drain();
        self.serving.shutdown(Duration::ZERO).await;
    }

    pub(crate) async fn stop_in(self, grace: Duration) {
        self.registry.drain();
        self.serving.shutdown(grace).await;
    }

    /// A connection to it, in a session however slow a busy machine opens it: what has none can't withdraw.
    pub(crate) async fn client(&self) -> Client {
        Client::builder().timeout(LONG).session_timeout(LONG).connect(self.address()).await.unwrap()
    }

    pub(crate) async fn announce(&self, method: &str, place: impl Into<Place>) -> Provider {
        Provider::new(self.client().await).announce([method], place).await.unwrap()
    }
}

fn one_loop() -> Settings {
    Settings { loops: 1, ..Settings::default() }
}

/// A server whose one method `who` answers `name`.
pub(crate) async fn serve_who(name: &'static str, listen: &str) -> Server {
    let router = Router::new().method("who", move |(): ()| Ok(name));
    Server::builder().router(router).loops(1).listen(listen).start().await.unwrap()
}

pub(crate) fn host_of(server: &Server) -> Host {
    server.addresses()[0].to_socket_addr().unwrap().try_into().unwrap()
}

/// A port of this machine at which nobody listens.
pub(crate) fn dead_host(port: u16) -> Host {
    assert!(port < 7, "a port that only root could listen on, and does not");
    Host::new([127, 0, 0, 1].into(), port).unwrap()
}
