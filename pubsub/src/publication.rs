use bytes::{Bytes, BytesMut};
use callboard_common::{
    Codec, Connection, Encode, EncodeError, Head, Json, Message, MessageType, Raw, Shape, Shared, TopicRequest,
};
use serde_json::value::RawValue;

/// A published message on its way to the subscribers, in the forms that they need, each made once at most.
///
/// The publisher's own frame is forwarded where it may be, and that costs next to nothing. Any other form is made only
/// if a subscriber needs it. To make it is to read and copy the message, so it is not done under the lock on the topics:
/// under the lock, [`missing`](Publication::missing) tells what is still to be made.
#[derive(Debug)]
pub(crate) struct Publication<'a, C> {
    publisher: &'a C,
    message: &'a Message,
    request: &'a TopicRequest<'a>,
    is_string: bool,
    /// The message as it is.
    value: Option<Shared>,
    /// What is not a string, as its compact JSON text in a string: v1 peers take strings only.
    text: Option<Text>,
}

/// How a message reaches a subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    Value,
    Text,
}

#[derive(Debug)]
enum Text {
    Made(Shared),
    /// Its escapes take the frame over the bound.
    TooLarge,
}

/// Smaller messages are copied before they are queued: a slice would keep the whole buffer that it was read into, 64 KiB
/// at least, and what a queue holds must be little more than what it counts.
const COPY_BELOW_BYTES: usize = 32 << 10;

impl<'a, C: Connection> Publication<'a, C> {
    pub(crate) fn new(publisher: &'a C, message: &'a Message, request: &'a TopicRequest<'a>) -> Self {
        let is_string = request.message.is_some_and(|value| Json::shape(value) == Shape::String);
        let value = is_forwardable(message, request).then(|| publisher.share(to_keep(message).frame().clone()));
        Self { publisher, message, request, is_string, value, text: None }
    }

    pub(crate) fn publisher(&self) -> &C {
        self.publisher
    }

    /// A form that one of these subscribers needs and that is not yet made.
    pub(crate) fn missing<'c>(&self, mut subscribers: impl Iterator<Item = &'c C> + Clone) -> Option<Form>
    where
        C: 'c,
    {
        if self.value.is_none() && subscribers.clone().any(|peer| self.form(peer) == Form::Value) {
            return Some(Form::Value);
        }
        let texts = self.text.is_none() && !self.is_string && subscribers.any(|peer| self.form(peer) == Form::Text);
        texts.then_some(Form::Text)
    }

    /// Makes a form.
    ///
    /// # Errors
    /// The message as it is can't be put into a frame of ours. That its text can't is a matter of those who need that.
    pub(crate) fn make(&mut self, form: Form) -> Result<(), EncodeError> {
        match form {
            Form::Value => self.value = Some(self.publisher.share(self.value_frame()?)),
            Form::Text => {
                let made = self.text_frame().map(|frame| Text::Made(self.publisher.share(frame)));
                self.text = Some(made.unwrap_or(Text::TooLarge));
            }
        }
        Ok(())
    }

    /// The frame for this subscriber, once nothing is missing; `None` if the message has no form for it.
    pub(crate) fn frame(&self, peer: &C) -> Option<&Shared> {
        match (self.form(peer), &self.text) {
            (Form::Value, _) => self.value.as_ref(),
            (Form::Text, Some(Text::Made(frame))) => Some(frame),
            (Form::Text, _) => None,
        }
    }

    fn form(&self, peer: &C) -> Form {
        if self.is_string || peer.session().is_some() { Form::Value } else { Form::Text }
    }

    fn value_frame(&self) -> Result<Bytes, EncodeError> {
        let TopicRequest { topic, op, message, canonical } = self.request;
        if *canonical {
            return self.encode(&SameBody(self.message));
        }
        let message = message.map(Json::read::<&RawValue>).transpose();
        let message = message.map_err(|e| EncodeError::Value(e.to_string()))?;
        self.encode(&TopicRequest { message, ..TopicRequest::new(&**topic, *op) })
    }

    fn text_frame(&self) -> Result<Bytes, EncodeError> {
        let text = self.request.message.map(compact_text).unwrap_or_default();
        self.encode(&TopicRequest::publish(&*self.request.topic, text))
    }

    /// The publisher's id, and none of its flags.
    fn encode<B: Encode>(&self, body: &B) -> Result<Bytes, EncodeError> {
        self.publisher.encode(Head::new(MessageType::TopicRequest, self.message.id()), body)
    }
}

/// Whether the publisher's frame is what we would push: our spelling, and nothing in its header that is the publisher's.
fn is_forwardable(message: &Message, request: &TopicRequest<'_>) -> bool {
    request.canonical && message.flags() == 0 && message.codec() == Json::ID
}

/// A message in the form in which it may be kept for long.
pub(crate) fn to_keep(message: &Message) -> Message {
    if message.frame().len() < COPY_BELOW_BYTES { message.detach() } else { message.clone() }
}

/// A value's JSON text without white space between its parts.
pub(crate) fn compact_text(value: Raw<'_>) -> String {
    let mut text = BytesMut::with_capacity(value.bytes().len());
    Json::write_compact(value, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// The body of another message, byte for byte.
struct SameBody<'a>(&'a Message);

impl Encode for SameBody<'_> {
    fn kind(&self) -> MessageType {
        self.0.kind()
    }

    fn encode<C: Codec>(&self, out: &mut BytesMut) -> Result<(), EncodeError> {
        out.extend_from_slice(self.0.body());
        Ok(())
    }
}
