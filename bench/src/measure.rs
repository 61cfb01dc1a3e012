//! How each kind of cell is measured: which server, which clients, and what is made of their results.
use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

use crate::cell::{Cell, Growth};
use crate::config::Peer;
use crate::process::Process;
use crate::results::Sample;
use crate::site::{Arena, Site, join};
use crate::start;

/// One run of a peer at a cell.
pub fn measure(arena: &Arena<'_>, peer: &Peer, cell: &Cell) -> Result<Sample> {
    if let Cell::Start = cell {
        return start::start(arena.drivers.path(&peer.bin)?);
    }
    if let Cell::Build = cell {
        return start::build(arena.home);
    }
    let mut sample = load(arena, &Site::start(arena, peer, cell)?, peer, cell)?;
    // What the hypervisor gave to others is as lost to us as what other processes took.
    let stolen = sample.figures.get("steal_s").unwrap_or(&0.0) / arena.secs;
    sample.disturb("the hypervisor", stolen);
    Ok(sample)
}

fn load(arena: &Arena<'_>, site: &Site<'_>, peer: &Peer, cell: &Cell) -> Result<Sample> {
    match *cell {
        Cell::Calls { ref method, connections, outstanding, .. } => {
            calls(site, &Calls { job: "rpc", method, connections, outstanding }, None)
        }
        Cell::Registry { ref operation, connections, outstanding } => {
            let method = peer.methods.get(operation).unwrap_or(operation);
            calls(site, &Calls { job: "registry", method, connections, outstanding }, None)
        }
        Cell::Topics { subscribers, size, rate } => {
            topic(arena, site, &Topic { subscribers, size, rate, watch: false })
        }
        Cell::Notices { watchers } => notices(arena, site, watchers),
        Cell::Idle { connections } => idle(site, connections),
        Cell::Growth { over, count } => growth(arena, site, over, count),
        Cell::Start | Cell::Build => bail!("no server is loaded"),
    }
}

struct Calls<'a> {
    job: &'a str,
    method: &'a str,
    connections: u32,
    outstanding: u32,
}

fn calls(site: &Site<'_>, load: &Calls<'_>, beside: Option<&Process>) -> Result<Sample> {
    let client = site.client(&[
        ("--job", load.job.into()),
        ("--method", load.method.into()),
        ("--conns", load.connections.to_string()),
        ("--outstanding", load.outstanding.to_string()),
        ("--sub-pids", join(beside)),
    ])?;
    let result = client.json(site.patience())?;
    loaded(&result)
}

struct Topic {
    subscribers: u32,
    size: u32,
    rate: u32,
    watch: bool,
}

fn topic(arena: &Arena<'_>, site: &Site<'_>, load: &Topic) -> Result<Sample> {
    let options = |job: &str, helpers: String| {
        [
            ("--job", job.to_owned()),
            ("--method", if load.watch { "watch".into() } else { String::new() }),
            ("--subs", load.subscribers.to_string()),
            ("--size", load.size.to_string()),
            ("--rate", load.rate.to_string()),
            ("--sub-pids", helpers),
        ]
    };
    let subscribers = site.client(&options("sub", String::new()))?;
    subscribers.ready(site.patience())?;
    let publisher = site.client(&options("pub", join([&subscribers])))?;
    let mut result = publisher.json(site.patience())?;
    result.extend(subscribers.json(site.patience())?);
    account(&mut result, load.subscribers, arena.secs)?;
    loaded(&result)
}

/// What was delivered, from the first measured publish to the last delivery; what was lost; and the server's CPU.
fn account(result: &mut Map<String, Value>, subscribers: u32, secs: f64) -> Result<()> {
    let figure = |name: &str| result.get(name).and_then(Value::as_f64).with_context(|| format!("no {name}"));
    let (published, delivered) = (figure("published")? * f64::from(subscribers), figure("delivered")?);
    let span = (figure("last_ns")? - figure("first_ns")?) / 1e9;
    let delivered_s = if span > 0.0 { delivered / span } else { 0.0 };
    let derived = [
        ("delivered_s", delivered_s),
        ("lost", published - delivered),
        ("lost_pct", 100.0 * (published - delivered) / published),
        // The CPU is that of the window, and so it is held against the deliveries of as long a time.
        ("srv_cpu_100k", figure("srv_cpu_s")? / secs / delivered_s * 1e5),
    ];
    result.retain(|name, _| name != "first_ns" && name != "last_ns");
    let known = derived.into_iter().filter(|(_, value)| value.is_finite());
    result.extend(known.map(|(name, value)| (name.to_owned(), value.into())));
    Ok(())
}

fn notices(arena: &Arena<'_>, site: &Site<'_>, watchers: u32) -> Result<Sample> {
    topic(arena, site, &Topic { subscribers: watchers, size: 64, rate: CHANGES_PER_SECOND, watch: true })
}

fn idle(site: &Site<'_>, connections: u32) -> Result<Sample> {
    let client = site.client(&[("--job", "idle".into()), ("--conns", connections.to_string())])?;
    client.ready(site.patience())?;
    Ok(Sample::of(&client.json(site.patience())?))
}

fn growth(arena: &Arena<'_>, site: &Site<'_>, over: Growth, count: u32) -> Result<Sample> {
    let load = Calls { job: "rpc", method: "add", connections: LOADED, outstanding: LOADED };
    match over {
        Growth::Methods => calls(site, &load, None),
        Growth::Connections if count <= LOADED => calls(site, &load, None),
        Growth::Connections => {
            // Held for longer than the load lasts; it is ended with this function.
            let idle = site.client(&[
                ("--job", "idle".into()),
                ("--conns", (count - LOADED).to_string()),
                ("--secs", "600".into()),
            ])?;
            idle.ready(site.patience())?;
            calls(site, &load, Some(&idle))
        }
        Growth::Subscribers => topic(arena, site, &Topic { subscribers: count, size: 64, rate: 0, watch: false }),
        Growth::Watchers => notices(arena, site, count),
    }
}

/// A result of a driver that watched what else ran: without a word of it nobody knows whether it was quiet.
fn loaded(result: &Map<String, Value>) -> Result<Sample> {
    result.get("foreign_cpu").and_then(Value::as_f64).context("the driver does not say what strangers took")?;
    Ok(Sample { error: failure(result), ..Sample::of(result) })
}

fn failure(result: &Map<String, Value>) -> Option<String> {
    if result.get("settled").and_then(Value::as_bool) == Some(false) {
        return Some("messages still came when it was given up".into());
    }
    if let Some(disorder) = disorder(result) {
        return Some(disorder);
    }
    let errors = result.get("errors").and_then(Value::as_u64).filter(|&errors| errors > 0)?;
    let first = result.get("first_error").and_then(Value::as_str).unwrap_or_default();
    Some(format!("{errors} calls failed; the first: {first}"))
}

/// What no peer may do with messages, not even one that drops some.
fn disorder(result: &Map<String, Value>) -> Option<String> {
    let reordered = result.get("reordered").and_then(Value::as_u64).unwrap_or(0);
    if reordered > 0 {
        return Some(format!("{reordered} messages came late or twice"));
    }
    let surplus = -result.get("lost").and_then(Value::as_f64)?;
    (surplus > 0.0).then(|| format!("{surplus} messages more than were published"))
}

/// Where a growth over connections or methods is measured: 16 by 16.
const LOADED: u32 = 16;
const CHANGES_PER_SECOND: u32 = 50;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_accounted_from_the_first_publish_to_the_last_delivery() {
        // Nanoseconds of a machine that has been up for a month, and 2 s between them.
        let result = serde_json::json!({
            "published": 1_000, "delivered": 9_000, "srv_cpu_s": 0.9,
            "first_ns": 2_592_000_000_000_000_u64, "last_ns": 2_592_002_000_000_000_u64,
        });
        let mut result = result.as_object().unwrap().clone();
        account(&mut result, 10, 1.0).unwrap();
        let sample = Sample::of(&result);
        let expected = [("delivered_s", 4_500.0), ("lost", 1_000.0), ("lost_pct", 10.0), ("srv_cpu_100k", 20.0)];
        for (name, value) in expected {
            assert!((sample.figures[name] - value).abs() < 1e-6, "{name}: {}", sample.figures[name]);
        }
    }

    #[test]
    fn a_result_that_does_not_say_what_strangers_took_is_none() {
        for (result, strangers) in [
            (serde_json::json!({"rps": 5, "foreign_cpu": 0.25}), Some(0.25)),
            (serde_json::json!({"rps": 5, "foreign_cpu": null}), None),
            (serde_json::json!({"rps": 5}), None),
        ] {
            let sample = loaded(result.as_object().unwrap());
            assert_eq!(sample.ok().map(|sample| sample.strangers), strangers, "{result}");
        }
    }

    #[test]
    fn failed_calls_are_told() {
        let rows = [
            (serde_json::json!({"errors": 0}), None),
            (serde_json::json!({"settled": true}), None),
            (serde_json::json!({"settled": true, "reordered": 0, "lost": 7.0}), None),
            (serde_json::json!({"settled": true, "reordered": 2, "lost": 7.0}), Some("2 messages came late or twice")),
            (serde_json::json!({"reordered": 0, "lost": -3.0}), Some("3 messages more than were published")),
            (serde_json::json!({"settled": false}), Some("messages still came when it was given up")),
            (serde_json::json!({"errors": 2, "first_error": "closed"}), Some("2 calls failed; the first: closed")),
        ];
        for (result, expected) in rows {
            assert_eq!(failure(result.as_object().unwrap()).as_deref(), expected);
        }
    }
}
