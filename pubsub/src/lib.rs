//! Who hears what: topics, those who publish to them and those who are subscribed.
//!
//! In reading order, first the center's side:
//!
//! 1. [`TopicManager`]: who is subscribed to what, pure; with [`TopicLimits`] and [`TopicError`]. One topic is in
//!    `topic`, what it keeps for those who come back in `ring`, and what all of them keep in `kept`; who holds which topic,
//!    and what each connection takes, in `holdings`.
//! 2. [`TopicService`]: the handler of REQ_TOPIC around it. How a message becomes the frames that are pushed stands in
//!    `publication`, with `numbered` for those that carry a number, and how they reach each subscriber in `delivery`;
//!    what a run of messages has in common is read once, see `spelling`.
//!
//! Then the client's:
//!
//! 3. [`Topics`]: create, remove, publish; [`Publisher`]: publish much; what it publishes waits for company, see
//!    `gathering`.
//! 4. [`Subscription`]: a stream of [`News`], ended by a [`SubscriptionError`], or of [`Event`]s; [`TypedSubscription`]
//!    reads each message as a type, [`subscribe_with`] hands each to a callback.
//! 5. What is missing: `sequence`, what one subscription has had, by numbers; `progress`, how far a connection has
//!    heard a topic, and what is asked for when another takes its place. Both pure; `resume` does it.
//! 6. Several centers: `part`, a subscription at one of them, and `several`, all of its parts; `repeats`, which
//!    messages came before, pure; `relay` publishes to one and again to the next, `unconfirmed`, pure, says what;
//!    `wishes`, pure: which topics a center that comes back is to have.
//! 7. Below them: `bundle`, messages that came together; `backlog`, what waits for one subscription, pure, with `queue`
//!    around it; `listeners`, who on a connection listens to what, pure, with `hub` around it.

#![deny(missing_docs)]

mod backlog;
mod bundle;
mod callback;
mod delivery;
mod event;
mod everywhere;
mod gathering;
mod holdings;
mod hub;
mod kept;
mod listeners;
mod news;
mod numbered;
mod outgoing;
mod part;
mod progress;
mod publication;
mod publisher;
mod queue;
mod relay;
mod repeats;
mod resume;
mod ring;
mod sequence;
mod service;
mod several;
mod slack;
mod spelling;
mod subscription;
mod subscription_error;
mod topic;
mod topic_manager;
mod topics;
mod unconfirmed;
mod wishes;

pub use callback::{SubscriptionGuard, subscribe_with};
pub use callboard_common::{Missed, SlowPolicy};
pub use event::Event;
pub use news::News;
pub use publisher::Publisher;
pub use service::TopicService;
pub use subscription::{Subscription, SubscriptionBuilder, TypedSubscription};
pub use subscription_error::SubscriptionError;
pub use topic_manager::{TopicError, TopicLimits, TopicManager};
pub use topics::Topics;
