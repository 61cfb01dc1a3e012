use std::fmt;

/// The `rcode` of an answer: a number on the wire, not an error type.
///
/// 0 to 8 are those of the v1 protocol; the rest are Callboard's.
///
/// ```
/// use callboard_common::ResultCode;
/// assert_eq!(ResultCode::NotFoundService.to_wire(), 5);
/// assert_eq!(ResultCode::from_wire(17).to_string(), "OVERLOADED");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ResultCode {
    /// 0: done.
    Ok,
    /// 1: the body is not a document of its codec.
    ParseFailed,
    /// 2: not an object, a required key missing or of the wrong type, an unknown kind.
    InvalidMessage,
    /// 3: the peer that should answer is gone.
    Disconnected,
    /// 4: parameters fail the method's description.
    InvalidParams,
    /// 5: nobody provides the method (here).
    NotFoundService,
    /// 6: the optype is not one of this kind's.
    InvalidOptype,
    /// 7: the topic was never created, or was removed.
    NotFoundTopic,
    /// 8: the handler panicked, or its result could not be encoded.
    InternalError,
    /// 16: the deadline passed.
    Timeout,
    /// 17: a queue or a limit is full; refused at once.
    Overloaded,
    /// 18: the caller gave up.
    Cancelled,
    /// 19: the peer has not said who it is.
    Unauthenticated,
    /// 20: the peer may not do this.
    PermissionDenied,
    /// 21: a frame or a name is larger than its bound.
    TooLarge,
    /// 22: draining, or no provider can be reached.
    Unavailable,
    /// 23: the name is taken and may not be shared; a call's idempotency key is another call's.
    Conflict,
    /// 64: the handler's own error; its code, message and data stand in `error`.
    Application,
    /// A number that this version does not know.
    Unknown(i64),
}

impl ResultCode {
    /// The code that a wire number stands for.
    pub const fn from_wire(number: i64) -> Self {
        match number {
            0 => Self::Ok,
            1 => Self::ParseFailed,
            2 => Self::InvalidMessage,
            3 => Self::Disconnected,
            4 => Self::InvalidParams,
            5 => Self::NotFoundService,
            6 => Self::InvalidOptype,
            7 => Self::NotFoundTopic,
            8 => Self::InternalError,
            16 => Self::Timeout,
            17 => Self::Overloaded,
            18 => Self::Cancelled,
            19 => Self::Unauthenticated,
            20 => Self::PermissionDenied,
            21 => Self::TooLarge,
            22 => Self::Unavailable,
            23 => Self::Conflict,
            64 => Self::Application,
            other => Self::Unknown(other),
        }
    }

    /// The wire number.
    pub const fn to_wire(self) -> i64 {
        match self {
            Self::Ok => 0,
            Self::ParseFailed => 1,
            Self::InvalidMessage => 2,
            Self::Disconnected => 3,
            Self::InvalidParams => 4,
            Self::NotFoundService => 5,
            Self::InvalidOptype => 6,
            Self::NotFoundTopic => 7,
            Self::InternalError => 8,
            Self::Timeout => 16,
            Self::Overloaded => 17,
            Self::Cancelled => 18,
            Self::Unauthenticated => 19,
            Self::PermissionDenied => 20,
            Self::TooLarge => 21,
            Self::Unavailable => 22,
            Self::Conflict => 23,
            Self::Application => 64,
            Self::Unknown(other) => other,
        }
    }
}

impl fmt::Display for ResultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self {
            Self::Ok => "OK",
            Self::ParseFailed => "PARSE_FAILED",
            Self::InvalidMessage => "INVALID_MSG",
            Self::Disconnected => "DISCONNECTED",
            Self::InvalidParams => "INVALID_PARAMS",
            Self::NotFoundService => "NOT_FOUND_SERVICE",
            Self::InvalidOptype => "INVALID_OPTYPE",
            Self::NotFoundTopic => "NOT_FOUND_TOPIC",
            Self::InternalError => "INTERNAL_ERROR",
            Self::Timeout => "TIMEOUT",
            Self::Overloaded => "OVERLOADED",
            Self::Cancelled => "CANCELLED",
            Self::Unauthenticated => "UNAUTHENTICATED",
            Self::PermissionDenied => "PERMISSION_DENIED",
            Self::TooLarge => "TOO_LARGE",
            Self::Unavailable => "UNAVAILABLE",
            Self::Conflict => "CONFLICT",
            Self::Application => "APPLICATION",
            Self::Unknown(number) => return write!(f, "code {number}"),
        };
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_the_round_trip() {
        for number in -3..200 {
            assert_eq!(ResultCode::from_wire(number).to_wire(), number);
        }
    }
}
