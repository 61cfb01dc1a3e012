//! Peers that always have something to say.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::Waker;

use callboard_common::Dispatcher;

use super::*;

/// Always has whole frames to read, which nobody answers; takes so many bytes, then none.
struct Flood {
    frames: Vec<u8>,
    at: usize,
    takes: usize,
}

impl AsyncRead for Flood {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let part = &this.frames[this.at..];
        let bytes = part.len().min(buf.remaining());
        buf.put_slice(&part[..bytes]);
        this.at = (this.at + bytes) % this.frames.len();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Flood {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let bytes = buf.len().min(self.takes);
        self.takes -= bytes;
        if bytes == 0 { Poll::Pending } else { Poll::Ready(Ok(bytes)) }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// A connection of a peer that floods, and its task.
fn flooded(takes: usize) -> (Conn, Driver<Flood, LengthValue, Dispatcher>) {
    let limits = Limits::default();
    let conn =
        Conn::new(Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true)), Ends::default());
    let stream = Flood { frames: Recorder::new(0).message(3, b"", b"").frame().repeat(10_000), at: 0, takes };
    (conn.clone(), Driver::new(stream, Registration::new(conn, Arc::new(Dispatcher::new()))))
}

/// The same with its task running.
fn flood(takes: usize) -> Conn {
    let (conn, driver) = flooded(takes);
    tokio::spawn(driver);
    conn
}

#[tokio::test]
async fn a_subscriber_that_floods_and_reads_nothing_holds_no_publisher() {
    // One message above what is held for a moment, and enough of them for the outbox to be more than half full.
    for (messages, bytes) in [(1, 2 << 20), (3, 15 << 20)] {
        let conn = flood(0);
        let publisher = Conn::new(Arc::clone(conn.shared()), Ends::default());
        let message = conn.share(vec![b'x'; bytes].into());
        (0..messages).for_each(|_| conn.push(&message, Some(&publisher)).unwrap());
        assert!(!publisher.may_read());
        let freed = async {
            while !publisher.may_read() {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), freed).await.expect("the publisher is held for ever");
        conn.end("the test is over");
    }
}

#[tokio::test]
async fn a_drain_ends_in_its_time_though_the_peer_floods() {
    let conn = flood(usize::MAX);
    conn.drain(Duration::from_millis(200));
    tokio::time::timeout(Duration::from_secs(20), conn.closed()).await.expect("200 ms of grace");
}

#[tokio::test]
async fn who_sends_the_least_of_frames_leaves_others_of_its_loop_their_turn() {
    let (conn, driver) = flooded(usize::MAX);
    let mut driver = pin!(driver);
    let mut before = 0;
    for _ in 0..20 {
        assert!(driver.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        let frames = conn.shared().snapshot().frames_in;
        // A read's worth of them is handled as a whole.
        assert!(frames - before < FRAMES + 6_000, "{} in one turn", frames - before);
        before = frames;
    }
    assert!(before > 10 * FRAMES);
}

/// Reads answers without end, and fails to write.
struct Torn(Flood, Arc<AtomicBool>);

impl AsyncRead for Torn {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Torn {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        self.1.store(true, Relaxed);
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

/// Each message is an answer that wakes a task.
struct Woken;

impl Handler<Conn> for Woken {
    fn handle(&self, conn: &Conn, _message: Message) {
        conn.woke();
    }
}

#[tokio::test]
async fn a_client_that_can_write_no_more_ends_in_its_time_though_answers_flood() {
    let limits = Limits::default();
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, false));
    let conn = Conn::new(shared, Ends::default());
    let frames = Recorder::new(0).message(1, b"", b"").frame().repeat(10_000);
    let tried = Arc::default();
    let stream = Torn(Flood { frames, at: 0, takes: 0 }, Arc::clone(&tried));
    tokio::spawn(Driver::new(stream, Registration::new(conn.clone(), Arc::new(Woken))));
    conn.try_send(frame(b"1", b"").into()).unwrap();
    tokio::time::timeout(Duration::from_secs(20), conn.closed()).await.expect("a second is given to answers");
    assert!(tried.load(Relaxed));
}
