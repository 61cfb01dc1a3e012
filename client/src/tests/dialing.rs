//! Which of several addresses is connected to, and how long those may take that say nothing.

use std::io;
use std::sync::{Arc, Mutex};

use callboard_net::{Ends, Transport};
use tokio::io::{DuplexStream, duplex};
use tokio::time::Instant;

use super::*;
use crate::{Address, CallError, CallErrorKind, Connector};

/// What an address does.
#[derive(Clone, Copy)]
enum Does {
    /// It never takes a connection.
    Nothing,
    /// It takes each connection, and says nothing.
    Connects,
    /// It takes the first one, and says nothing, and then no other.
    ConnectsOnce,
}

/// An address, and after how many seconds it was tried.
type Tried = (usize, u64);

/// Addresses `host:0`, `host:1` and so on that do this, in paused time.
#[derive(Clone)]
struct Hosts {
    does: &'static [Does],
    began: Instant,
    tried: Arc<Mutex<Vec<Tried>>>,
    /// The peers' ends.
    taken: Arc<Mutex<Vec<DuplexStream>>>,
}

impl Hosts {
    fn new(does: &'static [Does]) -> Self {
        Self { does, began: Instant::now(), tried: Arc::default(), taken: Arc::default() }
    }

    fn addresses(&self) -> String {
        (0..self.does.len()).map(|place| format!("host:{place}")).collect::<Vec<_>>().join(",")
    }

    async fn connect(&self, mode: SessionMode) -> Result<Client, CallError> {
        self.connect_within(TIME, mode).await
    }

    async fn connect_within(&self, time: Duration, mode: SessionMode) -> Result<Client, CallError> {
        let settings = once().timeout(time).session(mode).session_timeout(PATIENCE).remember_v1(false);
        let settings = settings.deadlines_by_runtime(true).connector(Connector::over(self.clone()));
        settings.connect(self.addresses()).await
    }

    fn tried(&self) -> Vec<Tried> {
        self.tried.lock().unwrap().clone()
    }
}

impl Transport for Hosts {
    type Bound = ();
    type Listener = ();
    type Accepted = DuplexStream;
    type Stream = DuplexStream;

    async fn bind(&self, _: &Address) -> io::Result<((), Address)> {
        unreachable!("nobody listens")
    }

    fn listen(&self, (): ()) -> io::Result<()> {
        unreachable!("nobody listens")
    }

    async fn accept(&self, (): &()) -> io::Result<(DuplexStream, Ends)> {
        unreachable!("nobody listens")
    }

    fn adopt(&self, accepted: DuplexStream) -> io::Result<DuplexStream> {
        Ok(accepted)
    }

    async fn connect(&self, address: &Address) -> io::Result<(DuplexStream, Ends)> {
        let Address::Tcp { port, .. } = address else { unreachable!("they are hosts") };
        let place = usize::from(*port);
        let is_first = self.tried().iter().all(|(tried, _)| *tried != place);
        self.tried.lock().unwrap().push((place, self.began.elapsed().as_secs()));
        match self.does[place] {
            Does::Connects => {}
            Does::ConnectsOnce if is_first => {}
            Does::Nothing | Does::ConnectsOnce => std::future::pending().await,
        }
        let (ours, theirs) = duplex(1024);
        self.taken.lock().unwrap().push(theirs);
        Ok((ours, Ends { peer: address.to_string(), local: None }))
    }
}

const TIME: Duration = Duration::from_secs(6);
/// So long an answer is waited for where a session is offered.
const PATIENCE: Duration = Duration::from_secs(1);

#[tokio::test(start_paused = true)]
async fn addresses_that_say_nothing_share_one_time() {
    // What they do, and which are tried when.
    let rows: [(&[Does], &[Tried]); 4] = [
        (&[Does::Nothing], &[(0, 0)]),
        (&[Does::Nothing; 3], &[(0, 0), (1, 2), (2, 4)]),
        // Those that say nothing are asked again without a session, in what is left.
        (&[Does::ConnectsOnce; 3], &[(0, 0), (1, 1), (2, 2), (0, 3), (1, 5), (2, 6)]),
        (&[Does::ConnectsOnce, Does::Nothing, Does::ConnectsOnce], &[(0, 0), (1, 1), (2, 3), (0, 4), (2, 6)]),
    ];
    for (does, tried) in rows {
        let hosts = Hosts::new(does);
        let error = hosts.connect(SessionMode::Try).await.unwrap_err();
        assert!(matches!(error.kind(), CallErrorKind::Timeout), "{error}");
        assert_eq!(hosts.began.elapsed().as_secs(), TIME.as_secs(), "{:?}", hosts.tried());
        assert_eq!(hosts.tried(), tried);
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_v1_is_found_though_each_address_has_less_time_than_its_silence_takes() {
    let hosts = Hosts::new(&[Does::Nothing, Does::Connects, Does::Nothing, Does::Connects]);
    let client = hosts.connect_within(2 * PATIENCE, SessionMode::Try).await.unwrap();
    assert_eq!((client.has_session(), client.address().to_string()), (false, "tcp://host:1".to_owned()));
}

#[tokio::test(start_paused = true)]
async fn addresses_that_say_nothing_leave_time_for_the_one_that_answers() {
    let hosts = Hosts::new(&[Does::Nothing, Does::Nothing, Does::Connects]);
    let client = hosts.connect(SessionMode::Off).await.unwrap();
    assert_eq!(client.address().to_string(), "tcp://host:2");
    assert_eq!(hosts.tried(), [(0, 0), (1, 2), (2, 4)]);
}
