use callboard_common::ErrorInfo;
use proptest::prelude::*;

use super::*;

const LEFT: Duration = Duration::from_secs(1);
const MS: Duration = Duration::from_millis(1);

fn error(kind: CallErrorKind, executed: Executed) -> CallError {
    CallError::new(kind, "tcp://h:1", "method \"m\"", "it failed").with_executed(executed)
}

fn remote(code: ResultCode, executed: Executed) -> CallError {
    let info = ErrorInfo { executed, ..ErrorInfo::not_executed("why") };
    CallError::remote("tcp://h:1", "method \"m\"", code, Some(info))
}

/// An answer that does not say whether anything was executed, as other programs give.
fn vague(code: ResultCode) -> CallError {
    CallError::remote("tcp://h:1", "method \"m\"", code, None)
}

/// The same with an error object that has no word on it, or one that nobody knows.
fn wordless(code: ResultCode) -> CallError {
    let info = ErrorInfo { executed: Executed::Unknown, says_executed: false, ..ErrorInfo::not_executed("why") };
    CallError::remote("tcp://h:1", "method \"m\"", code, Some(info))
}

fn next(error: &CallError, is_idempotent: bool) -> Next {
    Tries::new(RetryPolicy::default(), is_idempotent).next(error, false, LEFT, || 1.0)
}

#[test]
fn only_what_was_not_executed_or_is_idempotent_and_in_doubt_is_repeated() {
    use CallErrorKind::{Connect, Decode, Disconnected, Encode, NotFound, Overloaded, Timeout, Unavailable};
    use Executed::{No, Unknown, Yes};
    let again = |ms| Next::Again(ms * MS);
    let rows = [
        (error(Timeout, No), again(10), again(10)),
        (error(Timeout, Unknown), Next::Tell, again(10)),
        (error(Disconnected, No), again(10), again(10)),
        (error(Disconnected, Unknown), Next::Tell, again(10)),
        (error(Connect, No), again(10), again(10)),
        (error(Overloaded, No), again(10), again(10)),
        (error(Unavailable, No), again(10), again(10)),
        (error(NotFound, No), Next::Tell, Next::Tell),
        (error(Encode, No), Next::Tell, Next::Tell),
        (error(Decode, Unknown), Next::Tell, Next::Tell),
        (error(Decode, Yes), Next::Tell, Next::Tell),
        (remote(ResultCode::Overloaded, No), again(10), again(10)),
        (remote(ResultCode::Overloaded, Unknown), Next::Tell, again(10)),
        (remote(ResultCode::Overloaded, Yes), Next::Tell, Next::Tell),
        (remote(ResultCode::Unavailable, No), again(10), again(10)),
        (remote(ResultCode::Unavailable, Unknown), Next::Tell, again(10)),
        (remote(ResultCode::Timeout, No), again(10), again(10)),
        (remote(ResultCode::Disconnected, Unknown), Next::Tell, again(10)),
        (remote(ResultCode::Application, Yes), Next::Tell, Next::Tell),
        (remote(ResultCode::InternalError, Yes), Next::Tell, Next::Tell),
        (remote(ResultCode::InvalidParams, No), Next::Tell, Next::Tell),
        (remote(ResultCode::NotFoundService, No), Next::Tell, Next::Tell),
        (vague(ResultCode::Overloaded), Next::Tell, Next::Tell),
        (vague(ResultCode::Disconnected), Next::Tell, Next::Tell),
        (wordless(ResultCode::Overloaded), Next::Tell, Next::Tell),
        (wordless(ResultCode::Disconnected), Next::Tell, Next::Tell),
    ];
    for (error, usually, if_idempotent) in rows {
        assert_eq!(next(&error, false), usually, "{error}");
        assert_eq!(next(&error, true), if_idempotent, "{error}, idempotent");
    }
}

#[test]
fn a_call_under_a_key_is_repeated_as_an_idempotent_one_is_but_stays_where_it_may_have_been_executed() {
    let rows = [(CallErrorKind::Disconnected, Executed::Unknown), (CallErrorKind::Timeout, Executed::Unknown)];
    for (kind, executed) in rows {
        let error = error(kind, executed);
        for is_idempotent in [false, true] {
            let tries = Tries::new(RetryPolicy::default(), is_idempotent).keyed(true);
            assert_eq!(tries.next(&error, false, LEFT, || 1.0), Next::Again(10 * MS), "{error}");
            assert!(tries.stays());
        }
    }
    let conflict = remote(ResultCode::Conflict, Executed::No);
    let cut_off = remote(ResultCode::InternalError, Executed::Unknown);
    for error in [conflict, cut_off, vague(ResultCode::Disconnected)] {
        let tries = Tries::new(RetryPolicy::default(), false).keyed(true);
        assert_eq!(tries.next(&error, false, LEFT, || 1.0), Next::Tell, "{error}");
    }
    assert!(!Tries::new(RetryPolicy::default(), false).keyed(false).stays());
}

#[test]
fn what_never_arrived_goes_on_at_once_and_refusals_cost_from_the_second_on() {
    use Executed::{No, Unknown};
    let mut tries = Tries::new(RetryPolicy::never(), false);
    let mut next = |error: &CallError, has_others| {
        let next = tries.next(error, has_others, LEFT, || 1.0);
        if matches!(next, Next::PassOn { .. }) {
            tries.pass_on(error.code().is_some());
        }
        next
    };
    let refused = remote(ResultCode::Unavailable, No);
    assert_eq!(next(&refused, false), Next::Tell);
    assert_eq!(next(&refused, true), Next::PassOn { costs: false });
    for _ in 0..100 {
        assert_eq!(next(&error(CallErrorKind::Disconnected, No), true), Next::PassOn { costs: false });
    }
    assert_eq!(next(&refused, true), Next::PassOn { costs: true });
    assert_eq!(next(&remote(ResultCode::Unavailable, Unknown), true), Next::Tell);
    assert_eq!(next(&remote(ResultCode::Overloaded, No), true), Next::Tell);
}

#[test]
fn tries_and_the_deadline_bound_the_repeats() {
    let refused = remote(ResultCode::Overloaded, Executed::No);
    let mut tries = Tries::new(RetryPolicy::default(), false);
    for ms in [5, 10] {
        assert_eq!(tries.next(&refused, true, LEFT, || 0.0), Next::Again(ms * MS), "half of the bound at least");
        tries.count();
    }
    assert_eq!(tries.next(&refused, true, LEFT, || 0.0), Next::Tell);
    let next = |left| Tries::new(RetryPolicy::default(), true).next(&refused, true, left, || 1.0);
    assert_eq!([next(11 * MS), next(10 * MS), next(Duration::ZERO)], [Next::Again(10 * MS), Next::Tell, Next::Tell]);
    assert_eq!(Tries::new(RetryPolicy::never(), true).next(&refused, true, LEFT, || 0.0), Next::Tell);
    let none = RetryPolicy { tries: 0, ..RetryPolicy::default() };
    assert_eq!(Tries::new(none, true).next(&refused, true, LEFT, || 0.0), Next::Tell);
}

#[test]
fn what_is_told_holds_over_all_tries() {
    use Executed::{No, Unknown, Yes};
    let rows = [
        (vec![No], No, No),
        (vec![No, No], No, No),
        (vec![Unknown], No, Unknown),
        (vec![No, Unknown], No, Unknown),
        (vec![Unknown], Unknown, Unknown),
        (vec![Unknown], Yes, Yes),
        (vec![], Unknown, Unknown),
    ];
    for (before, last, over_all) in rows {
        let mut tries = Tries::new(RetryPolicy::default(), true);
        for executed in before.iter().chain([&last]) {
            tries.note(*executed);
        }
        let told = tries.told(remote(ResultCode::Overloaded, last));
        assert_eq!((told.executed(), told.tries()), (over_all, 1 + u32::try_from(before.len()).unwrap()), "{before:?}");
        assert_eq!(told.advice().starts_with("repeat it if that is safe"), over_all != last, "{told}");
    }
}

fn executed() -> impl Strategy<Value = Executed> {
    prop_oneof![Just(Executed::No), Just(Executed::Unknown), Just(Executed::Yes)]
}

fn failure() -> impl Strategy<Value = CallError> {
    let codes = prop_oneof![
        Just(ResultCode::Disconnected),
        Just(ResultCode::InvalidParams),
        Just(ResultCode::Timeout),
        Just(ResultCode::Overloaded),
        Just(ResultCode::Unavailable),
        Just(ResultCode::Application),
    ];
    let kinds = prop_oneof![
        Just(CallErrorKind::Timeout),
        Just(CallErrorKind::Disconnected),
        Just(CallErrorKind::Connect),
        Just(CallErrorKind::Decode),
        Just(CallErrorKind::Unavailable),
    ];
    prop_oneof![
        (kinds, executed()).prop_map(|(kind, executed)| error(kind, executed)),
        (codes.clone(), executed()).prop_map(|(code, executed)| remote(code, executed)),
        codes.prop_map(vague),
    ]
}

proptest! {
    /// Against a peer that does anything, the truth is told, and no call that may have been executed is repeated unless it
    /// may be.
    #[test]
    fn no_call_is_repeated_that_may_have_been_executed_unless_it_is_idempotent(
        failures in prop::collection::vec((failure(), any::<bool>(), 0..2_000u32), 1..20),
        tries in 0..6u32, is_idempotent: bool, chance in 0.0..1.0f64,
    ) {
        let policy = RetryPolicy { tries, ..RetryPolicy::default() };
        let mut call = Tries::new(policy, is_idempotent);
        let (mut worst, mut made) = (Executed::No, 1);
        for (failed, has_others, left) in failures {
            worst = if failed.executed() == Executed::No { worst } else { failed.executed() };
            call.note(failed.executed());
            match call.next(&failed, has_others, left * MS, || chance) {
                Next::Tell => {
                    let told = call.told(failed);
                    prop_assert_eq!((told.executed(), told.tries()), (worst, made));
                    return Ok(());
                }
                Next::PassOn { .. } => {
                    prop_assert!(has_others && failed.executed() == Executed::No);
                    call.pass_on(failed.code().is_some());
                }
                Next::Again(pause) => {
                    prop_assert!(pause < left * MS && call.counted < tries);
                    let is_safe = failed.executed() == Executed::No
                        || (is_idempotent && failed.executed() == Executed::Unknown);
                    prop_assert!(is_safe);
                    call.count();
                }
            }
            made += 1;
        }
    }
}
