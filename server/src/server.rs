use std::time::Duration;

use callboard_net::{Address, MetricsSnapshot, Serving, Stopped};

use crate::builder::ServerBuilder;
use crate::{KeptMetrics, Router};

/// A program's methods, served on any number of addresses.
///
/// Dropping it stops it at once; [`shutdown`](Self::shutdown) lets it finish what it has begun.
///
/// ```
/// use callboard_server::{Router, Server};
///
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let router = Router::new().method("double", |n: i64| Ok(n * 2));
/// let server = Server::builder().router(router).listen("127.0.0.1:0").start().await?;
/// println!("listening on {}", server.addresses()[0]);
/// server.shutdown().await;
/// # Ok::<(), callboard_server::StartError>(()) })?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct Server {
    serving: Serving,
    router: Router,
    instance: String,
    grace: Duration,
}

impl Server {
    /// A server that is still to be told what and where to serve.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    pub(crate) const fn new(serving: Serving, router: Router, instance: String, grace: Duration) -> Self {
        Self { serving, router, instance, grace }
    }

    /// The addresses that are listened on, with the ports that the system chose.
    pub fn addresses(&self) -> &[Address] {
        self.serving.addresses()
    }

    /// Which run of the server this is, as its sessions tell it: a UUID.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Connections open now.
    pub fn connections(&self) -> usize {
        self.serving.connections()
    }

    /// What was counted so far.
    pub fn metrics(&self) -> MetricsSnapshot {
        self.serving.metrics()
    }

    /// What was counted of calls under idempotency keys so far, and what is remembered of them.
    pub fn kept_metrics(&self) -> KeptMetrics {
        self.router.kept_metrics()
    }

    /// How long [`shutdown`](Self::shutdown) waits for the calls in flight.
    pub const fn grace(&self) -> Duration {
        self.grace
    }

    /// How many calls wait for their answers; those that are answered in place never do.
    pub fn in_flight(&self) -> usize {
        self.serving.in_flight()
    }

    /// Waits until each event loop has taken a turn: what a watchdog wants to know. One that is stuck keeps it waiting.
    ///
    /// # Cancel safety
    /// It only watches.
    pub async fn responds(&self) {
        self.serving.responds().await;
    }

    /// Accepts no more connections, tells session peers that it goes (GOAWAY), refuses the calls that still come
    /// (UNAVAILABLE, not executed: a caller tries elsewhere), lets those in flight be answered for up to the builder's
    /// [`grace`](ServerBuilder::grace), then stops. Says how many were.
    ///
    /// # Cancel safety
    /// Dropping the future stops the server at once.
    pub async fn shutdown(self) -> Stopped {
        self.serving.shutdown(self.grace).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;
    use tokio::sync::Notify;
    use tokio::time::timeout;

    use super::*;
    use crate::{Method, StartError, Type};

    /// A peer that knows the frame and nothing else.
    struct Peer(TcpStream);

    impl Peer {
        async fn connect(server: &Server) -> Self {
            Self(TcpStream::connect(server.addresses()[0].to_socket_addr().unwrap()).await.unwrap())
        }

        async fn send(&mut self, mtype: u32, id: u8, body: &str) {
            let length = u32::try_from(9 + body.len()).unwrap();
            let mut frame = [length, mtype, 1].map(u32::to_be_bytes).concat();
            frame.push(id);
            frame.extend_from_slice(body.as_bytes());
            self.0.write_all(&frame).await.unwrap();
        }

        async fn receive(&mut self) -> (u8, u8, String) {
            let read = async {
                let length = self.0.read_u32().await.unwrap();
                let mut rest = vec![0; length as usize];
                self.0.read_exact(&mut rest).await.unwrap();
                rest
            };
            let rest = timeout(Duration::from_secs(20), read).await.unwrap();
            (rest[3], rest[8], String::from_utf8(rest[9..].to_vec()).unwrap())
        }
    }

    /// `wait` waits until it is let go.
    fn router(go: &Arc<Notify>) -> Router {
        let go = Arc::clone(go);
        let add = Method::new("add").param("n", Type::Array);
        Router::new()
            .method(add, |p: std::collections::HashMap<String, Vec<i64>>| Ok(p.values().flatten().sum::<i64>()))
            .method_async("wait", move |(): ()| {
                let go = Arc::clone(&go);
                async move {
                    go.notified().await;
                    Ok(())
                }
            })
    }

    #[tokio::test]
    async fn calls_over_a_socket_with_and_without_a_session() {
        let go = Arc::new(Notify::new());
        let builder = Server::builder().router(router(&go)).loops(1).in_flight(1).listen("127.0.0.1:0");
        let server = builder.start().await.unwrap();
        let (mut old, mut new) = (Peer::connect(&server).await, Peer::connect(&server).await);
        new.send(16, b's', r#"{"version":2}"#).await;
        let (kind, id, text) = new.receive().await;
        assert_eq!((kind, id, text.contains(server.instance())), (17, b's', true), "{text}");
        for peer in [&mut old, &mut new] {
            peer.send(0, b'a', r#"{"method":"add","parameters":{"n":[1,2]}}"#).await;
            assert_eq!(peer.receive().await, (1, b'a', r#"{"rcode":0,"result":3}"#.into()));
        }
        new.send(0, b'1', r#"{"method":"wait"}"#).await;
        new.send(0, b'2', r#"{"method":"wait","parameters":7}"#).await;
        let (_, id, text) = new.receive().await;
        assert_eq!((id, &text[..11]), (b'2', r#"{"rcode":17"#));
        assert!(text.ends_with(r#""executed":"no","data":{"limit":"in_flight","bound":1}}}"#), "{text}");
        go.notify_one();
        assert_eq!(new.receive().await, (1, b'1', r#"{"rcode":0,"result":null}"#.into()));
        server.shutdown().await;
    }

    #[tokio::test]
    async fn a_stop_lets_the_calls_in_flight_be_answered() {
        let go = Arc::new(Notify::new());
        let builder = Server::builder().router(router(&go)).grace(Duration::from_secs(20));
        let server = builder.start().await.unwrap();
        let mut peer = Peer::connect(&server).await;
        peer.send(0, b'w', r#"{"method":"wait"}"#).await;
        peer.send(0, b'a', r#"{"method":"add","parameters":{"n":[]}}"#).await;
        assert_eq!(peer.receive().await.1, b'a', "both have come");
        assert_eq!(server.in_flight(), 1);
        let (stopped, answer) = tokio::join!(server.shutdown(), async {
            go.notify_one();
            peer.receive().await
        });
        assert_eq!(answer, (1, b'w', r#"{"rcode":0,"result":{}}"#.into()));
        assert_eq!((stopped.finished, stopped.cut), (1, 0));
    }

    #[tokio::test]
    async fn calls_that_outlast_the_grace_are_cut_and_counted() {
        let builder = Server::builder().router(router(&Arc::default())).grace(Duration::from_millis(50));
        let server = builder.start().await.unwrap();
        let mut peer = Peer::connect(&server).await;
        for id in *b"ab" {
            peer.send(0, id, r#"{"method":"wait"}"#).await;
        }
        peer.send(0, b'c', r#"{"method":"add","parameters":{"n":[]}}"#).await;
        assert_eq!(peer.receive().await.1, b'c', "all have come");
        let stopped = timeout(Duration::from_secs(20), server.shutdown()).await.unwrap();
        assert_eq!((stopped.finished, stopped.cut), (0, 2));
    }

    #[tokio::test]
    async fn a_loop_that_is_stuck_does_not_respond() {
        let (let_go, stuck) = std::sync::mpsc::channel::<()>();
        let stuck = std::sync::Mutex::new(stuck);
        let router = Router::new().method("stick", move |(): ()| {
            let _ = stuck.lock().unwrap().recv();
            Ok(())
        });
        let server = Server::builder().router(router).loops(2).start().await.unwrap();
        timeout(Duration::from_secs(20), server.responds()).await.unwrap();
        let mut peer = Peer::connect(&server).await;
        peer.send(0, b's', r#"{"method":"stick"}"#).await;
        // Each watch that ends shows only that the call has not come yet.
        while timeout(Duration::from_millis(200), server.responds()).await.is_ok() {}
        drop(let_go);
        timeout(Duration::from_secs(20), server.responds()).await.unwrap();
        assert_eq!(peer.receive().await.1, b's');
    }

    #[tokio::test]
    async fn why_a_server_does_not_start() {
        let taken = Server::builder().start().await.unwrap();
        let here = &taken.addresses()[0];
        let rows = [
            (Server::builder().listen("http://x"), "\"http://x\" is not an address"),
            (Server::builder().listen(here), "can't listen on tcp://127.0.0.1:"),
            (Server::builder().max_frame_bytes(1 << 20).queue_bytes(1), "queue_bytes (1) must be at least"),
            (Server::builder().max_connections(0), "max_connections must be at least 1"),
        ];
        for (builder, why) in rows {
            let error: StartError = builder.start().await.unwrap_err();
            assert!(error.to_string().starts_with(why), "{error}");
        }
        assert_eq!(taken.connections(), 0);
    }
}
