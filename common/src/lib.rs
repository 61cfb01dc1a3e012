//! Frames, messages, result codes, and the traits that the other crates implement. No socket, no clock, no task, no
//! tokio.
//!
//! In reading order:
//!
//! 1. [`MessageType`] and [`ResultCode`]: the numbers of the wire.
//! 2. [`Message`]: one whole frame; [`Head`]: what an encoder is told.
//!    [`PublishId`]: how a message that is repeated is known.
//! 3. [`Protocol`] (bytes to messages) and its form [`LengthValue`], with a [`BodyFilter`].
//! 4. [`Codec`] (bodies to values) and its form [`Json`].
//! 5. [`Body`]: one type per kind, [`RpcRequest`] to [`SessionAnswer`].
//! 6. [`Requestor`]: pairs each answer with its call; pure.
//! 7. [`Connection`] and [`Handler`]: a peer, and what a layer does with its messages; [`Dispatcher`] between them;
//!    [`Recorder`], a connection for tests.
//! 7. [`Shares`]: what each connection takes of something that all share.

#![deny(missing_docs)]

mod body;
mod caller_tag;
mod cancel;
mod code;
mod codec;
mod connection;
mod dispatcher;
mod heartbeat;
mod host;
mod json;
mod json_writer;
mod kind;
mod length_value;
mod message;
mod ping;
#[cfg(feature = "planted")]
mod planted;
mod protocol;
mod publish_id;
mod recorder;
mod requestor;
mod scan;
mod session;
mod shares;

pub use body::{
    Body, BodyError, CallMeta, Decode, Encode, ErrorInfo, Executed, GoAway, HostList, Limits, ListedHost, Missed,
    Refusal, RpcAnswer, RpcError, RpcRequest, RpcResponse, ServiceAnswer, ServiceOp, ServiceRequest, SessionAnswer,
    SessionRequest, SlowPolicy, Subscribed, TopicAnswer, TopicOp, TopicOperation, TopicOptions, TopicPosition,
    TopicRequest, Verbatim,
};
pub use caller_tag::CallerTag;
pub use cancel::Cancel;
pub use code::ResultCode;
pub use codec::{Codec, EncodeError, Integer, Raw, ReadError, Shape};
pub use connection::{Connection, ConnectionId, Event, Handler, InFlight, SendError, Shared};
pub use dispatcher::{Dispatcher, Unhandled, refuse, refuse_body, refuse_draining};
pub use heartbeat::{Heartbeat, Heartbeats};
pub use host::{Host, HostError};
pub use json::Json;
pub use kind::MessageType;
pub use length_value::{DEFAULT_MAX_FRAME_BYTES, LengthValue};
pub use message::{FLAG_ONE_WAY, FLAG_RELAY, HEADER_BYTES, Head, MAX_ID_BYTES, Message};
pub use ping::Ping;
#[cfg(feature = "planted")]
#[doc(hidden)]
pub use planted::Planted;
pub use protocol::{BodyFilter, Plain, Protocol, ProtocolError};
pub use publish_id::PublishId;
pub use recorder::{Recorder, Sent};
pub use requestor::{RequestId, Requestor};
pub use session::{Feature, Features, Session};
pub use shares::{Room, Shares};
