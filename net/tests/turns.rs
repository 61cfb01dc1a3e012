//! Connections of one event loop take turns: who floods it delays others for a moment only.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests fail by panicking")]

use std::io::Write as _;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use callboard_common::{Handler, Message, Recorder};
use callboard_net::{Conn, Settings, serve};

/// Works on each frame for a while, and tells how many there were before one that has an id.
#[derive(Debug)]
struct Work {
    frames: AtomicU64,
    told: Mutex<Sender<u64>>,
}

const WORK: Duration = Duration::from_micros(50);
/// After so many frames the flood is under way.
const UNDER_WAY: u64 = 5_000;

impl Handler<Conn> for Work {
    fn handle(&self, _conn: &Conn, message: Message) {
        let before = self.frames.fetch_add(1, Relaxed);
        if !message.id().is_empty() || before == UNDER_WAY {
            // The test may be over.
            let _ = self.told.lock().unwrap().send(before);
        }
        let began = Instant::now();
        while began.elapsed() < WORK {
            std::hint::spin_loop();
        }
    }

    fn closed(&self, _conn: &Conn) {}
}

#[tokio::test]
async fn who_floods_a_loop_delays_others_by_a_turn() {
    for floods in [1, 40] {
        delayed_beside(floods).await;
    }
}

async fn delayed_beside(floods: usize) {
    let (told, hears) = channel();
    let work = Arc::new(Work { frames: AtomicU64::new(0), told: Mutex::new(told) });
    let settings = Settings { loops: 1, ..Settings::default() };
    let serving = serve(&["127.0.0.1:0".parse().unwrap()], settings, Arc::clone(&work)).await.unwrap();
    let address = serving.addresses()[0].to_string();
    let address = address.trim_start_matches("tcp://").to_owned();
    let (is_over, mut quiet) = (Arc::new(AtomicBool::new(false)), TcpStream::connect(&address).unwrap());
    let flood = {
        let (is_over, frames) = (Arc::clone(&is_over), Recorder::new(0).message(3, b"", b"").frame().repeat(5_000));
        thread::spawn(move || {
            let mut streams: Vec<_> = (0..floods).map(|_| TcpStream::connect(&address).unwrap()).collect();
            // The loop may end first. Far more fits into each of them than is handled until its turn comes again.
            while !is_over.load(Relaxed) && streams.iter_mut().all(|stream| stream.write_all(&frames).is_ok()) {}
        })
    };
    assert_eq!(hears.recv_timeout(Duration::from_mins(1)), Ok(UNDER_WAY));
    let frame = Recorder::new(0).message(3, b"1", b"").frame().clone();
    let mut waited: Vec<u64> = (0..25)
        .map(|_| {
            let before = work.frames.load(Relaxed);
            quiet.write_all(&frame).unwrap();
            hears.recv_timeout(Duration::from_secs(20)).unwrap() - before
        })
        // So long it is new.
        .skip(4)
        .collect();
    is_over.store(true, Relaxed);
    drop(serving);
    flood.join().unwrap();
    waited.sort_unstable();
    // A turn is ten of them; the other thread may be kept from running for as long as some.
    assert!(waited[10] < 200, "so many frames of {floods} others came first: {waited:?}");
}
