use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// What many threads count together: each in a place of its own, so that none waits until another core gives it up.
#[derive(Debug, Default)]
pub(crate) struct Count([Place; PLACES]);

/// Alone in two lines of a cache, which some processors fetch together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Place(AtomicU64);

/// A power of two. Threads beyond so many share them.
const PLACES: usize = 16;

static NEXT: AtomicUsize = AtomicUsize::new(0);

thread_local! {
    /// Which of them is this thread's.
    static MINE: Cell<usize> = Cell::new(NEXT.fetch_add(1, Relaxed) % PLACES);
}

impl Count {
    pub(crate) fn add(&self) {
        // A thread that ends has none any more.
        let mine = MINE.try_with(Cell::get).unwrap_or_default();
        if let Some(Place(count)) = self.0.get(mine) {
            count.fetch_add(1, Relaxed);
        }
    }

    /// Of all.
    pub(crate) fn sum(&self) -> u64 {
        self.0.iter().map(|Place(count)| count.load(Relaxed)).sum()
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn what_threads_have_counted_is_the_sum_however_many_there_are() {
        let count = Count::default();
        thread::scope(|scope| {
            for _ in 0..3 * PLACES {
                scope.spawn(|| (0..1000).for_each(|_| count.add()));
            }
        });
        assert_eq!(count.sum(), 3 * PLACES as u64 * 1000);
        assert!(count.0.iter().filter(|Place(count)| count.load(Relaxed) > 0).count() > 1, "they share the work");
    }
}
