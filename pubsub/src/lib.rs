//! Who hears what: topics, those who publish to them and those who are subscribed.
//!
//! In reading order, first the center's side:
//!
//! 1. [`TopicManager`]: who is subscribed to what, pure; with [`TopicLimits`] and [`TopicError`].
//! 2. [`TopicService`]: the handler of REQ_TOPIC around it. How a message becomes the frames that are pushed stands in
//!    `publication`; what a run of messages has in common is read once, see `spelling`.
//!
//! Then the client's:
//!
//! 3. [`Topics`]: create, remove, publish; [`Publisher`]: publish much; what it publishes waits for company, see
//!    `gathering`.
//! 4. [`Subscription`]: a stream of [`News`], ended by a [`SubscriptionError`]; [`TypedSubscription`] reads each message
//!    as a type, [`subscribe_with`] hands each to a callback.
//! 5. Below them: `bundle`, messages that came together; `backlog`, what waits for one subscription, pure, with `queue`
//!    around it; `listeners`, who on a connection listens to what, pure, with `hub` around it.

#![deny(missing_docs)]

mod backlog;
mod bundle;
mod callback;
mod gathering;
mod hub;
mod listeners;
mod news;
mod publication;
mod publisher;
mod queue;
mod service;
mod spelling;
mod subscription;
mod subscription_error;
mod topic_manager;
mod topics;

pub use callback::{SubscriptionGuard, subscribe_with};
pub use news::News;
pub use publisher::Publisher;
pub use service::TopicService;
pub use subscription::{Subscription, SubscriptionBuilder, TypedSubscription};
pub use subscription_error::SubscriptionError;
pub use topic_manager::{TopicError, TopicLimits, TopicManager};
pub use topics::Topics;
