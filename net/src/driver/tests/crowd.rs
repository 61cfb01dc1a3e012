//! A connection in a crowd, whose turns are over before all is written.

use std::io::{self, IoSlice};
use std::task::Waker;

use callboard_common::Connection;
use tokio::io::{AsyncRead, AsyncWrite};

use super::*;

/// A peer that always has a request and takes all it gets.
struct Greedy {
    done: String,
    frame: Vec<u8>,
}

impl AsyncRead for Greedy {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.done.push('r');
        buf.put_slice(&self.frame);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Greedy {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.done.push('w');
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let all: Vec<u8> = bufs.iter().flat_map(|buf| buf.to_vec()).collect();
        self.poll_write(cx, &all)
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}

#[tokio::test]
async fn in_a_crowd_a_turn_that_was_cut_is_followed_by_one_that_writes_and_that_by_one_that_reads() {
    let turn = Turn::new(std::time::Instant::now(), Duration::ZERO);
    for (turn, expected) in [(turn.in_crowd(), "rwwrwwrww"), (turn, "rwrwrwrwrwrw")] {
        let limits = Limits::default();
        let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, true));
        let conn = Conn::new(Arc::clone(&shared), Ends::default());
        let stream = Greedy { done: String::new(), frame: frame(b"a", b"{}") };
        let mut driver = Driver::new(stream, Registration::new(conn.clone(), Arc::new(Echo::default())));
        conn.push(&conn.share(vec![b'x'; 4 << 20].into()), None).unwrap();
        let mut cx = Context::from_waker(Waker::noop());
        for _ in 0..6 {
            assert!(matches!(driver.advance(&mut cx, turn), Advanced::Part));
        }
        assert_eq!(driver.stream.done, expected);
    }
}
