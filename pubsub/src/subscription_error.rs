/// What a subscription has to tell beside messages.
///
/// Of all but `Decode` a subscription gives at most one, as its last item.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubscriptionError {
    /// The connection ended. What was published since was not heard.
    #[error("topic {topic:?} is heard no more: the connection to {peer} ended; connect and subscribe again")]
    Disconnected {
        /// The topic.
        topic: String,
        /// The address of the center.
        peer: String,
    },
    /// The topic was removed, and with it all its subscriptions. Only session peers are told.
    #[error("topic {topic:?} was removed at {peer}; subscribe again once it is there again")]
    TopicRemoved {
        /// The topic.
        topic: String,
        /// The address of the center.
        peer: String,
    },
    /// Messages came faster than they were taken, and reading from the connection could not pause, since calls waited
    /// for answers on it. What came after those that were still taken is lost.
    #[error(
        "topic {topic:?} is heard no more: messages came faster than they were taken, and over {max_bytes} bytes of them \
         would wait; take them faster, use a connection without calls, or raise max_bytes, then subscribe again"
    )]
    Lagged {
        /// The topic.
        topic: String,
        /// The bound; see [`SubscriptionBuilder::max_bytes`](crate::SubscriptionBuilder::max_bytes).
        max_bytes: usize,
    },
    /// A message does not have the type that was asked for. The subscription goes on.
    #[error("a message of topic {topic:?} does not have the type that was asked for")]
    Decode {
        /// The topic.
        topic: String,
        /// Where it differs.
        source: serde_json::Error,
    },
}

impl SubscriptionError {
    /// The topic that it is about.
    pub fn topic(&self) -> &str {
        match self {
            Self::Disconnected { topic, .. }
            | Self::TopicRemoved { topic, .. }
            | Self::Lagged { topic, .. }
            | Self::Decode { topic, .. } => topic,
        }
    }
}
