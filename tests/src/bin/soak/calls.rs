//! The lives of those who call.

use std::time::Duration;

use anyhow::Result;
use callboard_client::{CallError, CallErrorKind, new_idempotency_key};
use callboard_common::ResultCode;
use callboard_registry::Caller;
use fastrand::Rng;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::churn::{Shared, sessions};
use crate::steady::Way;
use crate::tally::{Kind, Outcome};

/// Makes some calls of all kinds, and leaves in one of two ways.
pub(crate) async fn caller(shared: &Shared, rng: &mut Rng) -> Result<()> {
    let caller = Caller::builder().client(sessions()).connect(shared.address(rng)).await?;
    for _ in 0..rng.u8(1..30) {
        let way = if rng.bool() { Way::Direct } else { Way::Relayed };
        let (kind, told) = match (rng.u8(0..16), way) {
            (0..8, Way::Direct) => (Kind::Call, call(&caller, &method(rng), rng).await),
            (0..8, Way::Relayed) => (Kind::CallRelayed, call(&caller, &relayed_method(rng), rng).await),
            (8..12, Way::Direct) => (Kind::CallSteady, call(&caller, way.steady(), rng).await),
            (8..12, Way::Relayed) => (Kind::CallSteadyRelayed, call(&caller, way.steady(), rng).await),
            (12..14, Way::Direct) => (Kind::Keyed, call_under_a_key(shared, &caller, way, rng).await),
            (12..14, Way::Relayed) => (Kind::KeyedRelayed, call_under_a_key(shared, &caller, way, rng).await),
            (_, Way::Direct) => (Kind::GiveUp, give_up(&caller, way, rng).await),
            (_, Way::Relayed) => (Kind::GiveUpRelayed, give_up(&caller, way, rng).await),
        };
        note(shared, kind, told);
    }
    if rng.bool() {
        caller.center().close();
    }
    Ok(())
}

/// Of one that gives its parameters back.
async fn call(caller: &Caller, method: &str, rng: &mut Rng) -> Told {
    let parameters = json!({"text": "x".repeat(rng.usize(0..200)), "number": rng.u32(..)});
    match caller.call::<Value>(method, &parameters).await {
        Ok(answer) if answer == parameters => Ok(()),
        Ok(_) => Err(None),
        Err(error) => Err(Some(error)),
    }
}

/// Twice, which has to give the number of one run, and at times with other parameters, which must not run.
async fn call_under_a_key(shared: &Shared, caller: &Caller, way: Way, rng: &mut Rng) -> Told {
    let once = caller.with_idempotency_key(new_idempotency_key());
    let (first, second) = (once.call::<u64>(way.count(), &1).await, once.call::<u64>(way.count(), &1).await);
    if first.is_ok() && rng.u8(0..4) == 0 {
        let refused = match once.call::<u64>(way.count(), &2).await {
            Ok(_) => Err(None),
            Err(error) if error.code() == Some(ResultCode::Conflict) => Ok(()),
            Err(error) => Err(Some(error)),
        };
        note(shared, Kind::Conflict, refused);
    }
    match (first, second) {
        (Ok(first), Ok(second)) if first == second => Ok(()),
        (Ok(_), Ok(_)) => Err(None),
        (Err(error), _) | (_, Err(error)) => Err(Some(error)),
    }
}

/// By dropping it, or as its time is over.
async fn give_up(caller: &Caller, way: Way, rng: &mut Rng) -> Told {
    let waits = Duration::from_millis(rng.u64(5..50));
    if rng.bool() {
        let call = caller.call::<()>(way.never_ends(), &());
        return match timeout(waits, call).await {
            Err(_) => Ok(()),
            Ok(Ok(())) => Err(None),
            Ok(Err(error)) => Err(Some(error)),
        };
    }
    match caller.with_timeout(waits).call::<()>(way.never_ends(), &()).await {
        Err(error) if is_late(&error) => Ok(()),
        Err(error) => Err(Some(error)),
        Ok(()) => Err(None),
    }
}

fn note(shared: &Shared, kind: Kind, told: Told) {
    let outcome = match told {
        Ok(()) => Outcome::Good,
        Err(None) => Outcome::Wrong,
        Err(Some(error)) => {
            let why = error.code().map_or_else(|| format!("{:?}", error.kind()), |code| format!("{code:?}"));
            shared.tally.failed(kind, &format!("{why}, executed {:?}", error.executed()));
            if is_nobody(&error) { Outcome::Nobody } else { Outcome::Failed }
        }
    };
    shared.tally.note(kind, outcome);
}

/// As it sees itself, or as those say who know how long it waits.
fn is_late(error: &CallError) -> bool {
    matches!(error.kind(), CallErrorKind::Timeout) || error.code() == Some(ResultCode::Timeout)
}

/// Nobody provides it, or who does has gone without a word and is waited for.
fn is_nobody(error: &CallError) -> bool {
    matches!(error.kind(), CallErrorKind::NotFound | CallErrorKind::Unavailable)
        || error.code() == Some(ResultCode::Unavailable)
}

/// What came of a call: `None` is an answer that can't be.
type Told = Result<(), Option<CallError>>;

pub(crate) fn method(rng: &mut Rng) -> String {
    let number = rng.u8(0..20);
    if number == 0 { "doomed".to_owned() } else { format!("method{number}") }
}

pub(crate) fn relayed_method(rng: &mut Rng) -> String {
    let number = rng.u8(0..20);
    if number == 0 { "doomed-relayed".to_owned() } else { format!("relayed{number}") }
}
