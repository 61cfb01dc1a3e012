use bytes::{Bytes, BytesMut};
use callboard_common::{
    Codec, Connection, Decode, Encode, EncodeError, Feature, Head, Json, Message, MessageType, Raw, Shape, Shared,
    TopicOp, TopicRequest,
};
use serde_json::value::RawValue;

use crate::numbered::{Numbered, NumberedBody};

/// Messages of one publisher to one topic, in order, on their way to the subscribers, in the forms that they need.
///
/// What one read brought is put together and queued as one for each subscriber. A form is made only if somebody needs
/// it, and not under the lock on the topics: to make it is to read and copy the messages.
#[derive(Debug)]
pub(crate) struct Publication<'a, C> {
    publisher: &'a C,
    topic: String,
    /// All of them, for their answers.
    messages: Vec<Message>,
    /// What their frames take.
    bytes: usize,
    only_strings: bool,
    /// Numbers may be put in front of the bodies as they are.
    takes_seq: bool,
    /// The messages as they are.
    value: Option<Shared>,
    /// What is not a string, as its compact JSON text in a string: v1 peers take strings only.
    text: Option<Made<Shared>>,
    numbered: Option<Made<Numbered>>,
    /// The same on its way, or what tells that it is left out.
    counted: Option<Shared>,
}

/// How a message reaches a subscriber.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Form {
    /// To a v1 peer: a string, if need be of JSON text.
    #[default]
    Text,
    /// As it is.
    Value,
    /// With its number.
    Numbered,
}

impl Form {
    /// What this peer takes.
    pub(crate) fn of<C: Connection>(peer: &C) -> Self {
        match peer.session() {
            None => Self::Text,
            Some(session) if session.features.has(Feature::Seq) => Self::Numbered,
            Some(_) => Self::Value,
        }
    }
}

/// What the subscribers of a topic need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Needs {
    pub(crate) text: bool,
    pub(crate) value: bool,
    pub(crate) numbered: bool,
    /// The number of the next message.
    pub(crate) next: u64,
}

#[derive(Debug)]
enum Made<F> {
    Frames(F),
    /// What the form adds takes a frame over the bound.
    TooLarge,
}

/// Smaller messages are copied before they are queued: a slice would keep the whole buffer that it was read into, 64
/// KiB at least, and what a queue holds must be little more than what it counts.
pub(crate) const COPY_BELOW_BYTES: usize = 32 << 10;
const OVER_THE_BOUND_WITH_ITS_NUMBER: &str =
    "those who count, since with its number it is over the bound on frames: leave 27 bytes for that";
const OVER_THE_BOUND_AS_A_STRING: &str =
    "peers without a session, since they take strings only, and as a string it is over the bound on frames";
const OVER_THE_BOUND: &str =
    "those who count and peers without a session, since in their forms it is over the bound on frames";
/// Where in a frame its flags stand: the highest byte of `MType`.
const FLAGS_AT: usize = 4;

impl<'a, C: Connection> Publication<'a, C> {
    /// Without messages; where the first is not in our spelling, with a frame of ours for it.
    ///
    /// # Errors
    /// It can't be put into such a frame.
    pub(crate) fn new(publisher: &'a C, first: &Message, request: &TopicRequest<'_>) -> Result<Self, EncodeError> {
        let respelled = || respelled(publisher, first, request, None).map(|frame| publisher.share(frame));
        let value = if request.canonical { None } else { Some(respelled()?) };
        Ok(Self {
            publisher,
            topic: request.topic.to_string(),
            messages: Vec::new(),
            bytes: 0,
            only_strings: true,
            takes_seq: request.canonical && request.takes_seq,
            value,
            text: None,
            numbered: None,
            counted: None,
        })
    }

    /// Adds its first message, or one more that [fits](Self::has_room_for).
    pub(crate) fn add(&mut self, message: Message, is_string: bool) {
        self.bytes += message.frame().len();
        self.only_strings &= is_string;
        self.messages.push(message);
    }

    /// Whether this message, spelled as those before it, may be queued together with them.
    pub(crate) fn has_room_for(&self, message: &Message) -> bool {
        self.value.is_none() && self.bytes + message.frame().len() <= self.publisher.max_shared_bytes()
    }

    /// Whether another one as large as the last would have no room.
    pub(crate) fn is_full(&self) -> bool {
        self.messages.last().is_some_and(|last| !self.has_room_for(last))
    }

    pub(crate) fn publisher(&self) -> &C {
        self.publisher
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// How many messages it has.
    pub(crate) fn len(&self) -> u64 {
        self.messages.len() as u64
    }

    /// All of its messages, once they are queued.
    pub(crate) fn into_messages(self) -> Vec<Message> {
        self.messages
    }

    /// Whether all is made that is needed. If so, its numbers are those that come next.
    pub(crate) fn meets(&mut self, needs: Needs) -> bool {
        let value = needs.value || (needs.text && self.only_strings);
        let has_text = !needs.text || self.only_strings || self.text.is_some();
        let counts = match &mut self.numbered {
            Some(Made::Frames(numbered)) => !needs.numbered || numbered.renumber(needs.next),
            Some(Made::TooLarge) => true,
            None => !needs.numbered,
        };
        (!value || self.value.is_some()) && has_text && counts
    }

    /// Makes what is needed. That a form can't be made is a matter of those who need it.
    pub(crate) fn make(&mut self, needs: Needs) {
        if needs.numbered {
            self.numbered = Some(self.numbered_frames(needs.next).map_or(Made::TooLarge, Made::Frames));
        }
        if needs.text && !self.only_strings && self.text.is_none() {
            let made = self.text_frames().map(|frames| self.publisher.share(frames));
            self.text = Some(made.map_or(Made::TooLarge, Made::Frames));
        }
        if needs.value || (needs.text && self.only_strings) {
            self.make_value();
        }
    }

    /// From now on its numbers stay; `next` is the first. Gives the frames that have them, to be kept: what is kept does
    /// not count against the outboxes.
    pub(crate) fn count(&mut self, next: u64) -> Option<Bytes> {
        match self.numbered.take()? {
            Made::Frames(numbered) => {
                let frames = numbered.into_frames().freeze();
                self.counted = Some(self.publisher.share(frames.clone()));
                Some(frames)
            }
            Made::TooLarge => {
                self.numbered = Some(Made::TooLarge);
                self.counted = self.reached(next + self.len() - 1);
                None
            }
        }
    }

    /// The frames for a subscriber, once all is made and counted. Where a message has no such form: what tells so, or
    /// `None`.
    pub(crate) fn frames(&self, form: Form) -> Option<&Shared> {
        match (form, &self.text) {
            (Form::Numbered, _) => self.counted.as_ref(),
            (Form::Text, Some(Made::Frames(frames))) => Some(frames),
            (Form::Text, Some(Made::TooLarge)) => None,
            (Form::Text | Form::Value, _) => self.value.as_ref(),
        }
    }

    /// Why subscribers of a form that was made do not get it, if it is left out for them.
    pub(crate) const fn left_out(&self) -> Option<&'static str> {
        match (&self.numbered, &self.text) {
            (Some(Made::TooLarge), Some(Made::TooLarge)) => Some(OVER_THE_BOUND),
            (Some(Made::TooLarge), _) => Some(OVER_THE_BOUND_WITH_ITS_NUMBER),
            (_, Some(Made::TooLarge)) => Some(OVER_THE_BOUND_AS_A_STRING),
            _ => None,
        }
    }

    /// Tells those who count that all up to this number was sent or is left out. If that has no room either, the next
    /// message's number tells.
    fn reached(&self, seq: u64) -> Option<Shared> {
        let body = <TopicRequest<'_>>::new(&*self.topic, TopicOp::Subscribe).with_seq(seq);
        let id = self.messages.last().map(Message::id).unwrap_or_default();
        let frame = self.publisher.encode(Head::new(MessageType::TopicRequest, id), &body);
        frame.ok().map(|frame| self.publisher.share(frame))
    }

    fn make_value(&mut self) {
        if self.value.is_none() {
            let frames = match &self.messages[..] {
                [message] if message.flags() == 0 => to_keep(message).frame().clone(),
                messages => joined(messages, self.bytes),
            };
            self.value = Some(self.publisher.share(frames));
        }
    }

    fn numbered_frames(&self, first: u64) -> Result<Numbered, EncodeError> {
        if self.takes_seq && self.bytes <= self.publisher.max_shared_bytes() {
            return Ok(Numbered::of(&self.messages, self.bytes, first));
        }
        let mut frames = BytesMut::new();
        for (message, seq) in self.messages.iter().zip(first..) {
            let frame = if self.takes_seq {
                encode(self.publisher, message, &NumberedBody { seq, body: message.body() })?
            } else {
                respelled(self.publisher, message, &read(message)?, Some(seq))?
            };
            // The only one, which may be large, stays where it is.
            frames = match frame.try_into_mut() {
                Ok(frame) if frames.is_empty() => frame,
                Ok(frame) => join(frames, &frame),
                Err(frame) => join(frames, &frame),
            };
        }
        Ok(Numbered::new(frames, first, self.messages.len()))
    }

    fn text_frames(&self) -> Result<Bytes, EncodeError> {
        let mut frames = BytesMut::with_capacity(self.bytes);
        for message in &self.messages {
            let request = read(message)?;
            let value = request.message.filter(|value| !is_string(*value));
            let Some(value) = value else {
                append_unflagged(message, &mut frames);
                continue;
            };
            let text = TopicRequest::publish(&*request.topic, compact_text(value));
            frames.extend_from_slice(&encode(self.publisher, message, &text)?);
        }
        Ok(frames.freeze())
    }
}

pub(crate) fn is_string(value: Raw<'_>) -> bool {
    Json::shape(value) == Shape::String
}

/// A frame of ours for a message in another spelling.
fn respelled<C: Connection>(
    publisher: &C,
    message: &Message,
    request: &TopicRequest<'_>,
    seq: Option<u64>,
) -> Result<Bytes, EncodeError> {
    let value = request.message.map(Json::read::<&RawValue>).transpose();
    let value = value.map_err(|e| EncodeError::Value(e.to_string()))?;
    let body = TopicRequest { message: value, seq, ..TopicRequest::new(&*request.topic, request.op) };
    encode(publisher, message, &body)
}

fn read(message: &Message) -> Result<TopicRequest<'_>, EncodeError> {
    TopicRequest::decode::<Json>(message.body()).map_err(|e| EncodeError::Value(e.message.into_owned()))
}

fn join(mut frames: BytesMut, frame: &[u8]) -> BytesMut {
    frames.extend_from_slice(frame);
    frames
}

/// The publisher's id, and none of its flags.
fn encode<C: Connection, B: Encode>(publisher: &C, message: &Message, body: &B) -> Result<Bytes, EncodeError> {
    publisher.encode(Head::new(MessageType::TopicRequest, message.id()), body)
}

fn joined(messages: &[Message], bytes: usize) -> Bytes {
    let mut frames = BytesMut::with_capacity(bytes);
    for message in messages {
        append_unflagged(message, &mut frames);
    }
    frames.freeze()
}

/// The frame as it is, but for its flags: those are the publisher's.
fn append_unflagged(message: &Message, frames: &mut BytesMut) {
    let start = frames.len();
    frames.extend_from_slice(message.frame());
    if let Some(flags) = frames.get_mut(start + FLAGS_AT) {
        *flags = 0;
    }
}

/// A message in the form in which it may be kept for long.
fn to_keep(message: &Message) -> Message {
    if message.frame().len() < COPY_BELOW_BYTES { message.detach() } else { message.clone() }
}

/// A value's JSON text without white space between its parts.
pub(crate) fn compact_text(value: Raw<'_>) -> String {
    let mut text = BytesMut::with_capacity(value.bytes().len());
    Json::write_compact(value, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}
