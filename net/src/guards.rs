use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use callboard_common::{LengthValue, Protocol};

use crate::Conn;
use crate::shared_state::SharedState;

/// While it lives, its connection is not read (unless an answer is expected on it); see [`Conn::hold_reading`].
pub struct ReadHold<P: Protocol = LengthValue>(pub(crate) Conn<P>);

/// A frame that counts once against the total, however many outboxes hold it.
pub(crate) struct Counted<P: Protocol> {
    frame: Bytes,
    shared: Arc<SharedState<P>>,
}

impl<P: Protocol> Counted<P> {
    pub(crate) fn new(frame: Bytes, shared: Arc<SharedState<P>>) -> Self {
        shared.about_to_queue(frame.len());
        shared.check_queued();
        Self { frame, shared }
    }
}

impl<P: Protocol> AsRef<[u8]> for Counted<P> {
    fn as_ref(&self) -> &[u8] {
        &self.frame
    }
}

impl<P: Protocol> Drop for Counted<P> {
    fn drop(&mut self) {
        self.shared.unqueued(self.frame.len());
    }
}

impl<P: Protocol> Drop for ReadHold<P> {
    fn drop(&mut self) {
        self.0.end_hold();
    }
}

impl<P: Protocol> fmt::Debug for ReadHold<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReadHold({:?})", self.0)
    }
}
