//! The errors of looking up and of reaching providers.

use std::error::Error;
use std::fmt::Write;

use callboard_client::{CallError, CallErrorKind};
use callboard_common::{Executed, Host};

/// The subject of errors about calls, as the client writes it.
pub(crate) fn call_of(method: &str) -> String {
    format!("method \"{method}\"")
}

/// The subject of errors about look-ups.
pub(crate) fn discovery_of(method: &str) -> String {
    format!("discovery of \"{method}\"")
}

/// What lies at the bottom of an error, in words.
pub(crate) fn root_cause(error: &dyn Error) -> String {
    let mut root = error;
    while let Some(cause) = root.source() {
        root = cause;
    }
    root.to_string()
}

/// `warms_up` says that the center has just begun.
pub(crate) fn nobody_provides(center: &str, method: &str, warms_up: bool) -> CallError {
    let yet = "nobody provides it yet: the center has just begun, and providers may be on their way back to it";
    let what = if warms_up { yet } else { "nobody provides it" };
    CallError::new(CallErrorKind::NotFound, center, call_of(method), what)
        .with_advice("check the name, and that a provider of it runs and is registered at this center")
}

/// `tried` says for each host why it could not be reached, or would not take the call.
pub(crate) fn unreachable(center: &str, method: &str, tried: &[(Host, String)]) -> CallError {
    let mut what = String::from("none of its providers could take it: ");
    for (index, (host, why)) in tried.iter().take(NAMED_HOSTS).enumerate() {
        let comma = if index == 0 { "" } else { ", " };
        let _ = write!(what, "{comma}{host} ({why})");
    }
    if let Some(more @ 1..) = tried.len().checked_sub(NAMED_HOSTS) {
        let _ = write!(what, " and {more} more");
    }
    let reached = tried.iter().all(|(_, why)| why == NO_CALLS);
    CallError::new(CallErrorKind::Unavailable, center, call_of(method), what).with_advice(if reached {
        "call again in a moment: these providers are about to end, or to begin"
    } else {
        "check that these providers run and that their addresses can be reached from here"
    })
}

pub(crate) fn no_choice(center: &str, method: &str) -> CallError {
    CallError::new(CallErrorKind::Unavailable, center, call_of(method), "the balancer chose none of its providers")
}

pub(crate) fn center_gone(center: &str, method: &str) -> CallError {
    let what = "the connection to the center has ended, and nobody provided it until then";
    CallError::new(CallErrorKind::Disconnected, center, discovery_of(method), what)
        .with_executed(Executed::No)
        .with_advice("connect to a center again")
}

/// Why a provider that answered UNAVAILABLE was passed over.
pub(crate) const NO_CALLS: &str = "it takes no calls at the moment";
/// How many hosts an error names.
const NAMED_HOSTS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_names_the_hosts_that_were_tried() {
        let tried: Vec<(Host, String)> =
            (1..=10).map(|port| (Host::new([10, 0, 0, 1].into(), port).unwrap(), "refused".to_owned())).collect();
        let text = unreachable("tcp://c:1", "add", &tried[..2]).to_string();
        assert!(text.contains("10.0.0.1:1 (refused), 10.0.0.1:2 (refused) (executed: no)"), "{text}");
        let text = unreachable("tcp://c:1", "add", &tried).to_string();
        assert!(text.contains("10.0.0.1:8 (refused) and 2 more") && !text.contains("10.0.0.1:9"), "{text}");
    }
}
