//! Latencies of this process, recorded by thread, so that recording never waits for another thread.
use std::cell::RefCell;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;

/// The percentiles of a reported latency curve.
pub const CURVE: [f64; 9] = [10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.9, 99.99];

const LONGEST_NS: u64 = 120_000_000_000;

type Shared = Arc<Mutex<Histogram<u64>>>;

static ALL: Mutex<Vec<Shared>> = Mutex::new(Vec::new());
thread_local! { static MINE: RefCell<Option<Shared>> = const { RefCell::new(None) }; }

/// Records nanoseconds in this thread's histogram.
#[inline]
pub fn record_ns(ns: u64) {
    MINE.with_borrow_mut(|mine| lock(mine.get_or_insert_with(enlist)).saturating_record(ns.max(1)));
}

/// The histogram of all threads together.
pub fn merged() -> Histogram<u64> {
    let mut sum = empty();
    for one in lock(&ALL).iter() {
        sum += &*lock(one);
    }
    sum
}

pub(crate) fn us(histogram: &Histogram<u64>, percentile: f64) -> f64 {
    if histogram.is_empty() {
        return 0.0;
    }
    round_us(histogram.value_at_percentile(percentile))
}

pub(crate) fn max_us(histogram: &Histogram<u64>) -> f64 {
    if histogram.is_empty() { 0.0 } else { round_us(histogram.max()) }
}

/// Pairs of percentile and microseconds.
pub(crate) fn curve(histogram: &Histogram<u64>) -> Vec<(f64, f64)> {
    if histogram.is_empty() {
        return Vec::new();
    }
    CURVE.iter().map(|&percentile| (percentile, us(histogram, percentile))).collect()
}

pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn enlist() -> Shared {
    let mine = Shared::new(Mutex::new(empty()));
    lock(&ALL).push(Arc::clone(&mine));
    mine
}

#[expect(clippy::expect_used, reason = "the bounds are constants that the histogram allows")]
fn empty() -> Histogram<u64> {
    Histogram::new_with_bounds(1, LONGEST_NS, 3).expect("bounds in order")
}

#[expect(clippy::cast_precision_loss, reason = "a latency is far below 2^52 ns")]
fn round_us(ns: u64) -> f64 {
    (ns as f64 / 100.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_and_has_every_point() {
        let mut histogram = empty();
        for ns in (1..=10_000).map(|i| i * 1_000) {
            histogram.record(ns).unwrap();
        }
        let curve = curve(&histogram);
        assert_eq!(curve.iter().map(|p| p.0).collect::<Vec<_>>(), CURVE);
        assert!(curve.is_sorted_by(|a, b| a.1 <= b.1));
        assert!((curve[2].1 - 5_000.0).abs() < 10.0, "{curve:?}");
    }

    #[test]
    fn nothing_recorded_is_nothing_told() {
        assert!(curve(&empty()).is_empty());
        assert!(us(&empty(), 99.0).abs() < f64::EPSILON);
    }

    #[test]
    fn threads_are_merged() {
        std::thread::spawn(|| record_ns(5)).join().unwrap();
        record_ns(7);
        assert!(merged().len() >= 2);
    }
}
