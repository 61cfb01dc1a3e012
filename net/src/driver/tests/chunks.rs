//! What one read brought is answered in parts.
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use tokio::sync::Notify;

use super::*;

/// A stream that keeps the sizes of what it was given to write.
struct Watched {
    stream: DuplexStream,
    writes: Arc<Mutex<Vec<usize>>>,
}

impl AsyncRead for Watched {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        self.writes.lock().unwrap().push(buf.len());
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Requests of calls, and answers to some.
fn calls(kind: u32, count: usize) -> Vec<u8> {
    (0..count).flat_map(|_| Recorder::new(0).message(kind, b"a", b"{}").frame().to_vec()).collect()
}

/// In how many writes each batch of calls is answered, and with how many answers each.
#[tokio::test(start_paused = true)]
async fn a_large_batch_is_answered_in_parts_and_a_small_one_at_once() {
    for (batch, expected) in [(1, vec![1]), (16, vec![16]), (17, vec![8, 9]), (33, vec![8, 8, 8, 9])] {
        let (mut peer, stream) = duplex(64 << 10);
        let writes = Arc::default();
        let shared = Arc::new(SharedState::new(LengthValue::new(1 << 20), Limits::default(), true));
        let conn = Conn::new(Arc::clone(&shared), Ends::default());
        let registration = Registration::new(conn.clone(), Arc::new(Echo::default()));
        tokio::spawn(Driver::new(Watched { stream, writes: Arc::clone(&writes) }, registration));
        peer.write_all(&calls(0, batch)).await.unwrap();
        for _ in 0..batch {
            answer(&mut peer).await;
        }
        let writes = writes.lock().unwrap().clone();
        let one = writes.iter().sum::<usize>() / batch;
        assert_eq!(writes.iter().map(|bytes| bytes / one).collect::<Vec<_>>(), expected, "{batch} calls");
    }
}

/// Wakes a task with each answer.
#[derive(Default)]
struct Wakes {
    answers: AtomicUsize,
    task: Notify,
}

impl Handler<Conn> for Wakes {
    fn handle(&self, conn: &Conn, _message: Message) {
        self.answers.fetch_add(1, Relaxed);
        self.task.notify_one();
        conn.woke();
    }
}

#[tokio::test(start_paused = true)]
async fn who_was_woken_by_an_answer_runs_before_the_rest_of_a_large_batch_is_handed_on() {
    let (mut peer, ours) = duplex(64 << 10);
    let shared = Arc::new(SharedState::new(LengthValue::new(1 << 20), Limits::default(), false));
    let conn = Conn::new(Arc::clone(&shared), Ends::default());
    let wakes = Arc::new(Wakes::default());
    tokio::spawn(Driver::new(ours, Registration::new(conn, Arc::clone(&wakes))));
    let woken = tokio::spawn(async move {
        let mut seen = Vec::new();
        while seen.last().is_none_or(|answers| *answers < 33) {
            wakes.task.notified().await;
            seen.push(wakes.answers.load(Relaxed));
        }
        seen.dedup(); // two answers may have woken it twice
        seen
    });
    peer.write_all(&calls(1, 33)).await.unwrap();
    assert_eq!(woken.await.unwrap(), [8, 16, 24, 33]);
}
