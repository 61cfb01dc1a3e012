use std::collections::VecDeque;

use crate::{CallError, CallErrorKind};

/// Asks once for each item, up to `most` ahead of their answers, which are awaited in that order. For the layers above,
/// which ask again for all that they had when a connection is made again.
///
/// `ask` queues a question and gives what awaits its answer; `None` where there is nothing to be asked any more. Where
/// it says `Overloaded`, the peer permits fewer at once: it is called again for this item once an answer has come.
///
/// # Errors
/// The first that a question or what awaits an answer gives; nothing is asked after it.
///
/// # Cancel safety
/// What was asked stays asked.
pub async fn ask_ahead<T, F: Future<Output = Result<(), CallError>>>(
    items: impl IntoIterator<Item = T>,
    most: usize,
    ask: impl Fn(&T) -> Result<Option<F>, CallError>,
) -> Result<(), CallError> {
    let mut ahead = VecDeque::new();
    for item in items {
        loop {
            if ahead.len() < most {
                match ask(&item) {
                    Ok(asked) => break ahead.extend(asked),
                    Err(error) if matches!(error.kind(), CallErrorKind::Overloaded) && !ahead.is_empty() => {}
                    Err(error) => return Err(error),
                }
            }
            if let Some(oldest) = ahead.pop_front() {
                oldest.await?;
            }
        }
    }
    for asked in ahead {
        asked.await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fmt::Write as _;

    use super::*;

    fn error(kind: CallErrorKind) -> CallError {
        CallError::new(kind, "peer", "subject", "what")
    }

    /// What is asked (`a`) and answered (`h`) of six items, in that order, of which three may be ahead, where the peer
    /// permits so many at once, answers one with an error, and nothing is to be asked of another.
    async fn asked(permits: usize, fails: Option<u32>, left_out: Option<u32>) -> (String, Result<(), String>) {
        let (log, waiting) = (RefCell::new(String::new()), RefCell::new(0));
        let outcome = ask_ahead(0..6_u32, 3, |item| {
            let item = *item;
            if left_out == Some(item) {
                return Ok(None);
            }
            if *waiting.borrow() >= permits {
                return Err(error(CallErrorKind::Overloaded));
            }
            *waiting.borrow_mut() += 1;
            write!(log.borrow_mut(), "a{item} ").unwrap();
            let (log, waiting) = (&log, &waiting);
            Ok(Some(async move {
                *waiting.borrow_mut() -= 1;
                write!(log.borrow_mut(), "h{item} ").unwrap();
                if fails == Some(item) { Err(error(CallErrorKind::Disconnected)) } else { Ok(()) }
            }))
        });
        let outcome = outcome.await.map_err(|error| format!("{:?}", error.kind()));
        (log.into_inner(), outcome)
    }

    #[tokio::test]
    async fn so_many_go_ahead_as_may_and_the_peer_permits() {
        let rows = [
            (9, None, "a0 a1 a2 h0 a3 h1 a4 h2 a5 h3 h4 h5 "),
            (2, None, "a0 a1 h0 a2 h1 a3 h2 a4 h3 a5 h4 h5 "),
            (1, None, "a0 h0 a1 h1 a2 h2 a3 h3 a4 h4 a5 h5 "),
            (9, Some(1), "a0 a2 a3 h0 a4 h2 a5 h3 h4 h5 "),
        ];
        for (permits, left_out, expected) in rows {
            assert_eq!(asked(permits, None, left_out).await, (expected.to_owned(), Ok(())), "{permits} {left_out:?}");
        }
    }

    #[tokio::test]
    async fn the_first_error_ends_it() {
        let (log, outcome) = asked(9, Some(1), None).await;
        assert_eq!((&*log, outcome), ("a0 a1 a2 h0 a3 h1 ", Err("Disconnected".to_owned())));
        let (log, outcome) = asked(0, None, None).await;
        assert_eq!((&*log, outcome), ("", Err("Overloaded".to_owned())), "no answer can make room");
    }
}
