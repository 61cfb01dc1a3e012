//! The registry, idle connections, growth, and starting up.
use super::view::{OURS, View, ratio};
use super::{Bar, Capacity, Gap, Goal};
use crate::quiet::MOST_STRANGERS;

pub fn goals(view: View<'_>, capacity: &Capacity) -> Vec<Goal> {
    let mut goals = registry(view);
    goals.extend(idle(view, capacity));
    goals.extend(growth(view));
    goals.extend(start(view));
    goals
}

fn registry(view: View<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (operation, bar) in [("register", 50.0), ("discover", 20.0)] {
        let measured = view.by(&format!("registry/{operation}/16x16"), "etcd", "rps");
        goals.push(Goal::new(format!("{operation}, 16 x 16"), "rate by etcd", Bar::AtLeast(bar), measured));
    }
    for (name, title, bar) in [("p50_us", "p50 by etcd", 0.2), ("p99_us", "p99 by etcd", 0.5)] {
        let measured = view.by("notices/100", "etcd", name);
        goals.push(Goal::new("notice to 100 watchers", title, Bar::AtMost(bar), measured));
    }
    goals
}

fn idle(view: View<'_>, capacity: &Capacity) -> Vec<Goal> {
    let memory = view.figure("idle/10000", OURS, "per_conn_kb").map(|figure| figure.value);
    let wanted = capacity.connections_wanted.filter(|&wanted| wanted > 0.0);
    let held = capacity.connections.zip(wanted).map(|(held, wanted)| held / wanted);
    vec![
        Goal::new("10,000 idle connections", "KiB of the center for each", Bar::AtMost(2.0), memory),
        Goal::new(
            "10,000 idle connections",
            "connections lost",
            Bar::AtMost(0.0),
            view.deviation("idle/10000", "lost"),
        ),
        Goal::new(
            "idle connections",
            "as many as the limit of files allows less 1,000",
            Bar::AtLeast(1.0),
            held.ok_or_else(|| unknown("capacity")),
        ),
        Goal::new("calls beside them", "p99 by that without them", Bar::AtMost(1.5), latency_beside(capacity)),
    ]
}

fn latency_beside(capacity: &Capacity) -> Result<f64, Gap> {
    let (ratio, strangers) =
        capacity.p99_ratio.zip(capacity.strangers).ok_or_else(|| unknown("latency beside them"))?;
    if strangers > MOST_STRANGERS {
        let disturbance = format!("strangers took {strangers:.2} CPUs");
        return Err(Gap::NotQuiet("calls beside idle connections".into(), disturbance));
    }
    Ok(ratio)
}

fn unknown(what: &str) -> Gap {
    Gap::NotMeasured(format!("{what}; `capacity` measures it"))
}

fn growth(view: View<'_>) -> Vec<Goal> {
    let change = |over: &str, from: u32, to: u32, name: &str| {
        let cell = |count: u32| format!("grow-{over}/{count}");
        ratio(&view.figure(&cell(to), OURS, name)?, &view.figure(&cell(from), OURS, name)?)
    };
    let times = 10.0;
    vec![
        Goal::new(
            "growth",
            "rate at 10,000 methods by that at 1",
            Bar::AtLeast(0.9),
            change("methods", 1, 10_000, "rps"),
        ),
        Goal::new(
            "growth",
            "rate at 10,000 connections by that at 16",
            Bar::AtLeast(0.9),
            change("connections", 16, 10_000, "rps"),
        ),
        Goal::new(
            "growth",
            "time a delivery at 1,000 subscribers by that at 100",
            Bar::AtMost(1.1),
            change("subscribers", 100, 1_000, "delivered_s").map(|rates| 1.0 / rates),
        ),
        Goal::new(
            "growth",
            "time a notice and watcher at 1,000 watchers by that at 100",
            Bar::AtMost(1.1),
            change("watchers", 100, 1_000, "p50_us").map(|latencies| latencies / times),
        ),
    ]
}

fn start(view: View<'_>) -> Vec<Goal> {
    let ours = |cell: &str, name: &str| view.figure(cell, OURS, name).map(|figure| figure.value);
    vec![
        Goal::new("start", "ms from exec to serving", Bar::AtMost(20.0), ours("start", "start_ms")),
        Goal::new("start", "MB of the binary", Bar::AtMost(15.0), ours("start", "binary_mb")),
        Goal::new("start", "s of a fresh release build", Bar::AtMost(180.0), ours("build", "build_s")),
    ]
}
