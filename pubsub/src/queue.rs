use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::backlog::{Backlog, Bounds, End, Mark, Next};
use crate::bundle::Bundle;

/// Between the connection's task and whoever takes the messages of one subscription: the shell around [`Backlog`].
///
/// What it gives up it hands out, so that wakers run and guards are dropped without a lock.
pub(crate) struct Queue {
    state: Mutex<State>,
}

struct State {
    backlog: Backlog<Bundle>,
    hold: Option<Hold>,
    waker: Option<Waker>,
}

/// While it lives, the connection is not read.
pub(crate) type Hold = Box<dyn Send>;

impl Queue {
    pub(crate) const fn new(bounds: Bounds) -> Self {
        Self { state: Mutex::new(State { backlog: Backlog::new(bounds), hold: None, waker: None }) }
    }

    /// Takes more messages; gives who is to be woken. `hold` keeps more from coming.
    pub(crate) fn push(&self, bundle: Bundle, hold: impl FnOnce() -> Hold) -> Freed {
        let mut state = self.lock();
        state.backlog.push(bundle);
        if state.backlog.is_behind() && state.hold.is_none() {
            state.hold = Some(hold());
        }
        state.freed()
    }

    /// Lays something between what has come and what comes.
    pub(crate) fn mark(&self, mark: Mark) -> Freed {
        let mut state = self.lock();
        // What is held is the connection before; the next one is to be held as well.
        let ended = if matches!(mark, Mark::Reached(_)) { None } else { state.hold.take() };
        state.backlog.mark(mark);
        let freed = state.freed();
        Freed { hold: ended.or(freed.hold), ..freed }
    }

    /// Nothing more comes.
    pub(crate) fn end(&self, end: End) -> Freed {
        let mut state = self.lock();
        state.backlog.end(end);
        state.freed()
    }

    /// Drops what waits.
    pub(crate) fn clear(&self) -> Freed {
        let mut state = self.lock();
        state.backlog.clear();
        state.freed()
    }

    /// What comes next: the messages in order, then the end, again and again.
    pub(crate) fn poll(&self, cx: &Context<'_>) -> Poll<Result<Next<Bundle>, End>> {
        let mut state = self.lock();
        let next = state.backlog.pop();
        if next.is_none() {
            state.waker = Some(cx.waker().clone());
        }
        let caught_up = if state.backlog.is_behind() { None } else { state.hold.take() };
        drop(state);
        drop(caught_up);
        next.map_or(Poll::Pending, Poll::Ready)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn freed(&mut self) -> Freed {
        let hold = if self.backlog.is_behind() { None } else { self.hold.take() };
        Freed { waker: self.waker.take(), hold }
    }
}

impl fmt::Debug for Queue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queue").field("backlog", &self.lock().backlog).finish_non_exhaustive()
    }
}

/// What a change set free; to be let go without a lock.
#[must_use]
pub(crate) struct Freed {
    waker: Option<Waker>,
    hold: Option<Hold>,
}

impl Freed {
    pub(crate) fn is_nothing(&self) -> bool {
        self.waker.is_none() && self.hold.is_none()
    }

    pub(crate) fn let_go(self) {
        drop(self.hold);
        if let Some(waker) = self.waker {
            waker.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    use std::task::Wake;

    use super::*;
    use crate::bundle::bundle_of;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, SeqCst);
        }
    }

    fn news() -> Bundle {
        bundle_of(&["1"])
    }

    fn texts(polled: Poll<Result<Next<Bundle>, End>>) -> String {
        let Poll::Ready(Ok(Next::Messages(bundle))) = polled else { panic!("{polled:?}") };
        bundle.map(|news| news.text().into_owned()).collect()
    }

    #[test]
    fn a_push_wakes_the_one_who_waits_once() {
        let (queue, woken) = (Queue::new(Bounds::default()), Arc::new(Count::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        assert!(queue.poll(&cx).is_pending());
        queue.push(news(), || Box::new(())).let_go();
        assert!(queue.push(news(), || Box::new(())).is_nothing());
        assert_eq!(woken.0.load(SeqCst), 1);
        assert_eq!([texts(queue.poll(&cx)), texts(queue.poll(&cx))], ["1", "1"]);
        assert!(queue.poll(&cx).is_pending());
        queue.end(End::Disconnected).let_go();
        assert_eq!(woken.0.load(SeqCst), 2);
        assert!(matches!(queue.poll(&cx), Poll::Ready(Err(End::Disconnected))));
    }

    #[test]
    fn what_does_not_fit_as_a_whole_is_heard_up_to_the_bound() {
        let bundle = bundle_of(&["1", "2", "3", "4"].map(|digit| digit.repeat(100)).each_ref().map(|value| &**value));
        let cx = Context::from_waker(Waker::noop());
        let queue = Queue::new(Bounds { max_bytes: bundle.bytes() - 1, ..Bounds::default() });
        queue.push(bundle, || Box::new(())).let_go();
        for expected in ["1", "2"] {
            assert_eq!(texts(queue.poll(&cx)), expected.repeat(100));
        }
        assert!(matches!(queue.poll(&cx), Poll::Ready(Err(End::TooSlow(_)))));
    }

    #[test]
    fn it_holds_once_and_lets_go_when_it_has_caught_up_or_ended() {
        let counted = Arc::new(());
        let hold = || -> Hold { Box::new(Arc::clone(&counted)) };
        let bounds = Bounds { hold_messages: 2, ..Bounds::default() };
        let cx = Context::from_waker(Waker::noop());
        let queue = Queue::new(bounds);
        for expected in [1, 1, 2, 2] {
            queue.push(news(), hold).let_go();
            assert_eq!(Arc::strong_count(&counted), expected);
        }
        for expected in [2, 2, 1] {
            assert!(queue.poll(&cx).is_ready());
            assert_eq!(Arc::strong_count(&counted), expected);
        }
        let ways: [fn(&Queue); 2] = [|queue| queue.end(End::TopicRemoved).let_go(), |queue| queue.clear().let_go()];
        for way in ways {
            let queue = Queue::new(bounds);
            (0..3).for_each(|_| queue.push(news(), hold).let_go());
            assert_eq!(Arc::strong_count(&counted), 2);
            way(&queue);
            assert_eq!(Arc::strong_count(&counted), 1);
        }
    }

    #[test]
    fn the_connection_that_takes_the_place_of_one_that_was_held_is_held_too() {
        let (queue, taken) = (Queue::new(Bounds { hold_messages: 2, ..Bounds::default() }), AtomicUsize::new(0));
        let hold = || -> Hold {
            taken.fetch_add(1, SeqCst);
            Box::new(())
        };
        (0..3).for_each(|_| queue.push(news(), hold).let_go());
        queue.mark(Mark::Reached(3)).let_go();
        queue.push(news(), hold).let_go();
        assert_eq!(taken.load(SeqCst), 1, "the same connection");
        queue.mark(Mark::Lost).let_go();
        queue.push(news(), hold).let_go();
        assert_eq!(taken.load(SeqCst), 2, "another one");
    }
}
