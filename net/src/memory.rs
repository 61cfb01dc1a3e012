use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{DuplexStream, duplex};
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::{Address, Ends, Transport};

/// Streams within one process, without a socket: for tests, which can choose how few bytes fit into a pipe.
///
/// Clones share their listeners. Nothing in it needs a reactor, so its time may be paused.
#[derive(Clone, Debug)]
pub struct Memory {
    pipe_bytes: usize,
    listeners: Arc<Mutex<HashMap<Address, Sender<DuplexStream>>>>,
}

/// Pipes that wait to be accepted.
const BACKLOG: usize = 64;

impl Memory {
    /// Pipes that hold so many bytes in each direction.
    pub fn new(pipe_bytes: usize) -> Self {
        Self { pipe_bytes, listeners: Arc::default() }
    }
}

/// A listener of a [`Memory`].
#[derive(Debug)]
pub struct MemoryListener(tokio::sync::Mutex<Receiver<DuplexStream>>);

impl Transport for Memory {
    type Bound = MemoryListener;
    type Listener = MemoryListener;
    type Accepted = DuplexStream;
    type Stream = DuplexStream;

    async fn bind(&self, address: &Address) -> io::Result<(MemoryListener, Address)> {
        let (sender, receiver) = channel(BACKLOG);
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        if listeners.get(address).is_some_and(|listener| !listener.is_closed()) {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        listeners.insert(address.clone(), sender);
        Ok((MemoryListener(tokio::sync::Mutex::new(receiver)), address.clone()))
    }

    fn listen(&self, bound: MemoryListener) -> io::Result<MemoryListener> {
        Ok(bound)
    }

    async fn accept(&self, listener: &MemoryListener) -> io::Result<(DuplexStream, Ends)> {
        let accepted = listener.0.lock().await.recv().await;
        // This transport holds a sender itself, so the channel can't end while it is listened on.
        let stream = accepted.ok_or(io::ErrorKind::BrokenPipe)?;
        Ok((stream, Ends { peer: "memory".to_owned(), local: None }))
    }

    fn adopt(&self, accepted: DuplexStream) -> io::Result<DuplexStream> {
        Ok(accepted)
    }

    async fn connect(&self, address: &Address) -> io::Result<(DuplexStream, Ends)> {
        let listener = self.listeners.lock().unwrap_or_else(PoisonError::into_inner).get(address).cloned();
        let (near, far) = duplex(self.pipe_bytes);
        let refused = io::ErrorKind::ConnectionRefused;
        listener.ok_or(refused)?.send(far).await.map_err(|_| refused)?;
        Ok((near, Ends { peer: address.to_string(), local: None }))
    }
}
