//! Services sign in, callers find and call them, and topics carry the news.
//!
//! A **center** knows who provides what and who hears what. **Providers** serve methods and register them there;
//! **callers** ask it once and then call providers directly; **publishers** and **subscribers** meet there in topics.
//! All of it is one protocol over TCP or Unix sockets, and all of it embeds in any program.
//!
//! # A provider
//!
//! ```
//! use callboard::{Provider, Router, Server};
//!
//! #[derive(serde::Deserialize)]
//! struct Pair {
//!     num1: i64,
//!     num2: i64,
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! # let embedded = callboard::Center::builder().listen("127.0.0.1:0").loops(1).start().await?;
//! # let center = embedded.address();
//! let router = Router::new().method("add", |pair: Pair| Ok(pair.num1 + pair.num2));
//! let server = Server::builder().router(router.clone()).listen("127.0.0.1:0").start().await?;
//! let provider = Provider::connect(center).await?.announce(router.names(), server.addresses()).await?;
//! // Most go on with `callboard::serve_until_signal(provider, server).await`. This one leaves at once:
//! callboard::leave(provider, server).await;
//! # Ok(())
//! # }
//! ```
//!
//! # A caller
//!
//! ```
//! use callboard::Caller;
//! use serde_json::json;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! # use callboard::{Center, Provider, Router, Server};
//! # #[derive(serde::Deserialize)]
//! # struct Pair { num1: i64, num2: i64 }
//! # let embedded = Center::builder().listen("127.0.0.1:0").loops(1).start().await?;
//! # let center = &embedded.address();
//! # let router = Router::new().method("add", |pair: Pair| Ok(pair.num1 + pair.num2));
//! # let names = router.names();
//! # let server = Server::builder().router(router).listen("127.0.0.1:0").loops(1).start().await?;
//! # let _provider = Provider::connect(center).await?.announce(names, server.addresses()).await?;
//! let caller = Caller::connect(center).await?;
//! let sum: i64 = caller.call("add", &json!({ "num1": 1, "num2": 2 })).await?;
//! assert_eq!(sum, 3);
//! # Ok(())
//! # }
//! ```
//!
//! # A subscriber
//!
//! ```
//! use callboard::{Client, Subscription, Topics};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! # let embedded = callboard::Center::builder().listen("127.0.0.1:0").loops(1).start().await?;
//! # let center = embedded.address();
//! let client = Client::connect(center).await?;
//! let topics = Topics::new(&client);
//! topics.create("news").await?;
//! let mut news = Subscription::open(&client, "news").await?;
//! topics.publish("news", "curtain up").await?;
//! let message = news.next().await.transpose()?.ok_or_else(|| anyhow::anyhow!("the subscription has ended"))?;
//! assert_eq!(message.text(), "curtain up");
//! # Ok(())
//! # }
//! ```
//!
//! # A center
//!
//! The program `callboard center` is one. So is any program that has these lines:
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> anyhow::Result<()> {
//! let center = callboard::Center::builder().listen("127.0.0.1:0").start().await?;
//! println!("listening on {}", center.address());
//! center.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! # The end
//!
//! [`serve_until_signal`] is the main loop of a provider: after SIGTERM it [leaves](leave) in the order in which no
//! call is lost. [`Signals`] is for programs that do other things at their end.
//!
//! # The rooms
//!
//! What most programs need stands below, with all that it takes and gives. The rest is in the crates that it comes
//! from, from the ground up: [`common`] (frames and messages), [`net`] (sockets), [`server`] and [`client`] (calls),
//! [`registry`] and [`pubsub`] (who provides and who hears), [`center`] (all of it on one port). [`blocking`] is the
//! client for programs without a runtime.

#![deny(missing_docs)]

/// The README's code, which has to compile too.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;

/// And that of the page on running it.
#[cfg(doctest)]
#[doc = include_str!("../../docs/operations.md")]
struct Operations;

mod leaving;
mod signals;

pub use leaving::{Left, leave, leave_relayed, serve_relayed_until, serve_until, serve_until_signal};
pub use signals::{Signal, Signals};

pub use callboard_center as center;
pub use callboard_client as client;
pub use callboard_common as common;
pub use callboard_net as net;
pub use callboard_pubsub as pubsub;
pub use callboard_registry as registry;
pub use callboard_server as server;
#[cfg(feature = "sim")]
pub use callboard_sim as sim;

pub use callboard_center::{Center, CenterBuilder, CenterError, Config, ConfigError, Setting};
pub use callboard_client::{
    Call, CallError, CallErrorKind, Centers, Client, ClientBuilder, ClientState, ClientStates, Inbox, Reconnect,
    RetryBudget, RetryMetrics, RetryPolicy, SessionMode, blocking, new_idempotency_key,
};
pub use callboard_common::{
    BodyError, Encode, ErrorInfo, Executed, Feature, Features, Host, HostError, Limits as SessionLimits, Message,
    MessageType, ResultCode, Session, Shape,
};
pub use callboard_net::{Address, AddressError, Conn, Limits, LimitsError, ListenError, MetricsSnapshot, Stopped};
pub use callboard_pubsub::{
    Event, Missed, News, Publisher, SlowPolicy, Subscription, SubscriptionBuilder, SubscriptionError,
    SubscriptionGuard, TopicLimits, Topics, TypedSubscription, subscribe_with,
};
pub use callboard_registry::{
    AvailabilityPolicy, Balancer, CacheLimits, Caller, CallerBuilder, Discovery, Notice, Notices, Place, PlaceError,
    Provider, ProviderError, RegistryLimits, RegistryMetrics, RelayLimits, RelayMetrics, RoundRobin, TableSize,
};
#[cfg(feature = "store")]
pub use callboard_server::AnswerFile;
pub use callboard_server::{
    AnswerStore, Context, KeptAnswers, KeptMetrics, Method, MethodError, Parameter, Peer, PeerError, PeerErrorKind,
    Router, Server, ServerBuilder, StartError, StoreError, Type,
};
