use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};

use callboard_common::{Handler, Message};

/// Dropping it says that the center ends.
#[derive(Debug, Default)]
pub(crate) struct Ending(Arc<AtomicBool>);

/// A registry that forgets nobody once its center ends.
///
/// The connections of an ending center close one after the other. Each that is a provider's would be told to the
/// watchers that are still there as OFFLINE, and these would no longer call a provider that is as well as before.
#[derive(Debug)]
pub(crate) struct UntilEnding<H> {
    registry: H,
    ending: Arc<AtomicBool>,
}

impl Ending {
    pub(crate) fn ends<H>(&self, registry: H) -> UntilEnding<H> {
        UntilEnding { registry, ending: Arc::clone(&self.0) }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

impl<C, H: Handler<C>> Handler<C> for UntilEnding<H> {
    fn handle(&self, conn: &C, message: Message) {
        self.registry.handle(conn, message);
    }

    fn closed(&self, conn: &C) {
        if !self.ending.load(SeqCst) {
            self.registry.closed(conn);
        }
    }
}

#[cfg(test)]
mod tests {
    use callboard_common::Recorder;
    use callboard_registry::{RegistryLimits, RegistryService};

    use super::*;

    #[test]
    fn watchers_are_not_told_of_providers_that_an_ending_center_loses() {
        let registration = br#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":7071}}"#;
        for (ends, told) in [(false, 1), (true, 0)] {
            let ending = Ending::default();
            let registry = ending.ends(RegistryService::new(RegistryLimits::default()));
            let (provider, watcher) = (Recorder::new(1), Recorder::new(2));
            registry.handle(&provider, provider.message(4, b"1", registration));
            registry.handle(&watcher, watcher.message(4, b"2", br#"{"method":"add","optype":1}"#));
            watcher.take();
            if ends {
                drop(ending);
            }
            registry.closed(&provider);
            assert_eq!(watcher.take().len(), told, "ends: {ends}");
        }
    }
}
