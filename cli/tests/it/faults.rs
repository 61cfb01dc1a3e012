//! Parts that are killed, and parts that stand still.

use std::time::{Duration, Instant};

use callboard_client::{Client, ClientState, Reconnect};
use callboard_net::Address;
use callboard_pubsub::{Subscription, Topics};
use callboard_registry::{Caller, Notices};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio_stream::StreamExt;

use crate::stage::{PATIENCE, Program, callboard, provider};

/// A caller in the test's process, which hears who provides `add`.
pub(crate) struct Watcher {
    pub(crate) runtime: Runtime,
    pub(crate) caller: Caller,
    notices: Notices,
}

impl Watcher {
    pub(crate) fn new(center: &str) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let soon = Reconnect { longest: Duration::from_millis(200), ..Reconnect::default() };
        let builder = Caller::builder().timeout(PATIENCE).reconnect(soon);
        let caller = runtime.block_on(builder.connect(center)).unwrap();
        let notices = caller.notices();
        runtime.block_on(caller.hosts("add")).unwrap();
        Self { runtime, caller, notices }
    }

    /// The next provider of `add` that comes (`true`) or goes.
    pub(crate) fn change(&mut self) -> (String, bool) {
        let next = async { tokio::time::timeout(PATIENCE, self.notices.next()).await };
        let notice = self.runtime.block_on(next).unwrap().unwrap();
        assert_eq!(&*notice.method, "add");
        (format!("tcp://{}", notice.host), notice.online)
    }

    /// Calls `add` so often; each is answered.
    pub(crate) fn calls(&self, times: i64) {
        for number in 0..times {
            let pair = json!({"num1": number, "num2": 1});
            assert_eq!(self.runtime.block_on(self.caller.call::<i64>("add", &pair)).unwrap(), number + 1);
        }
    }

    /// Waits until the center is taken for dead.
    fn loses_the_center(&self) {
        let mut states = self.caller.center().states();
        let lost = async { while !matches!(states.next().await.unwrap(), ClientState::Lost { .. }) {} };
        self.runtime.block_on(async { tokio::time::timeout(PATIENCE, lost).await }).unwrap();
    }

    fn knows(&self, providers: usize) -> bool {
        self.runtime.block_on(self.caller.hosts("add")).unwrap().len() == providers
    }
}

/// A center with these settings, by their variables.
pub(crate) fn center_with(listen: &str, settings: &[(&str, &str)]) -> (Program, String) {
    let mut command = callboard(&["center", "--listen", listen]);
    command.envs(settings.iter().copied());
    let mut center = Program::spawn(command);
    let address = center.address();
    (center, address)
}

/// Half a second in all: a quarter of an interval is added at most.
const EAGER: [(&str, &str); 2] = [("CALLBOARD_PROVIDER_HEARTBEAT_MS", "100"), ("CALLBOARD_PROVIDER_DEAD_MS", "400")];
const ANY: &str = "127.0.0.1:0";

#[test]
fn a_provider_that_is_killed_is_told_offline_and_calls_go_to_the_others() {
    let (_center, center) = center_with(ANY, &[]);
    let ((killed, at), (_other, other_at)) = (provider(&center), provider(&center));
    let mut watcher = Watcher::new(&center);
    watcher.calls(4);
    killed.signal("KILL");
    assert_eq!(watcher.change(), (at, false));
    watcher.calls(20);
    let left = watcher.runtime.block_on(watcher.caller.hosts("add")).unwrap();
    assert_eq!(left.iter().map(|host| format!("tcp://{host}")).collect::<Vec<_>>(), [other_at]);
}

#[test]
fn a_provider_that_stands_still_is_told_offline_and_online_again_when_it_goes_on() {
    for settings in [&EAGER[..], &[]] {
        let (_center, center) = center_with(ANY, settings);
        let ((still, at), (_other, _)) = (provider(&center), provider(&center));
        let mut watcher = Watcher::new(&center);
        watcher.calls(4);
        let began = Instant::now();
        still.signal("STOP");
        assert_eq!(watcher.change(), (at.clone(), false));
        println!("told offline after {:?} with {settings:?}", began.elapsed());
        watcher.calls(20);
        still.signal("CONT");
        assert_eq!(watcher.change(), (at, true));
        watcher.calls(20);
    }
}

#[test]
fn calls_go_on_while_the_center_stands_still_and_all_is_right_when_it_goes_on() {
    let (program, center) = center_with(ANY, &[("CALLBOARD_HEARTBEAT_MS", "100"), ("CALLBOARD_DEAD_MS", "1000")]);
    let (_provider, at) = provider(&center);
    let watcher = Watcher::new(&center);
    watcher.calls(4);
    program.signal("STOP");
    watcher.calls(100);
    watcher.loses_the_center();
    watcher.calls(100);
    program.signal("CONT");
    let (runtime, client) = (&watcher.runtime, watcher.caller.center());
    runtime.block_on(async { tokio::time::timeout(PATIENCE, client.online()).await }).unwrap().unwrap();
    assert_eq!(runtime.block_on(watcher.caller.hosts("sleep")).unwrap().len(), 1, "it asks the center again");
    let (_late, late_at) = provider(&center);
    let mut watcher = watcher;
    while watcher.change() != (late_at.clone(), true) {}
    let deadline = Instant::now() + PATIENCE;
    while !watcher.knows(2) {
        assert!(Instant::now() < deadline, "{at} is known no more");
    }
    watcher.calls(20);
}

#[test]
fn all_is_whole_again_after_the_center_was_killed_and_started_again() {
    // A Unix socket's path is not taken by others meanwhile.
    let folder = tempfile::tempdir().unwrap();
    let path = format!("unix://{}", folder.path().join("center").display());
    let (killed, address) = center_with(&path, &[]);
    let (_provider, _) = provider(&address);
    let watcher = Watcher::new(&address);
    let runtime = &watcher.runtime;
    let address: Address = address.parse().unwrap();
    let client = runtime.block_on(Client::connect(address.to_string())).unwrap();
    let topics = Topics::new(&client);
    runtime.block_on(topics.create("news")).unwrap();
    let mut news = runtime.block_on(Subscription::open(&client, "news")).unwrap();

    killed.signal("KILL");
    killed.end();
    watcher.calls(20);
    let (_again, _) = center_with(&path, &[]);
    runtime.block_on(async { tokio::time::timeout(PATIENCE, client.online()).await }).unwrap().unwrap();
    runtime.block_on(topics.publish("news", "back")).unwrap();
    let heard = async {
        loop {
            match news.next().await.unwrap() {
                Ok(message) if message.text() == "back" => return,
                _ => {}
            }
        }
    };
    runtime.block_on(async { tokio::time::timeout(PATIENCE, heard).await }).unwrap();
    // A caller that never knew it finds the provider: it has registered again.
    let fresh = runtime.block_on(Caller::connect(address.to_string())).unwrap();
    runtime.block_on(fresh.wait_for_provider("add", PATIENCE)).unwrap();
    watcher.calls(20);
}
