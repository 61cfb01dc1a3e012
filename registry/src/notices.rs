use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::sync::broadcast;
use tokio_stream::Stream;
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;

use crate::Notice;

/// A stream of [`Notice`]s; it ends with the connection to the center.
///
/// It holds a bounded number of notices (1,024 unless set otherwise). Whoever reads more slowly than they come loses
/// the oldest; [`missed`](Self::missed) counts them, and then a fresh look at the list tells what is true now.
#[derive(Debug)]
pub struct Notices {
    /// `None`: the center was gone before the stream began.
    stream: Option<BroadcastStream<Notice>>,
    missed: u64,
}

impl Notices {
    pub(crate) fn new(receiver: Option<broadcast::Receiver<Notice>>) -> Self {
        Self { stream: receiver.map(BroadcastStream::new), missed: 0 }
    }

    /// How many notices were lost so far, since they were not read in time.
    pub const fn missed(&self) -> u64 {
        self.missed
    }
}

impl Stream for Notices {
    type Item = Notice;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Notice>> {
        loop {
            let Some(stream) = &mut self.stream else { return Poll::Ready(None) };
            match ready!(Pin::new(stream).poll_next(cx)) {
                Some(Ok(notice)) => return Poll::Ready(Some(notice)),
                Some(Err(BroadcastStreamRecvError::Lagged(lost))) => {
                    self.missed += lost;
                    tracing::warn!(lost, "notices were not read in time");
                }
                None => return Poll::Ready(None),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use callboard_common::Host;
    use tokio_stream::StreamExt;

    fn notice(port: u16) -> Notice {
        Notice::new("add", Host::new([127, 0, 0, 1].into(), port).unwrap(), true)
    }

    #[tokio::test]
    async fn a_slow_reader_learns_what_it_missed_and_goes_on() {
        let (sender, receiver) = broadcast::channel(2);
        let mut notices = Notices::new(Some(receiver));
        (1..=5).for_each(|port| drop(sender.send(notice(port))));
        assert_eq!(notices.next().await, Some(notice(4)));
        assert_eq!(notices.missed(), 3);
        drop(sender);
        assert_eq!(notices.next().await, Some(notice(5)));
        assert_eq!(notices.next().await, None);
        assert_eq!(Notices::new(None).next().await, None);
    }
}
