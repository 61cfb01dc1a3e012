use callboard_common::Missed;

/// What a subscription has to tell beside messages.
///
/// Of all but `Missed` and `Decode` a subscription gives at most one, as its last item.
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
    /// The connection was lost and made again, and the center did not take the subscription a second time, for example
    /// since it permits fewer now.
    #[error("topic {topic:?} is heard no more: {peer} did not take the subscription again: {why}; subscribe again")]
    Refused {
        /// The topic.
        topic: String,
        /// The address of the center.
        peer: String,
        /// What it answered.
        why: String,
    },
    /// Messages came faster than they were taken, and the policy is not to leave any out. What came after those that
    /// were still taken is lost.
    ///
    /// With the policy `hold` it comes to this only while calls wait for answers on the same connection, which then
    /// must be read.
    #[error(
        "topic {topic:?} is heard no more: messages came faster than they were taken, and {waiting} would wait; take \
         them faster, use a connection without calls, raise that bound or choose another policy, then subscribe again"
    )]
    TooSlow {
        /// The topic.
        topic: String,
        /// Which bound was reached, for people: that of
        /// [`SubscriptionBuilder::max_bytes`](crate::SubscriptionBuilder::max_bytes), for example
        /// `over 67108864 bytes of messages`, or of [`max_messages`](crate::SubscriptionBuilder::max_messages), or
        /// 1,024 losses of the connection and gaps that were not yet told.
        waiting: String,
    },
    /// Messages are missing here: they were left out since they came faster than they were taken, or they were
    /// published while the connection was lost. The subscription goes on with the next one.
    #[error("{} of topic {topic:?} are missing here; the subscription goes on", messages(*missed))]
    Missed {
        /// The topic.
        topic: String,
        /// How many.
        missed: Missed,
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
            | Self::Refused { topic, .. }
            | Self::TooSlow { topic, .. }
            | Self::Missed { topic, .. }
            | Self::Decode { topic, .. } => topic,
        }
    }
}

fn messages(missed: Missed) -> String {
    match missed {
        Missed::Exactly(count) => format!("{count} messages"),
        Missed::Unknown => "messages, nobody knows how many,".to_owned(),
    }
}
