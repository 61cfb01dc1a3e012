//! Topics: what is delivered, what is lost, what it costs, and how long it takes at a fixed rate.
use super::view::{BROKERS, Better, OURS, View, ratio};
use super::{Bar, Gap, Goal};
use crate::cell::bytes;
use crate::plan::PACED;

pub fn goals(view: View<'_>) -> Vec<Goal> {
    let mut goals = Vec::new();
    for subscribers in [1, 10, 100] {
        for size in [64, 1024] {
            let cell = format!("topics/{subscribers}/{size}/full");
            let work = format!("topic, 1 to {subscribers}, {}", bytes(size));
            let lost = view.deviation(&cell, "lost");
            let cpu = view.by_best(&cell, &BROKERS, "srv_cpu_100k", Better::Less);
            goals.extend([
                Goal::new(&work, TARGET, Bar::AtLeast(1.0), by_target(view, &cell)),
                Goal::new(&work, "messages lost", Bar::AtMost(0.0), lost),
                Goal::new(&work, "server's CPU by the least of NATS and Redis", Bar::AtMost(1.0), cpu),
            ]);
        }
    }
    for (subscribers, size, rate) in PACED {
        let cell = format!("topics/{subscribers}/{size}/{rate}");
        let work = format!("topic, 1 to {subscribers}, {}, {rate} a second", bytes(size));
        goals.push(Goal::new(&work, "p99 by nats", Bar::AtMost(1.0), view.by(&cell, "nats", "p99_us")));
        goals.push(Goal::new(work, "messages lost", Bar::AtMost(0.0), view.deviation(&cell, "lost")));
    }
    goals
}

/// What we deliver by what we mean to: twice the best broker, or 0.8 of the raw hub if that is less.
fn by_target(view: View<'_>, cell: &str) -> Result<f64, Gap> {
    let ours = view.figure(cell, OURS, "delivered_s")?;
    let best = ratio(&ours, &view.best(cell, &BROKERS, "delivered_s", Better::More)?)? / 2.0;
    let raw = ratio(&ours, &view.figure(cell, "raw-hub", "delivered_s")?)? / 0.8;
    Ok(best.max(raw))
}

const TARGET: &str = "delivered by 2 x the better of NATS and Redis, or by 0.8 x raw-hub if less";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cell::Cell;
    use crate::results::{Document, Sample, Session};

    #[test]
    fn the_target_is_the_lesser_of_twice_a_broker_and_most_of_the_hub() {
        let rows = [(1_000.0, 2.0), (20.0, 12.5)];
        for (hub, expected) in rows {
            let mut document = Document::default();
            document.begin(Session { runs: 1, ..Session::default() });
            let cell = Cell::Topics { subscribers: 1, size: 64, rate: 0 };
            let delivered =
                [("callboard", 200.0), ("nats", 50.0), ("nats-deep", 20.0), ("redis", 10.0), ("raw-hub", hub)];
            for (peer, value) in delivered {
                let figures = [("delivered_s".to_owned(), value)].into();
                document.add(&cell, peer, 0, Sample { figures, quiet: true, ..Sample::default() });
            }
            let view = View { document: &document, partial: false };
            assert_eq!(by_target(view, &cell.to_string()), Ok(expected));
        }
    }
}
