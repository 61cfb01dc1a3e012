use std::error::Error;
use std::io;

use callboard_client::CallError;
use callboard_registry::ProviderError;

/// An error in one line for people: what failed, the causes, then what to do.
pub(crate) fn told(error: &anyhow::Error) -> String {
    let (mut facts, mut advice) = (Vec::<String>::new(), None);
    let mut causes = error.chain().peekable();
    while let Some(cause) = causes.next() {
        let Some(call) = call_error(cause) else {
            let fact = fact(cause);
            // Some errors print their cause and give it as the cause too.
            if facts.last().is_none_or(|last| !last.ends_with(&fact)) {
                facts.push(fact);
            }
            continue;
        };
        advice = Some(call.advice());
        // A cause that names the peer says better what failed.
        if causes.peek().is_none_or(|next| !next.to_string().contains(call.peer())) {
            facts.push(what_failed(call));
        }
    }
    let facts = facts.join(": ");
    match advice {
        Some(advice) => format!("{facts}; {advice}"),
        None => facts,
    }
}

fn call_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a CallError> {
    match error.downcast_ref() {
        Some(ProviderError::Center(error)) => Some(error),
        _ => error.downcast_ref(),
    }
}

/// What an error says of itself, without the number that the system has for it.
fn fact(error: &(dyn Error + 'static)) -> String {
    let text = error.to_string();
    let number = error.downcast_ref().and_then(io::Error::raw_os_error);
    let plain = number.and_then(|number| text.strip_suffix(&format!(" (os error {number})")));
    plain.map(str::to_owned).unwrap_or(text)
}

/// An error without its advice, and only of what does something whether it was executed.
fn what_failed(error: &CallError) -> String {
    let (advice, executed) = (format!("; {}", error.advice()), format!(" (executed: {})", error.executed()));
    let text = error.to_string();
    let text = text.strip_suffix(&advice).unwrap_or(&text);
    if error.method().is_some() || error.subject().starts_with("topic ") {
        return text.to_owned();
    }
    let text = text.strip_suffix(&executed).unwrap_or(text);
    match text.strip_prefix("connection at ") {
        Some(rest) => format!("no connection to {rest}"),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context;
    use callboard_client::CallErrorKind;

    use super::*;

    fn timeout(subject: &str) -> CallError {
        CallError::new(CallErrorKind::Timeout, "tcp://h:1", subject, "no answer within 5s").with_advice("wait longer")
    }

    #[test]
    fn what_failed_comes_first_and_the_advice_last() {
        let rows = [
            (timeout("connection").into(), "no connection to tcp://h:1: no answer within 5s; wait longer"),
            (
                timeout("method \"add\"").into(),
                "method \"add\" at tcp://h:1: no answer within 5s (executed: unknown); wait longer",
            ),
            (
                ProviderError::Center(timeout("discovery of \"add\"")).into(),
                "discovery of \"add\" at tcp://h:1: no answer within 5s; wait longer",
            ),
            (
                anyhow::Error::new(io::Error::from_raw_os_error(2)).context("cannot read it"),
                "cannot read it: No such file or directory",
            ),
            (Err::<(), _>(io::Error::other("why")).context("what: why").unwrap_err(), "what: why"),
        ];
        for (error, line) in rows {
            assert_eq!(told(&error), line);
        }
    }
}
