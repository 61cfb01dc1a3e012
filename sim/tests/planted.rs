//! Bugs that are planted on purpose, each found by the house within its 2,000 seeds: a simulator that finds nothing shows
//! nothing. What found them is printed with:
//!
//! ```text
//! cargo test -p callboard-sim --test planted -- --nocapture
//! ```

#![expect(clippy::print_stdout, reason = "which seeds found them is what it tells")]

use std::panic::{AssertUnwindSafe, catch_unwind};

use callboard_common::Planted;
use callboard_sim::house;

const SEEDS: u64 = 2000;

/// The first seed whose run breaks a promise in these words, and how.
fn first_found(bug: Planted, words: &str) -> Option<(u64, String)> {
    Planted::plant(Some(bug));
    let found = (0..SEEDS).find_map(|seed| {
        let broken = catch_unwind(AssertUnwindSafe(|| house::run(seed))).err()?;
        let text = broken.downcast_ref::<String>().cloned();
        let text = text.or_else(|| broken.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default();
        text.contains(words).then_some((seed, text))
    });
    Planted::plant(None);
    found
}

fn is_found(bug: Planted) {
    is_found_as(bug, "");
}

fn is_found_as(bug: Planted, words: &str) {
    let (seed, why) = first_found(bug, words).unwrap_or_else(|| panic!("{bug:?} is not found within {SEEDS} seeds"));
    println!("{bug:?}: found by seed {seed}: {why}");
    let again = catch_unwind(|| house::run(seed));
    assert!(again.is_ok(), "seed {seed} breaks a promise without the bug too");
}

#[test]
fn a_provider_that_does_not_register_again_is_found() {
    is_found(Planted::NotAnnouncedAgain);
}

#[test]
fn a_list_that_is_thrown_away_is_found() {
    is_found(Planted::RenewalIgnored);
}

#[test]
fn a_subscription_that_comes_back_blindly_is_found() {
    is_found(Planted::ResumedBlindly);
}

#[test]
fn a_subscription_that_hears_a_message_again_is_found() {
    is_found(Planted::HeardAgain);
}

#[test]
fn a_subscription_that_forgets_what_it_has_missed_is_found() {
    is_found_as(Planted::MissedForgotten, "that nobody knows what is missing");
}

#[test]
fn a_subscription_that_has_missed_more_than_was_published_is_found() {
    is_found_as(Planted::MissedTooMany, "were told to be missing, and");
}

#[test]
fn a_peer_that_is_never_taken_for_dead_is_found() {
    is_found(Planted::NeverDead);
}

#[test]
fn a_subscriber_that_is_kept_is_found() {
    is_found(Planted::SubscriberKept);
}

#[test]
fn a_call_that_is_sent_twice_is_found() {
    is_found(Planted::SentTwice);
}

#[test]
fn a_call_that_is_wrongly_said_not_to_be_executed_is_found() {
    is_found(Planted::SaidNotExecuted);
}

#[test]
fn a_provider_that_is_announced_before_it_is_reached_is_found() {
    is_found(Planted::Unprobed);
}

#[test]
fn an_answer_that_goes_to_another_call_is_found() {
    is_found_as(Planted::AnsweredAnother, "got the answer to another call");
}

#[test]
fn a_connection_that_is_kept_is_found() {
    is_found(Planted::ConnectionKept);
}

#[test]
fn a_call_that_ran_and_is_said_not_to_have_is_found() {
    is_found_as(Planted::RanUnsaid, "told that they were not");
}

#[test]
fn a_call_that_is_made_again_though_it_may_have_run_is_found() {
    is_found_as(Planted::RepeatedInDoubt, "was executed 2 times");
}

#[test]
fn a_try_that_is_forgotten_is_found() {
    is_found_as(Planted::ToldOfLastTry, "told that they were not");
}

#[test]
fn a_key_that_is_forgotten_is_found() {
    is_found_as(Planted::KeyForgotten, "was executed 2 times");
}

#[test]
fn a_call_under_a_key_that_goes_elsewhere_is_found() {
    is_found_as(Planted::RepeatedElsewhere, "was executed 2 times");
}

#[test]
fn a_budget_that_is_not_asked_is_found() {
    is_found_as(Planted::BudgetIgnored, "over the budget");
}

#[test]
fn a_call_that_runs_after_its_deadline_is_found() {
    is_found_as(Planted::ExpiredRun, "after its deadline");
}

#[test]
fn a_call_that_runs_though_it_was_given_up_is_found() {
    is_found_as(Planted::CancelIgnored, "after its caller had given it up");
}

#[test]
fn a_call_that_waits_in_place_beyond_its_deadline_is_found() {
    is_found_as(Planted::HeldTooLong, "after its deadline");
}

#[test]
fn a_call_that_waits_in_place_though_it_was_given_up_is_found() {
    is_found_as(Planted::HeldGivenUp, "after its caller had given it up");
}

#[test]
fn callers_behind_a_center_that_take_no_turns_are_found() {
    is_found_as(Planted::NoTurnsInPlace, "for those of another caller");
}

#[test]
fn a_relayed_call_that_may_have_run_and_is_said_not_to_have_is_found() {
    is_found_as(Planted::PassedOnUnsaid, "told that they were not");
}
