use std::io::Write;
use std::os::unix::net::UnixStream as StdStream;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc;

use callboard_net::{allow_blocking, may_block};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::task::yield_now;

use super::*;

/// So long a test waits for what must happen, however loaded the machine is.
const GENEROUS: Duration = Duration::from_secs(30);
/// Longer than any test: what happens then was not waited for.
const NEVER: Duration = Duration::from_hours(1);

/// One whose thread has let go.
fn lent(linger: Duration) -> Arc<Background> {
    let background = Background::start(linger).unwrap();
    let begun = Instant::now();
    while !background.lock().lent {
        background.drive_for(yield_now());
        assert!(begun.elapsed() < GENEROUS, "calls that follow each other closely drive themselves");
    }
    background
}

/// A socket whose events only the runtime's driver sees, and its other end.
fn socket(background: &Background) -> (UnixStream, StdStream) {
    let (ours, theirs) = StdStream::pair().unwrap();
    ours.set_nonblocking(true).unwrap();
    let _within = background.runtime.enter();
    (UnixStream::from_std(ours).unwrap(), theirs)
}

/// A task that tells when a byte has come.
fn listen(background: &Background) -> (mpsc::Receiver<u8>, StdStream) {
    let (mut ours, theirs) = socket(background);
    let (told, heard) = mpsc::channel();
    background.runtime.spawn(async move { told.send(ours.read_u8().await.unwrap()).unwrap() });
    (heard, theirs)
}

fn until(reached: impl Fn() -> bool) {
    let begun = Instant::now();
    while !reached() {
        assert!(begun.elapsed() < GENEROUS);
        thread::yield_now();
    }
}

#[test]
fn the_thread_in_the_background_drives_again_when_no_more_calls_come() {
    for _ in 0..20 {
        let background = lent(LINGER);
        let (heard, mut socket) = listen(&background);
        socket.write_all(b"x").unwrap();
        assert_eq!(heard.recv_timeout(GENEROUS).unwrap(), b'x');
        until(|| !background.lock().lent);
    }
}

#[test]
fn calls_that_end_before_they_wait_keep_nobody_from_driving() {
    let background = lent(LINGER);
    let (heard, mut socket) = listen(&background);
    socket.write_all(b"x").unwrap();
    let begun = Instant::now();
    while heard.try_recv().is_err() {
        background.drive_for(async {});
        assert!(begun.elapsed() < GENEROUS);
    }
}

#[test]
fn who_waits_and_does_not_drive_need_not_wait_for_a_look() {
    let background = lent(NEVER);
    let (mut ours, mut theirs) = socket(&background);
    let (told, heard) = mpsc::channel();
    let waiting = Arc::clone(&background);
    thread::spawn(move || told.send(waiting.block_on(ours.read_u8()).unwrap()));
    theirs.write_all(b"x").unwrap();
    assert_eq!(heard.recv_timeout(GENEROUS).unwrap(), b'x');
    assert!(!background.lock().lent);
}

#[test]
fn what_is_ready_at_once_asks_nobody_to_drive() {
    let background = lent(NEVER);
    assert_eq!(background.poll_first(async { 1 }), 1);
    assert!(background.lock().lent);
    let two = background.poll_first(async {
        yield_now().await;
        2
    });
    assert_eq!(two, 2);
    assert!(!background.lock().lent);
}

#[test]
fn a_caller_that_leaves_hands_the_runtime_to_one_that_waits() {
    let background = lent(NEVER);
    let mut threads = Vec::new();
    for _ in 0..4 {
        let (mut ours, theirs) = socket(&background);
        let (told, heard) = mpsc::channel();
        let waiting = Arc::clone(&background);
        threads.push((theirs, heard));
        thread::spawn(move || told.send(waiting.drive_for(ours.read_u8()).unwrap()));
        until(|| background.lock().callers == threads.len());
    }
    // The first drives; each time it is the one that drives that leaves, or one that waits.
    for (theirs, heard) in &mut threads {
        theirs.write_all(b"x").unwrap();
        assert_eq!(heard.recv_timeout(GENEROUS).unwrap(), b'x');
    }
    until(|| background.lock().callers == 0);
    assert!(background.lock().lent);
}

#[test]
fn many_callers_and_others_at_once_all_get_what_they_wait_for() {
    let background = Background::start(LINGER).unwrap();
    thread::scope(|scope| {
        for number in 0..8 {
            let background = &background;
            scope.spawn(move || {
                let (mut ours, mut theirs) = socket(background);
                for _ in 0..200 {
                    theirs.write_all(b"x").unwrap();
                    let read = ours.read_u8();
                    let byte = if number == 0 { background.block_on(read) } else { background.drive_for(read) };
                    assert_eq!(byte.unwrap(), b'x');
                }
            });
        }
    });
    assert_eq!(background.lock().callers, 0);
}

#[test]
fn a_panic_leaves_the_runtime_to_the_next_caller() {
    let background = lent(NEVER);
    for waits in [false, true] {
        let call = async move {
            if waits {
                yield_now().await;
            }
            panic!("a caller's own fault");
        };
        let caught: thread::Result<()> = catch_unwind(AssertUnwindSafe(|| background.drive_for(call)));
        assert!(caught.is_err());
        assert_eq!(background.lock().callers, 0);
    }
    let (mut ours, mut theirs) = socket(&background);
    theirs.write_all(b"x").unwrap();
    assert_eq!(background.drive_for(ours.read_u8()).unwrap(), b'x');
    assert!(background.lock().lent);
}

#[test]
fn what_runs_on_a_thread_that_drives_may_not_block_even_where_the_thread_may() {
    let background = lent(NEVER);
    let (told, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let look = async move { told.send((thread::current().id(), may_block())).unwrap() };
    background.runtime.spawn(look);
    let (on, may) = allow_blocking(|| background.drive_for(heard.recv())).unwrap();
    assert_eq!(on, thread::current().id());
    assert!(!may);
    assert!(may_block());
}

#[test]
fn a_look_before_sleep_that_is_in_vain_is_taken_less_and_less_often() {
    let mut spin = Spin::default();
    let mut looks = |missed: bool, calls: usize| {
        let mut look = || {
            let is_due = spin.is_due();
            if is_due {
                spin.ended(missed);
            }
            is_due
        };
        (0..calls).filter(|_| look()).count()
    };
    assert_eq!(looks(false, 10), 10);
    assert_eq!(looks(true, 1 + 2 + 4 + 8 + 16 + 32 + 64), 7);
    assert_eq!(looks(true, 640), 10);
    assert_eq!(looks(false, 10), 10);
}
