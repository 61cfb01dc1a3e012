use std::cell::Cell;
use std::io;
use std::thread;

use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

use crate::lane;

/// One thread that runs a current-thread runtime: every connection that is dealt to it lives here for its whole life.
#[derive(Debug)]
pub(crate) struct EventLoop {
    handle: Handle,
    /// Dropping it stops the loop.
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

/// The loops of one server; connections are dealt out to them in turn.
#[derive(Debug)]
pub(crate) struct EventLoopGroup {
    loops: Vec<EventLoop>,
    /// In place of loops: the runtime of whoever started the server.
    here: Option<Handle>,
}

thread_local! {
    /// Frames that this thread has handled since it last slept.
    static HANDLED: Cell<u64> = const { Cell::new(0) };
}

/// So many frames were handled on this thread.
pub(crate) fn handled(frames: u64) {
    HANDLED.set(HANDLED.get() + frames);
}

/// A loop that was woken for a single frame lets others on its core run before it sleeps. A caller that sends one
/// request at a time then often has the next one ready, with no sleep and no wake-up between. Under load loops go to
/// sleep at once: they are woken for many frames.
fn before_sleep() {
    if HANDLED.take() == 1 {
        thread::yield_now();
    }
    lane::rest();
}

impl EventLoop {
    fn start(number: usize, core: Option<core_affinity::CoreId>) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().on_thread_park(before_sleep).build()?;
        let handle = runtime.handle().clone();
        let (stop, mut stopping) = oneshot::channel::<()>();
        let (ended, stopped) = oneshot::channel();
        thread::Builder::new().name(format!("callboard-{number}")).spawn(move || {
            if core.is_some_and(|core| !core_affinity::set_for_current(core)) {
                tracing::warn!("event loop {number} could not be pinned to a core");
            }
            lane::open();
            runtime.spawn(lane::conduct());
            // An error here means that the sender was dropped, which stops the loop as well.
            let _ = runtime.block_on(&mut stopping);
            // Blocking handlers may still run; nobody waits for them.
            runtime.shutdown_background();
            let _ = ended.send(());
        })?;
        Ok(Self { handle, stop, stopped })
    }
}

impl EventLoopGroup {
    /// `loops` threads, at least one; pinned to the cores in turn if wished.
    pub(crate) fn start(loops: usize, pin: bool) -> io::Result<Self> {
        let cores = if pin { core_affinity::get_core_ids().unwrap_or_default() } else { Vec::new() };
        let mut cores = cores.into_iter().cycle();
        let loops = (0..loops.max(1)).map(|number| EventLoop::start(number, cores.next()));
        Ok(Self { loops: loops.collect::<io::Result<_>>()?, here: None })
    }

    /// No loops: all is driven on the current runtime.
    pub(crate) fn here() -> Self {
        Self { loops: Vec::new(), here: Some(Handle::current()) }
    }

    /// The loops, in the order in which connections and listeners are dealt out to them.
    pub(crate) fn handles(&self) -> Vec<Handle> {
        self.here.iter().chain(self.loops.iter().map(|each| &each.handle)).cloned().collect()
    }

    /// Stops all loops, drops their tasks and waits until each has ended.
    pub(crate) async fn stop(self) {
        let (stops, ends): (Vec<_>, Vec<_>) = self.loops.into_iter().map(|each| (each.stop, each.stopped)).unzip();
        drop(stops);
        for end in ends {
            // An error means that the thread is gone already.
            let _ = end.await;
        }
    }
}
