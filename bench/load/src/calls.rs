//! Calls in a closed loop: each caller makes its next call when the last one is answered.
use std::fmt::Display;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde::Serialize;

use crate::histogram::{curve, lock, max_us, merged, record_ns, us};
use crate::usage::{Used, sampler, sum_kb};
use crate::{Opt, print};

/// Measures calls within a window that follows a warm-up.
#[derive(Debug)]
pub struct Meter {
    start: Instant,
    end: Instant,
    used: Mutex<Option<JoinHandle<Used>>>,
    errors: AtomicU64,
    first_error: Mutex<Option<String>>,
}

impl Meter {
    /// Begins the warm-up now; the measured window follows it.
    pub fn start(opt: &Opt) -> Arc<Self> {
        let start = Instant::now() + Duration::from_secs_f64(opt.warm);
        let end = start + Duration::from_secs_f64(opt.secs);
        let used = Mutex::new(Some(sampler(opt, start, end)));
        Arc::new(Self { start, end, used, errors: AtomicU64::new(0), first_error: Mutex::new(None) })
    }

    /// Accounts a call made at `began` and answered at `ended`. False: the window is over, stop.
    #[inline]
    pub fn rec(&self, began: Instant, ended: Instant) -> bool {
        if ended >= self.end {
            return false;
        }
        if ended >= self.start {
            record_ns(u64::try_from((ended - began).as_nanos()).unwrap_or(u64::MAX));
        }
        true
    }

    /// Whether the window is over.
    pub fn over(&self) -> bool {
        Instant::now() >= self.end
    }

    /// Counts a failed call; the first one's message is kept.
    pub fn error(&self, error: impl Display) {
        self.errors.fetch_add(1, Relaxed);
        lock(&self.first_error).get_or_insert_with(|| error.to_string());
    }

    /// Prints the result.
    #[expect(clippy::cast_precision_loss, reason = "a count of calls is far below 2^52")]
    pub fn finish(&self, opt: &Opt) -> Result<()> {
        let sampler = lock(&self.used).take().context("finished twice")?;
        let used = sampler.join().ok().context("the sampler panicked")?;
        let latency = merged();
        let (calls, secs) = (latency.len(), (self.end - self.start).as_secs_f64());
        let per_100k = |cpu: f64| if calls == 0 { 0.0 } else { cpu * 1e5 / calls as f64 };
        print(&Outcome {
            n: calls,
            rps: calls as f64 / secs,
            p50_us: us(&latency, 50.0),
            p99_us: us(&latency, 99.0),
            p999_us: us(&latency, 99.9),
            max_us: max_us(&latency),
            srv_cpu_s: used.server,
            cli_cpu_s: used.own,
            srv_cpu_100k: per_100k(used.server),
            cli_cpu_100k: per_100k(used.own),
            srv_hwm_kb: sum_kb(&opt.pids, "VmHWM"),
            irq_s: used.interrupts,
            softirqd_s: used.softirqd,
            foreign_cpu: used.foreign() / secs,
            strangers: used.who(secs),
            steal_s: used.stolen,
            errors: self.errors.load(Relaxed),
            first_error: lock(&self.first_error).clone(),
            curve: curve(&latency),
        })
    }
}

#[derive(Serialize)]
struct Outcome<'a> {
    n: u64,
    rps: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    srv_cpu_s: f64,
    cli_cpu_s: f64,
    srv_cpu_100k: f64,
    cli_cpu_100k: f64,
    srv_hwm_kb: u64,
    irq_s: f64,
    softirqd_s: f64,
    foreign_cpu: f64,
    strangers: Vec<(&'a str, f64)>,
    steal_s: f64,
    errors: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_error: Option<String>,
    curve: Vec<(f64, f64)>,
}

/// Runs `$call`, an expression that gives `anyhow::Result<()>`, again and again until the meter's window is over; each
/// pass is one call. After an error it pauses, lest a dead server be hammered.
#[macro_export]
macro_rules! closed_loop {
    ($meter:expr, $call:expr) => {{
        let meter = $meter;
        let mut began = std::time::Instant::now();
        loop {
            let result: anyhow::Result<()> = $call;
            let ended = std::time::Instant::now();
            if let Err(error) = result {
                meter.error(format!("{error:#}"));
                if meter.over() {
                    break;
                }
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
                began = std::time::Instant::now();
                continue;
            }
            if !meter.rec(began, ended) {
                break;
            }
            began = ended;
        }
    }};
}

/// Loads clients for the meter's window, each with `opt.outstanding` chains of calls, and prints the result. `$add` and
/// `$echo` are functions of a `&mut` client that make one call each and check its answer: of two numbers, or of a text.
/// `$spawn` starts a chain, so that a peer whose futures are not `Send` can be driven too. `$text`, if given, makes of
/// the text what the peer's calls take, once for each chain: a peer that counts references to it need not copy it.
#[macro_export]
macro_rules! chains {
    ($opt:expr, $clients:expr, $spawn:path, $add:expr, $echo:expr) => {
        $crate::chains!($opt, $clients, $spawn, $add, $echo, std::convert::identity)
    };
    ($opt:expr, $clients:expr, $spawn:path, $add:expr, $echo:expr, $text:expr) => {{
        let opt: &$crate::Opt = $opt;
        let meter = $crate::Meter::start(opt);
        let size = $crate::echo_size(&opt.method);
        let mut chains = Vec::new();
        for client in $clients {
            for num2 in (0_i64..).take(opt.outstanding) {
                let (mut client, meter) = (client.clone(), meter.clone());
                chains.push($spawn(async move {
                    if size == 0 {
                        let mut num1 = 0_i64;
                        $crate::closed_loop!(&meter, {
                            num1 += 1;
                            $add(&mut client, num1, num2).await
                        })
                    } else {
                        let text = $text($crate::payload(size));
                        $crate::closed_loop!(&meter, $echo(&mut client, &text).await)
                    }
                }));
            }
        }
        for chain in chains {
            chain.await?;
        }
        meter.finish(opt)
    }};
}

/// An error unless the answer is right.
pub fn check(right: bool) -> Result<()> {
    ensure!(right, "wrong answer");
    Ok(())
}

/// The text's length that an echo method is called with; 0 for `add`.
pub fn echo_size(method: &str) -> usize {
    match method {
        "echo1k" => 1024,
        "echo64k" => 65536,
        _ => 0,
    }
}

/// A text for the echo methods: no byte of it needs escaping in JSON.
pub fn payload(len: usize) -> String {
    let letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-";
    letters.chars().cycle().take(len).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_payload_has_its_length_and_needs_no_escaping() {
        let text = payload(echo_size("echo1k"));
        assert_eq!(text.len(), 1024);
        assert_eq!(serde_json::to_string(&text).unwrap().len(), 1026);
        assert!(payload(echo_size("add")).is_empty());
    }

    #[test]
    fn only_answers_within_the_window_go_on() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let meter = Meter {
            start: now + second,
            end: now + 2 * second,
            used: Mutex::new(None),
            errors: AtomicU64::new(0),
            first_error: Mutex::new(None),
        };
        assert!(meter.rec(now, now));
        assert!(meter.rec(now, now + second));
        assert!(!meter.rec(now, now + 2 * second));
    }
}
