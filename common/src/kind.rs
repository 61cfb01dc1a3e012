use std::fmt;

/// What a frame is about: the low 16 bits of its `MType` field.
///
/// Even kinds ask and odd kinds answer; the answer to kind `k` is kind `k + 1`.
///
/// ```
/// use callboard_common::MessageType;
/// assert_eq!(MessageType::from_wire(4), MessageType::ServiceRequest);
/// assert_eq!(MessageType::RpcRequest.answer(), MessageType::RpcResponse);
/// assert!(MessageType::Unknown(6).is_request());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MessageType {
    /// 0: a call.
    RpcRequest,
    /// 1: the answer to a call.
    RpcResponse,
    /// 2: a topic operation, or a message pushed to a subscriber.
    TopicRequest,
    /// 3: the answer to a topic operation.
    TopicResponse,
    /// 4: a registry operation, or an online/offline notice.
    ServiceRequest,
    /// 5: the answer to a registry operation.
    ServiceResponse,
    /// 16: opens a session; the connection's first frame or none.
    SessionRequest,
    /// 17: the answer to a session's opening.
    SessionResponse,
    /// 18: heartbeat, empty body; sessions only.
    Ping,
    /// 19: heartbeat's echo, empty body; sessions only.
    Pong,
    /// 20: the caller of the call with this id has gone; sessions only.
    Cancel,
    /// 21: the sender drains; sessions only.
    GoAway,
    /// A kind that this version does not know.
    Unknown(u16),
}

impl MessageType {
    /// The kind that a wire number stands for.
    pub const fn from_wire(number: u16) -> Self {
        match number {
            0 => Self::RpcRequest,
            1 => Self::RpcResponse,
            2 => Self::TopicRequest,
            3 => Self::TopicResponse,
            4 => Self::ServiceRequest,
            5 => Self::ServiceResponse,
            16 => Self::SessionRequest,
            17 => Self::SessionResponse,
            18 => Self::Ping,
            19 => Self::Pong,
            20 => Self::Cancel,
            21 => Self::GoAway,
            other => Self::Unknown(other),
        }
    }

    /// The wire number.
    pub const fn to_wire(self) -> u16 {
        match self {
            Self::RpcRequest => 0,
            Self::RpcResponse => 1,
            Self::TopicRequest => 2,
            Self::TopicResponse => 3,
            Self::ServiceRequest => 4,
            Self::ServiceResponse => 5,
            Self::SessionRequest => 16,
            Self::SessionResponse => 17,
            Self::Ping => 18,
            Self::Pong => 19,
            Self::Cancel => 20,
            Self::GoAway => 21,
            Self::Unknown(other) => other,
        }
    }

    /// Whether the kind is even. CANCEL (20) is even too, though nobody answers it.
    pub const fn is_request(self) -> bool {
        self.to_wire() & 1 == 0
    }

    /// The kind of the answer: this number with its lowest bit set.
    #[must_use]
    pub const fn answer(self) -> Self {
        Self::from_wire(self.to_wire() | 1)
    }
}

impl fmt::Display for MessageType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RpcRequest => f.write_str("REQ_RPC"),
            Self::RpcResponse => f.write_str("RSP_RPC"),
            Self::TopicRequest => f.write_str("REQ_TOPIC"),
            Self::TopicResponse => f.write_str("RSP_TOPIC"),
            Self::ServiceRequest => f.write_str("REQ_SERVICE"),
            Self::ServiceResponse => f.write_str("RSP_SERVICE"),
            Self::SessionRequest => f.write_str("REQ_SESSION"),
            Self::SessionResponse => f.write_str("RSP_SESSION"),
            Self::Ping => f.write_str("PING"),
            Self::Pong => f.write_str("PONG"),
            Self::Cancel => f.write_str("CANCEL"),
            Self::GoAway => f.write_str("GOAWAY"),
            Self::Unknown(number) => write!(f, "kind {number}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_survives_the_round_trip() {
        for number in 0..=u16::MAX {
            let kind = MessageType::from_wire(number);
            assert_eq!(kind.to_wire(), number);
            assert_eq!(kind.is_request(), number % 2 == 0);
        }
    }
}
