//! Calls: their rate, their latency, and what they cost the server.
use super::view::{Better, View};
use super::{Bar, Goal};

pub fn goals(view: View<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for size in ["16x16", "1x64"] {
        goals.extend(rates(view, size));
    }
    goals.extend(latency(view));
    goals.extend(echoes(view));
    for size in ["16x16", "1x64"] {
        let measured = view.by(&cell("add", size), "tarpc-json", "srv_cpu_100k");
        let work = format!("server's CPU a call, {}", spaced(size));
        goals.push(Goal::new(work, "less than a third of tarpc-json", Bar::AtMost(1.0 / 3.0), measured));
    }
    goals
}

fn rates(view: View<'_>, size: &str) -> Vec<Goal> {
    let (work, cell) = (format!("small calls, {}", spaced(size)), cell("add", size));
    let mut goals: Vec<_> = RATES
        .iter()
        .map(|&(peer, bar)| Goal::new(&work, format!("rate by {peer}"), Bar::AtLeast(bar), view.by(&cell, peer, "rps")))
        .collect();
    let measured = view.by_best(&cell, &JSONRPSEE, "rps", Better::More);
    goals.push(Goal::new(&work, "rate by jsonrpsee, the better transport", Bar::AtLeast(5.0), measured));
    goals
}

fn latency(view: View<'_>) -> Vec<Goal> {
    let (work, cell) = ("a call at a time, 1 x 1", cell("add", "1x1"));
    let raw = [("p50_us", 1.2), ("p99_us", 1.5)].map(|(name, bar)| {
        let measured = view.by(&cell, "raw-json", name);
        Goal::new(work, format!("{} by raw-json", title(name)), Bar::AtMost(bar), measured)
    });
    let best = ["p50_us", "p99_us"].map(|name| {
        let measured = view.by_best(&cell, &FRAMEWORKS, name, Better::Less);
        Goal::new(work, format!("{} by the best peer", title(name)), Bar::AtMost(1.0), measured)
    });
    raw.into_iter().chain(best).collect()
}

fn echoes(view: View<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for (method, size, bar) in [("echo1k", "1 KiB", 3.0), ("echo64k", "64 KiB", 2.0)] {
        let (work, cell) = (format!("echo of {size}, 16 x 16"), cell(method, "16x16"));
        let best = view.by_best(&cell, &JSON, "rps", Better::More);
        goals.extend([
            Goal::new(&work, "rate by raw-json", Bar::AtLeast(0.8), view.by(&cell, "raw-json", "rps")),
            Goal::new(&work, "rate by the best JSON peer", Bar::AtLeast(bar), best),
            Goal::new(&work, "rate by tonic", Bar::AtLeast(1.0), view.by(&cell, "tonic", "rps")),
        ]);
    }
    goals
}

fn cell(method: &str, size: &str) -> String {
    format!("calls/{method}/{size}/tcp")
}

fn spaced(size: &str) -> String {
    size.replace('x', " x ")
}

fn title(figure: &str) -> &str {
    figure.trim_end_matches("_us")
}

const RATES: [(&str, f64); 5] =
    [("tarpc-json", 3.0), ("tarpc-bincode", 2.0), ("tonic", 8.0), ("nats", 5.0), ("raw-json", 0.8)];
const JSONRPSEE: [&str; 2] = ["jsonrpsee-ws", "jsonrpsee-http"];
pub(super) const JSON: [&str; 3] = ["tarpc-json", "jsonrpsee-ws", "jsonrpsee-http"];
/// Everything that calls by a framework or through a broker.
const FRAMEWORKS: [&str; 9] = [
    "tarpc-json",
    "tarpc-bincode",
    "tonic",
    "jsonrpsee-ws",
    "jsonrpsee-http",
    "volo-thrift",
    "volo-thrift-mux",
    "capnp",
    "nats",
];
