use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use callboard_net::spawn;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

/// A few futures that are awaited together, in the task that awaits them: each poll looks at all of them. For the layers
/// above, which ask several centers at the same time.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// use std::pin::Pin;
/// use callboard_client::Together;
/// let mut doubled: Together<Pin<Box<dyn Future<Output = i32>>>> = Together::default();
/// for number in [1, 2] {
///     doubled.push(Box::pin(async move { number * 2 }));
/// }
/// assert_eq!([doubled.next().await, doubled.next().await, doubled.next().await], [Some(2), Some(4), None]);
/// # }); Ok::<(), std::io::Error>(())
/// ```
#[derive(Debug)]
pub struct Together<F>(Vec<F>);

impl<F: Future + Unpin> Together<F> {
    /// One more.
    pub fn push(&mut self, future: F) {
        self.0.push(future);
    }

    /// Whether all have been given.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What one of them gives, the first in the order of their coming that is ready; `None` if all have been given.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub async fn next(&mut self) -> Option<F::Output> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The same, without waiting.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<F::Output>> {
        for index in 0..self.0.len() {
            let polled = self.0.get_mut(index).map(|future| Pin::new(future).poll(cx));
            if let Some(Poll::Ready(output)) = polled {
                drop(self.0.remove(index));
                return Poll::Ready(Some(output));
            }
        }
        if self.0.is_empty() { Poll::Ready(None) } else { Poll::Pending }
    }
}

impl<F> Default for Together<F> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<F> FromIterator<F> for Together<F> {
    fn from_iter<I: IntoIterator<Item = F>>(futures: I) -> Self {
        Self(futures.into_iter().collect())
    }
}

/// Awaits all of these together; gives what they give in their order. For the layers above.
///
/// ```
/// # tokio::runtime::Builder::new_current_thread().build()?.block_on(async {
/// let doubled = callboard_client::all_together([1, 2].map(|number| async move { number * 2 })).await;
/// assert_eq!(doubled, [2, 4]);
/// # }); Ok::<(), std::io::Error>(())
/// ```
///
/// # Cancel safety
/// Dropping the future drops them.
pub async fn all_together<F: Future>(futures: impl IntoIterator<Item = F>) -> Vec<F::Output> {
    most_together(futures, |_| false).await.into_iter().flatten().collect()
}

/// The same, but once one of them has given what `is_enough`, the others have half a second more: longer than a center takes
/// to answer that is there, and short for one who waits. What is not given by then is dropped, and `None`.
///
/// # Cancel safety
/// Dropping the future drops them.
pub async fn most_together<F: Future>(
    futures: impl IntoIterator<Item = F>,
    is_enough: impl Fn(&F::Output) -> bool,
) -> Vec<Option<F::Output>> {
    let placed = futures.into_iter().enumerate();
    let placed = placed.map(|(place, future)| Box::pin(async move { (place, future.await) }));
    let mut waiting: Together<_> = placed.collect();
    let mut outputs: Vec<_> = waiting.0.iter().map(|_| None).collect();
    let mut until = None;
    loop {
        let next = match until {
            None => waiting.next().await,
            Some(until) => timeout_at(until, waiting.next()).await.unwrap_or(None),
        };
        let Some((place, output)) = next else { return outputs };
        if is_enough(&output) {
            until.get_or_insert_with(|| Instant::now() + PATIENCE);
        }
        if let Some(known) = outputs.get_mut(place) {
            *known = Some(output);
        }
    }
}

const PATIENCE: Duration = Duration::from_millis(500);

/// A task that ends when this is dropped. It gives what the task gives, or `None` if that panicked or its runtime stopped.
#[derive(Debug)]
pub struct OwnTask<T>(JoinHandle<T>);

impl<T: Send + 'static> OwnTask<T> {
    /// Starts it on the current runtime.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn spawn(task: impl Future<Output = T> + Send + 'static) -> Self {
        Self(spawn(task))
    }
}

impl<T> Future for OwnTask<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.0).poll(cx).map(Result::ok)
    }
}

impl<T> Drop for OwnTask<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn each_is_given_when_it_is_ready() {
        let (first, second) = (oneshot::channel::<i32>(), oneshot::channel());
        let mut both: Together<_> = [first.1, second.1].into_iter().collect();
        second.0.send(2).unwrap();
        assert_eq!(both.next().await, Some(Ok(2)));
        let waiting = tokio::spawn(async move { (both.next().await, both.next().await, both.is_empty()) });
        tokio::task::yield_now().await;
        first.0.send(1).unwrap();
        assert_eq!(waiting.await.unwrap(), (Some(Ok(1)), None, true));
    }

    #[tokio::test(start_paused = true)]
    async fn once_there_is_enough_the_others_have_half_a_second() {
        let after = async |ms: u64| {
            tokio::time::sleep(Duration::from_millis(ms)).await;
            ms
        };
        let began = Instant::now();
        let most = most_together([5_000, 100, 550, 650, 20].map(after), |ms| *ms == 100).await;
        assert_eq!(most, [None, Some(100), Some(550), None, Some(20)]);
        assert_eq!(began.elapsed(), Duration::from_millis(600));
        assert_eq!(most_together([20, 10].map(after), |ms| *ms == 0).await, [Some(20), Some(10)]);
    }

    #[tokio::test]
    async fn a_task_ends_with_its_owner() {
        let (held, dropped) = oneshot::channel::<()>();
        let task = OwnTask::spawn(async move {
            let _held = held;
            std::future::pending::<()>().await;
        });
        drop(task);
        assert!(dropped.await.is_err());
        assert_eq!(OwnTask::spawn(async { 1 }).await, Some(1));
    }
}
