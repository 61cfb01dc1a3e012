//! A whole house under faults: what must hold after each run, whatever happened.

use std::env;

use callboard_sim::house::{self, Report};
use callboard_sim::run_seeds;

/// So many unless `SEEDS` says otherwise.
const SEEDS: u64 = 2000;

#[test]
fn a_house_is_whole_again_after_any_faults() {
    let seeds = env::var("SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let (mut all, mut broken) = (Report::default(), Vec::new());
    run_seeds(0..seeds, house::run, |seed, outcome| {
        match outcome {
        Ok(report) => all.add(&report),
        Err(why) => broken.push(format!(
            "seed {seed} breaks a promise: {why}\n    step by step: cargo run --release --bin sim -- --trace --from {seed}"
        )),
    }
    });
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    assert!(all.calls > 100 * seeds && all.failed * 3 < all.calls, "{all}");
    // The ledger was asked about each sort of end.
    let ends = [all.said_not_executed, all.said_unknown, all.given_up, all.again];
    assert!(ends.iter().all(|calls| *calls > seeds), "{all}");
    assert!(all.received > all.published && all.gaps > 0, "{all}");
    println!("{seeds} seeds: {all}");
}

#[test]
fn the_same_seed_gives_the_same_run() {
    for seed in 0..20 {
        let (first, second) = (house::run_traced(seed), house::run_traced(seed));
        assert_eq!(first, second);
        assert!(first.1.len() > 10, "{:?}", first.1);
    }
}
