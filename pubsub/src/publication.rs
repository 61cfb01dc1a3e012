use bytes::{Bytes, BytesMut};
use callboard_common::{
    Codec, Connection, Decode, Encode, EncodeError, Head, Json, Message, MessageType, Raw, Shape, Shared, TopicRequest,
};
use serde_json::value::RawValue;

/// Messages of one publisher to one topic, in order, on their way to the subscribers, in the forms that they need.
///
/// What one read brought is put together and queued as one for each subscriber. The form for v1 peers is made only if one
/// needs it, and not under the lock on the topics: to make it is to read and copy the messages.
#[derive(Debug)]
pub(crate) struct Publication<'a, C> {
    publisher: &'a C,
    topic: String,
    /// All of them, for their answers.
    messages: Vec<Message>,
    /// What their frames take.
    bytes: usize,
    only_strings: bool,
    /// The messages as they are.
    value: Option<Shared>,
    /// What is not a string, as its compact JSON text in a string: v1 peers take strings only.
    text: Option<Text>,
}

/// How a message reaches a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Value,
    Text,
}

#[derive(Debug)]
enum Text {
    Made(Shared),
    /// Its escapes take a frame over the bound.
    TooLarge,
}

/// Smaller messages are copied before they are queued: a slice would keep the whole buffer that it was read into, 64 KiB
/// at least, and what a queue holds must be little more than what it counts.
pub(crate) const COPY_BELOW_BYTES: usize = 32 << 10;
/// Where in a frame its flags stand: the highest byte of `MType`.
const FLAGS_AT: usize = 4;

impl<'a, C: Connection> Publication<'a, C> {
    /// Without messages; where the first is not in our spelling, with a frame of ours for it.
    ///
    /// # Errors
    /// It can't be put into such a frame.
    pub(crate) fn new(publisher: &'a C, first: &Message, request: &TopicRequest<'_>) -> Result<Self, EncodeError> {
        let value = if request.canonical { None } else { Some(respelled(publisher, first, request)?) };
        Ok(Self {
            publisher,
            topic: request.topic.to_string(),
            messages: Vec::new(),
            bytes: 0,
            only_strings: true,
            value,
            text: None,
        })
    }

    /// Adds its first message, or one more that [fits](Self::has_room_for).
    pub(crate) fn add(&mut self, message: Message, is_string: bool) {
        self.bytes += message.frame().len();
        self.only_strings &= is_string;
        self.messages.push(message);
    }

    /// Whether this message, in our spelling, may be queued together with those before it.
    pub(crate) fn has_room_for(&self, message: &Message) -> bool {
        self.value.is_none() && self.bytes + message.frame().len() <= self.publisher.max_shared_bytes()
    }

    pub(crate) fn publisher(&self) -> &C {
        self.publisher
    }

    pub(crate) fn topic(&self) -> &str {
        &self.topic
    }

    /// All of its messages, once they are queued.
    pub(crate) fn into_messages(self) -> Vec<Message> {
        self.messages
    }

    /// Puts the messages together as they are.
    pub(crate) fn make_value(&mut self) {
        if self.value.is_none() {
            let frames = match &self.messages[..] {
                [message] if message.flags() == 0 => to_keep(message).frame().clone(),
                messages => joined(messages, self.bytes),
            };
            self.value = Some(self.publisher.share(frames));
        }
    }

    /// Whether one of these subscribers needs the form for v1 peers, and it is not yet made.
    pub(crate) fn lacks_text<'c>(&self, mut subscribers: impl Iterator<Item = &'c C>) -> bool
    where
        C: 'c,
    {
        self.text.is_none() && !self.only_strings && subscribers.any(|peer| self.form(peer) == Form::Text)
    }

    /// Makes that form. That it can't be made is a matter of those who need it.
    pub(crate) fn make_text(&mut self) {
        let made = self.text_frames().map(|frames| Text::Made(self.publisher.share(frames)));
        self.text = Some(made.unwrap_or(Text::TooLarge));
    }

    /// The frames for this subscriber, once all forms are made; `None` if a message has no form for it.
    pub(crate) fn frames(&self, peer: &C) -> Option<&Shared> {
        match (self.form(peer), &self.text) {
            (Form::Value, _) => self.value.as_ref(),
            (Form::Text, Some(Text::Made(frames))) => Some(frames),
            (Form::Text, _) => None,
        }
    }

    fn form(&self, peer: &C) -> Form {
        if self.only_strings || peer.session().is_some() { Form::Value } else { Form::Text }
    }

    fn text_frames(&self) -> Result<Bytes, EncodeError> {
        let mut frames = BytesMut::with_capacity(self.bytes);
        for message in &self.messages {
            let request = TopicRequest::decode::<Json>(message.body());
            let request = request.map_err(|e| EncodeError::Value(e.message.into_owned()))?;
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
) -> Result<Shared, EncodeError> {
    let value = request.message.map(Json::read::<&RawValue>).transpose();
    let value = value.map_err(|e| EncodeError::Value(e.to_string()))?;
    let body = TopicRequest { message: value, ..TopicRequest::new(&*request.topic, request.op) };
    Ok(publisher.share(encode(publisher, message, &body)?))
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
