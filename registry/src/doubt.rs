//! What is thought of a provider. Pure: what was seen comes in, what to do comes out.

use callboard_client::SessionMode;

/// Whether the provider at the other end of a connection still answers. Calls that it does not answer in time raise a
/// doubt; a sign of life settles it. While it lasts, others are turned to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// It answers, as far as is known.
    #[default]
    None,
    /// It was asked for a sign of life.
    Asked,
}

/// What becomes of a connection of which a sign of life was awaited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Calls go over it as before.
    Keep,
    /// No further call goes over it. What is under way may still be answered.
    Leave,
}

impl Doubt {
    /// A call ran out of time. Whether a sign of life is to be asked for: one question at a time will do.
    pub(crate) fn raise(&mut self) -> bool {
        std::mem::replace(self, Self::Asked) == Self::None
    }

    /// The time for a sign of life is over, or one has come.
    pub(crate) fn settle(&mut self, alive: bool) -> Verdict {
        if alive {
            *self = Self::None;
            Verdict::Keep
        } else {
            Verdict::Leave
        }
    }

    /// Whether others had better be turned to.
    pub(crate) fn is_raised(self) -> bool {
        self == Self::Asked
    }
}

/// What a host is connected to as, by the run of a provider that discovery names there.
///
/// One that named its run has a session at the center; whether its own server knows sessions shows when it is asked.
/// Once it has opened one it is not taken for a v1 peer by being slow: a program that is stopped accepts connections,
/// too.
pub(crate) fn session_mode(named: Option<&str>, had_session: Option<&str>) -> SessionMode {
    match named {
        None => SessionMode::Off,
        Some(run) if had_session == Some(run) => SessionMode::Require,
        Some(_) => SessionMode::Try,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_question_settles_a_doubt_either_way() {
        let mut doubt = Doubt::default();
        assert!(!doubt.is_raised());
        assert!(doubt.raise(), "the first call that runs out of time asks");
        assert!(!doubt.raise() && doubt.is_raised(), "and those meanwhile do not");
        assert_eq!((doubt.settle(true), doubt.is_raised()), (Verdict::Keep, false));
        assert!(doubt.raise(), "it can be doubted again");
        assert_eq!((doubt.settle(false), doubt.is_raised()), (Verdict::Leave, true));
    }

    #[test]
    fn sessions_are_opened_where_discovery_names_a_run_and_required_where_it_had_one() {
        let rows = [
            (None, None, SessionMode::Off),
            (None, Some("a"), SessionMode::Off),
            (Some("a"), None, SessionMode::Try),
            (Some("a"), Some("b"), SessionMode::Try),
            (Some("a"), Some("a"), SessionMode::Require),
        ];
        for (named, had_session, expected) in rows {
            assert_eq!(session_mode(named, had_session), expected, "{named:?} {had_session:?}");
        }
    }
}
