use std::sync::Arc;

use crate::{Heartbeats, Limits};

/// What a peer that opened a session (kinds 16 and 17) said of itself. A peer without one speaks v1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// What the peer calls itself.
    pub name: String,
    /// Which run of the peer this is.
    pub instance: String,
    /// The store in which the peer keeps its answers to calls under keys beyond its own end, if it answers calls.
    pub store: Option<Box<str>>,
    /// What both sides can do beyond v1.
    pub features: Features,
    /// What the answering side permits on this connection.
    pub limits: Limits,
    /// When which side takes the other for dead; `None` where the feature was not agreed on.
    pub heartbeats: Option<Arc<Heartbeats>>,
    /// What the side that opened the session permits the other one, where it offers methods
    /// ([`Serves`](Feature::Serves)). Only the answering side has it.
    pub serving: Option<Limits>,
}

impl Session {
    /// Whether the peer knows the keys of calls that were made within another session: it is the same run of the same program,
    /// or one with the same store. Two peers of which nobody knows which they are, may be any.
    ///
    /// ```
    /// use callboard_common::{Features, Limits, Session};
    /// let run = |instance: &str, store: Option<&str>| Session {
    ///     name: String::new(),
    ///     instance: instance.into(),
    ///     store: store.map(Into::into),
    ///     features: Features::ALL,
    ///     limits: Limits::default(),
    ///     heartbeats: None,
    ///     serving: None,
    /// };
    /// assert!(run("1", None).knows_keys_of(&run("1", None)));
    /// assert!(run("2", Some("s")).knows_keys_of(&run("1", Some("s"))));
    /// assert!(!run("2", None).knows_keys_of(&run("1", Some("s"))));
    /// assert!(!run("", None).knows_keys_of(&run("", None)));
    /// ```
    pub fn knows_keys_of(&self, other: &Self) -> bool {
        let is_same_run = !self.instance.is_empty() && self.instance == other.instance;
        is_same_run || (self.store.is_some() && self.store == other.store)
    }

    /// Whether the peer is a center that this side has connected to, and says of each call that it passes on
    /// [whose it is](crate::CallerTag). What a peer says of it that has connected to this side, is not to be believed.
    pub const fn names_callers(&self) -> bool {
        self.features.has(Feature::Callers) && self.features.has(Feature::Serves) && self.serving.is_none()
    }

    /// Whether the peer [is to be told](crate::CallerTag) whose calls are passed on to it.
    pub const fn learns_callers(&self) -> bool {
        self.features.has(Feature::Callers) && self.serving.is_some()
    }
}

/// A set of [`Feature`]s.
///
/// ```
/// use callboard_common::{Feature, Features};
/// let both = Features::from_names(["one_way", "telepathy"]) & Features::ALL;
/// assert!(both.has(Feature::OneWay));
/// assert_eq!(both.names().collect::<Vec<_>>(), ["one_way"]);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Features(u16);

/// What a side can do beyond v1. Flags, and numbers of messages, must have been named by both sides; a center takes the rest from any session peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// `one_way`: requests with flag bit 24, which are not answered.
    OneWay,
    /// `ping`: kinds 18 and 19.
    Ping,
    /// `withdraw`: REQ_SERVICE with optype 4.
    Withdraw,
    /// `topic_removed`: a subscriber is told when its topic is removed (REQ_TOPIC with optype 1).
    TopicRemoved,
    /// `heartbeat`: the answering side sends a PING where it hears nothing, and each takes the other for dead after a time
    /// that the session's answer names.
    Heartbeat,
    /// `goaway`: who is about to leave says so (kind 21).
    GoAway,
    /// `revisions`: `revision` and `instance` in the answers to discoveries and in notices.
    Revisions,
    /// `seq`: pushed messages carry a number for each topic, and a subscribe may say where to go on.
    Seq,
    /// `cancel`: a caller says that it waits no longer for the answer to a call (kind 20).
    Cancel,
    /// `serves`: the side that opened the session offers methods, which the other one may call.
    Serves,
    /// `keys`: answers to calls with an `idempotency_key` are remembered, and given again to repeats.
    Keys,
    /// `relay`: the answering side passes calls on to providers that listen nowhere; the other one understands that there
    /// are such.
    Relay,
    /// `callers`: the ids of calls that are passed on end with [whose they are](crate::CallerTag), and the provider may call
    /// these.
    Callers,
}

impl Feature {
    const NAMES: [(Self, &'static str); 13] = [
        (Self::OneWay, "one_way"),
        (Self::Ping, "ping"),
        (Self::Withdraw, "withdraw"),
        (Self::TopicRemoved, "topic_removed"),
        (Self::Heartbeat, "heartbeat"),
        (Self::GoAway, "goaway"),
        (Self::Revisions, "revisions"),
        (Self::Seq, "seq"),
        (Self::Cancel, "cancel"),
        (Self::Serves, "serves"),
        (Self::Keys, "keys"),
        (Self::Relay, "relay"),
        (Self::Callers, "callers"),
    ];

    const fn bit(self) -> u16 {
        1 << self as u8
    }
}

impl Features {
    /// All that this version knows.
    pub const ALL: Self = Self(0b1_1111_1111_1111);

    /// The features that bear these names; unknown names are passed over.
    pub fn from_names<'a>(names: impl IntoIterator<Item = &'a str>) -> Self {
        let bit =
            |name| Feature::NAMES.iter().find(|(_, known)| *known == name).map_or(0, |(feature, _)| feature.bit());
        Self(names.into_iter().map(bit).fold(0, |set, bit| set | bit))
    }

    /// The names, as the wire has them.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Feature::NAMES.iter().filter(move |(feature, _)| self.has(*feature)).map(|(_, name)| *name)
    }

    /// The same without this one.
    #[must_use]
    pub const fn without(self, feature: Feature) -> Self {
        Self(self.0 & !feature.bit())
    }

    /// Whether the feature is in the set.
    pub const fn has(self, feature: Feature) -> bool {
        self.0 & feature.bit() != 0
    }
}

impl std::ops::BitAnd for Features {
    type Output = Self;

    fn bitand(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}
