//! What another thread does while the connection's task writes.

use std::io;

use callboard_common::{Dispatcher, Head};

use super::*;

/// Takes all that is written; before it says so, another thread ends the connection.
struct Ending(Option<Conn>);

impl AsyncRead for Ending {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Ending {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        if let Some(conn) = self.0.take() {
            std::thread::spawn(move || conn.end("this program has closed it")).join().unwrap();
        }
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn a_request_that_the_socket_took_while_the_connection_was_ended_has_left() {
    let limits = Limits::default();
    let shared = Arc::new(SharedState::new(LengthValue::new(limits.max_frame_bytes), limits, false));
    let conn = Conn::new(shared, Ends::default());
    let begins_at = conn.request(Head::new(MessageType::TopicRequest, b"1"), &TopicAnswer::ok()).unwrap();
    let stream = Ending(Some(conn.clone()));
    Driver::new(stream, Registration::new(conn.clone(), Arc::new(Dispatcher::new()))).await;
    assert!(conn.is_closed());
    assert!(begins_at < conn.sent_bytes(), "it may have been executed");
}
