//! A topic's load: one publisher process and one process with all subscribers, which account for every message.
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;

use crate::histogram::{curve, max_us, merged, record_ns, us};
use crate::usage::{now_ns, sampler, sum_kb};
use crate::{Opt, print};

/// Phase of a message published before the measured window.
pub const WARM: u8 = 0;
/// Phase of a message that counts.
pub const MEASURE: u8 = 1;
/// Phase of the mark after the last message.
pub const END: u8 = 2;

const HEADER: usize = 24;
/// Subscribers are taken for cut off when none has got a message for so long.
const STALLED: Duration = Duration::from_secs(4);
/// They are given up when messages still come after so long.
const LONGEST: Duration = Duration::from_mins(1);

/// Writes a message's header: when it was published, its phase, its sequence number; 8 bytes each.
///
/// # Panics
/// If the buffer is shorter than 24 bytes.
pub fn fill(message: &mut [u8], published_ns: u64, phase: u8, sequence: u64) {
    let (header, _) = message.split_first_chunk_mut::<HEADER>().unwrap_or_else(|| panic!("no room for the header"));
    let fields = [published_ns, u64::from(phase), sequence];
    for (bytes, field) in header.chunks_exact_mut(8).zip(fields) {
        bytes.copy_from_slice(&field.to_le_bytes());
    }
}

#[inline]
fn header(message: &[u8]) -> Option<[u64; 3]> {
    let field = |at: usize| Some(u64::from_le_bytes(*message.get(at..)?.first_chunk()?));
    Some([field(0)?, field(8)?, field(16)?])
}

/// What all subscribers of this process have got.
#[derive(Debug)]
pub struct SubShared {
    latency: bool,
    /// Subscribers that saw the end mark.
    pub ended: AtomicU64,
    total: AtomicU64,
    measured: AtomicU64,
    last: AtomicU64,
    reordered: AtomicU64,
}

impl SubShared {
    /// Latency is measured at a fixed rate only: at full speed it would tell the length of the queues.
    pub fn new(opt: &Opt) -> Arc<Self> {
        Arc::new(Self {
            latency: opt.rate > 0,
            ended: AtomicU64::new(0),
            total: AtomicU64::new(0),
            measured: AtomicU64::new(0),
            last: AtomicU64::new(0),
            reordered: AtomicU64::new(0),
        })
    }

    /// The account of one more subscriber.
    pub fn meter(self: &Arc<Self>) -> SubMeter {
        SubMeter { shared: Arc::clone(self), total: 0, fresh: 0, last_sequence: None, done: false }
    }

    /// Waits until every subscriber saw the end mark, or nothing has moved for long (one was cut off), or they were
    /// given up, then prints.
    pub async fn finish(self: Arc<Self>, opt: &Opt) -> Result<()> {
        let settled = tokio::time::timeout(LONGEST, self.settle(opt.subs as u64)).await.is_ok();
        let latency = merged();
        print(&json!({
            "settled": settled,
            "delivered": self.measured.load(Relaxed),
            "last_ns": self.last.load(Relaxed),
            "ended": self.ended.load(Relaxed),
            "reordered": self.reordered.load(Relaxed),
            "p50_us": us(&latency, 50.0),
            "p99_us": us(&latency, 99.0),
            "p999_us": us(&latency, 99.9),
            "max_us": max_us(&latency),
            "curve": curve(&latency),
        }))
    }

    async fn settle(&self, subscribers: u64) {
        let (mut seen, mut moved) = (0, Instant::now());
        while self.ended.load(Relaxed) < subscribers {
            let total = self.total.load(Relaxed);
            if total != seen {
                (seen, moved) = (total, Instant::now());
            }
            if seen > 0 && moved.elapsed() > STALLED {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// What one subscriber has got; cheap per message, it tells the shared account at times.
#[derive(Debug)]
pub struct SubMeter {
    shared: Arc<SubShared>,
    total: u64,
    fresh: u64,
    last_sequence: Option<u64>,
    done: bool,
}

impl SubMeter {
    /// Accounts one message. False: this was the end mark.
    #[inline]
    pub fn on(&mut self, message: &[u8]) -> bool {
        self.total += 1;
        let Some([published_ns, phase, sequence]) = header(message) else { return true };
        if phase == u64::from(END) {
            self.end();
            return false;
        }
        if phase == u64::from(MEASURE) {
            self.measure(published_ns, sequence);
        } else if self.total.is_multiple_of(256) {
            self.flush();
        }
        true
    }

    /// Tells the shared account; also to be called when a subscriber's stream ends.
    pub fn flush(&mut self) {
        if self.fresh > 0 {
            self.shared.measured.fetch_add(std::mem::take(&mut self.fresh), Relaxed);
            self.shared.last.fetch_max(now_ns(), Relaxed);
        }
        self.shared.total.fetch_add(std::mem::take(&mut self.total), Relaxed);
    }

    #[inline]
    fn measure(&mut self, published_ns: u64, sequence: u64) {
        if self.last_sequence.is_some_and(|last| sequence <= last) {
            self.shared.reordered.fetch_add(1, Relaxed);
        }
        self.last_sequence = Some(sequence);
        self.fresh += 1;
        if self.shared.latency {
            record_ns(now_ns().saturating_sub(published_ns));
        }
        if self.fresh >= 64 {
            self.flush();
        }
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.done, true) {
            self.flush();
            self.shared.ended.fetch_add(1, Relaxed);
        }
    }
}

/// A peer's publishing side.
pub trait Publisher {
    /// Returns when the peer has taken the message, by its own flow control.
    fn send(&mut self, message: &[u8]) -> impl Future<Output = Result<()>>;
    /// Returns when everything has left this process.
    fn flush(&mut self) -> impl Future<Output = Result<()>>;
}

/// Warms up, publishes for the measured time, prints the result, then sends end marks. To be run on the main thread,
/// which is no worker of the runtime, since a fixed rate blocks it.
pub async fn publish(opt: &Opt, publisher: &mut impl Publisher) -> Result<()> {
    rustix::thread::set_current_timer_slack(NonZeroU64::new(1))?;
    let start = Instant::now() + Duration::from_secs_f64(opt.warm);
    let end = start + Duration::from_secs_f64(opt.secs);
    let used = sampler(opt, start, end);
    let message = vec![b'x'; opt.size.max(HEADER)];
    let mut load = Load { publisher, message, start, end, sequence: 0, measured: 0, first: None };
    let stopped = if opt.rate == 0 { load.full_speed().await? } else { load.paced(opt.rate).await? };
    load.publisher.flush().await?;
    let flushed = Instant::now();
    let used = used.join().ok().context("the sampler panicked")?;
    let (first, first_ns) = load.first.context("nothing was measured")?;
    let secs = (stopped - first).as_secs_f64();
    print(&json!({
        "published": load.measured,
        "first_ns": first_ns,
        "pub_secs": secs,
        "published_s": rate(load.measured, secs),
        "flush_s": (flushed - stopped.min(flushed)).as_secs_f64(),
        "srv_cpu_s": used.server,
        "pub_cpu_s": used.own,
        "sub_cpu_s": used.helpers,
        "srv_hwm_kb": sum_kb(&opt.pids, "VmHWM"),
        "irq_s": used.interrupts,
        "softirqd_s": used.softirqd,
        "foreign_cpu": used.foreign() / opt.secs,
        "strangers": used.who(opt.secs),
        "steal_s": used.stolen,
    }))?;
    load.end_marks().await?;
    // The connection stays: closing it with unread input would reset it and lose what the broker has not read yet. The
    // runner ends this process after the subscribers'.
    tokio::time::sleep(LONGEST).await;
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "a count of messages is far below 2^52")]
fn rate(count: u64, secs: f64) -> f64 {
    count as f64 / secs
}

struct Load<'a, P> {
    publisher: &'a mut P,
    message: Vec<u8>,
    start: Instant,
    end: Instant,
    sequence: u64,
    measured: u64,
    first: Option<(Instant, u64)>,
}

impl<P: Publisher> Load<'_, P> {
    async fn full_speed(&mut self) -> Result<Instant> {
        let mut phase = WARM;
        loop {
            // The clock costs as much as some publishers' send.
            if self.sequence.is_multiple_of(16) {
                let now = Instant::now();
                if phase == WARM && now >= self.start {
                    phase = MEASURE;
                    self.first = Some((now, now_ns()));
                    // A publisher that was held back for long still gets a window of some length.
                    self.end = self.end.max(now + (self.end - self.start) / 2);
                }
                if now >= self.end {
                    return Ok(now);
                }
            }
            self.send(0, phase).await?;
        }
    }

    async fn paced(&mut self, rate: u64) -> Result<Instant> {
        let (base, base_ns) = (Instant::now(), now_ns());
        loop {
            let offset_ns = self.sequence * 1_000_000_000 / rate;
            let due = base + Duration::from_nanos(offset_ns);
            if due >= self.end {
                return Ok(self.end);
            }
            // A message that is late is as old as its schedule says, lest a stall hide its own cost.
            let mut published_ns = base_ns + offset_ns;
            let now = Instant::now();
            if now < due {
                sleep(due - now);
                published_ns = now_ns();
            }
            let phase = if due >= self.start { MEASURE } else { WARM };
            if phase == MEASURE && self.first.is_none() {
                self.first = Some((due, base_ns + offset_ns));
            }
            self.send(published_ns, phase).await?;
        }
    }

    async fn send(&mut self, published_ns: u64, phase: u8) -> Result<()> {
        fill(&mut self.message, published_ns, phase, self.sequence);
        self.publisher.send(&self.message).await?;
        self.sequence += 1;
        self.measured += u64::from(phase == MEASURE);
        Ok(())
    }

    /// More than one, since a peer that loses messages may lose the mark.
    async fn end_marks(&mut self) -> Result<()> {
        for _ in 0..3 {
            self.send(now_ns(), END).await?;
            self.publisher.flush().await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(phase: u8, sequence: u64) -> Vec<u8> {
        let mut message = vec![0; 64];
        fill(&mut message, 7, phase, sequence);
        message
    }

    fn shared() -> Arc<SubShared> {
        Arc::new(SubShared {
            latency: false,
            ended: 0.into(),
            total: 0.into(),
            measured: 0.into(),
            last: 0.into(),
            reordered: 0.into(),
        })
    }

    #[test]
    fn a_header_reads_as_it_was_written() {
        assert_eq!(header(&message(MEASURE, 99)), Some([7, 1, 99]));
        assert_eq!(header(&[0; 23]), None);
    }

    #[test]
    fn only_the_measured_phase_counts_and_the_end_counts_once() {
        let shared = shared();
        let mut meter = shared.meter();
        assert!(meter.on(&message(WARM, 0)));
        assert!(meter.on(&message(MEASURE, 1)));
        assert!(meter.on(&message(MEASURE, 2)));
        assert!(!meter.on(&message(END, 3)));
        assert!(!meter.on(&message(END, 4)));
        assert_eq!((shared.measured.load(Relaxed), shared.ended.load(Relaxed)), (2, 1));
        assert_eq!(shared.reordered.load(Relaxed), 0);
    }

    #[test]
    fn a_message_out_of_order_is_told() {
        let shared = shared();
        let mut meter = shared.meter();
        for sequence in [0, 2, 1, 3] {
            meter.on(&message(MEASURE, sequence));
        }
        assert_eq!(shared.reordered.load(Relaxed), 1);
    }
}
