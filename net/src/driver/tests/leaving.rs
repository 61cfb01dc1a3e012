//! How a connection that we made ends once it drains, and how a peer is told.

use std::io;
use std::sync::OnceLock;

use callboard_common::{Head, SendError};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::*;

const GRACE: Duration = Duration::from_secs(20);

/// A connection that we made.
fn ours(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Conn {
    let limits = Limits::default();
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, false));
    let conn = Conn::new(shared, Ends::default());
    tokio::spawn(Driver::new(stream, Registration::new(conn.clone(), Arc::new(Echo::default()))));
    conn
}

fn request(conn: &Conn) -> Result<u64, SendError> {
    conn.request(Head::new(MessageType::TopicRequest, b"1"), &TopicAnswer::ok())
}

#[tokio::test(start_paused = true)]
async fn one_that_we_made_refuses_what_would_not_leave_and_ends_by_the_peer_which_has_read_all() {
    let (mut peer, stream) = duplex(16);
    let conn = ours(stream);
    for _ in 0..100 {
        request(&conn).unwrap();
    }
    let queued = conn.outbox().end();
    conn.drain(GRACE);
    assert!(matches!(request(&conn), Err(SendError::Closed)));
    let mut heard = Vec::new();
    peer.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard.len() as u64, queued);
    tokio::time::sleep(GRACE / 2).await;
    assert!(!conn.is_closed(), "the peer may still read");
    peer.shutdown().await.unwrap();
    conn.closed().await;
    assert_eq!(conn.close_reason().unwrap(), "this side ends it");
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_room_in_one_that_drains_hears_at_once_that_there_will_be_none() {
    let (_peer, stream) = duplex(16);
    let conn = ours(stream);
    while request(&conn).is_ok() {}
    let waiting = tokio::spawn({
        let conn = conn.clone();
        async move { conn.room().await }
    });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let start = Instant::now();
    conn.drain(GRACE);
    assert!(matches!(waiting.await.unwrap(), Err(SendError::Closed)));
    assert_eq!(start.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_does_not_end_its_half_is_waited_for_up_to_the_grace() {
    let (mut peer, stream) = duplex(1024);
    let conn = ours(stream);
    let start = Instant::now();
    conn.drain(GRACE);
    let talks = async {
        loop {
            peer.write_all(&frame(b"a", b"{}")).await.unwrap();
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::select! {
        () = conn.closed() => {}
        () = talks => {}
    }
    assert_eq!(start.elapsed(), GRACE);
}

/// A socket over which the last word is said, and sending finished, as it is read or written to for the first time.
struct Finishes {
    stream: DuplexStream,
    conn: Arc<OnceLock<Conn>>,
    at: Option<While>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum While {
    Reading,
    Writing,
}

impl Finishes {
    fn does(&mut self, what: While) {
        if self.at.take_if(|at| *at == what).is_some() {
            let conn = self.conn.get().unwrap();
            request(conn).unwrap();
            conn.finish_sending();
        }
    }
}

impl AsyncRead for Finishes {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.does(While::Reading);
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Finishes {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.does(While::Writing);
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[tokio::test(start_paused = true)]
async fn who_finishes_sending_whatever_the_task_does_is_heard_to_the_last_word() {
    // Where little fits into the pipe, the last word waits for room in it.
    for (what, pipe_bytes) in [(While::Reading, 1024), (While::Writing, 1024), (While::Writing, 16)] {
        let (mut peer, stream) = duplex(pipe_bytes);
        let known = Arc::new(OnceLock::new());
        let conn = ours(Finishes { stream, conn: Arc::clone(&known), at: Some(what) });
        known.set(conn.clone()).unwrap();
        request(&conn).unwrap();
        let mut heard = Vec::new();
        let ends = tokio::time::timeout(GRACE, peer.read_to_end(&mut heard)).await;
        assert!(ends.is_ok(), "the peer is not told that no more will come: {what:?}");
        assert_eq!(heard.len(), 2 * request_bytes(), "{what:?}");
        assert!(!conn.is_closed(), "what the peer says is still read");
    }
}

/// A thread says its last word and finishes at any moment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_queued_before_sending_was_finished_reaches_the_peer() {
    for words in (1..=20).cycle().take(400) {
        let (mut peer, stream) = duplex(1 << 16);
        let conn = ours(stream);
        let saying = std::thread::spawn(move || {
            for _ in 0..words {
                request(&conn).unwrap();
            }
            conn.finish_sending();
        });
        let mut heard = Vec::new();
        let ends = tokio::time::timeout(GRACE, peer.read_to_end(&mut heard)).await;
        assert!(ends.is_ok(), "the peer is not told that no more will come");
        assert_eq!(heard.len(), words * request_bytes());
        saying.join().unwrap();
    }
}

/// Both ends of a connection; little fits into what the accepting one has not read.
async fn tcp() -> (TcpStream, TcpStream) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener: TcpListener = socket.listen(1).unwrap();
    let (connected, accepted) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
    (connected.unwrap(), accepted.unwrap().0)
}

#[tokio::test]
async fn a_peer_that_has_said_something_of_late_reads_all_the_same_what_was_sent_to_it() {
    let (stream, mut peer) = tcp().await;
    let conn = ours(stream);
    let sent = frame(b"a", &vec![b' '; 100_000]);
    conn.try_send(sent.clone().into()).unwrap();
    conn.flushed().await.unwrap();
    conn.drain(GRACE);
    peer.write_all(&frame(b"late", b"{}")).await.unwrap();
    // So long it has for ending.
    let _ = tokio::time::timeout(Duration::from_millis(100), conn.closed()).await;
    let mut heard = Vec::new();
    peer.read_to_end(&mut heard).await.unwrap();
    assert!(heard == sent, "{} bytes", heard.len());
    drop(peer);
    conn.closed().await;
}

/// A thread queues as fast as it can while the connection is drained.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_that_was_taken_until_a_drain_reaches_the_peer() {
    for _ in 0..50 {
        let (mut peer, stream) = duplex(1 << 16);
        let conn = ours(stream);
        let queueing = std::thread::spawn({
            let conn = conn.clone();
            move || {
                let mut taken = 0;
                loop {
                    match request(&conn) {
                        Ok(_) => taken += 1,
                        Err(SendError::Full) => std::thread::yield_now(),
                        Err(_) => return taken,
                    }
                }
            }
        });
        let mut bytes = vec![0; request_bytes()];
        peer.read_exact(&mut bytes).await.unwrap();
        conn.drain(GRACE);
        let mut rest = Vec::new();
        peer.read_to_end(&mut rest).await.unwrap();
        assert_eq!(1 + rest.len() / request_bytes(), queueing.join().unwrap());
    }
}

fn request_bytes() -> usize {
    frame(b"1", br#"{"rcode":0}"#).len()
}

/// Opens a session; before it answers, the server is told to stop.
struct Opens;

impl Handler<Conn> for Opens {
    fn handle(&self, conn: &Conn, message: Message) {
        if message.kind() != MessageType::SessionRequest {
            return conn.answer(message.id(), &TopicAnswer::ok()).unwrap();
        }
        std::thread::scope(|scope| scope.spawn(|| conn.drain(GRACE)).join().unwrap());
        assert!(conn.open_session(session()));
        conn.answer(message.id(), &TopicAnswer::ok()).unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn who_opens_a_session_while_a_drain_begins_is_told_behind_the_answer_and_then_refused() {
    let (mut peer, stream) = duplex(1024);
    let limits = Limits::default();
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
    let conn = Conn::new(shared, Ends::default());
    tokio::spawn(Driver::new(stream, Registration::new(conn.clone(), Arc::new(Opens))));
    let session = Recorder::new(0).message(16, b"session", b"{}").frame().to_vec();
    peer.write_all(&session).await.unwrap();
    assert_eq!(answer(&mut peer).await, b"session");
    let length = peer.read_u32().await.unwrap() as usize;
    assert_eq!(peer.read_u32().await.unwrap(), 21, "GOAWAY");
    peer.read_exact(&mut vec![0; length - 4]).await.unwrap();
    peer.write_all(&frame(b"late", b"{}")).await.unwrap();
    let mut refused = Vec::new();
    peer.shutdown().await.unwrap();
    peer.read_to_end(&mut refused).await.unwrap();
    let text = String::from_utf8_lossy(&refused);
    assert!(text.contains("late{\"rcode\":22"), "{text}");
}
