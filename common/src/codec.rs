use bytes::BytesMut;
use serde::{Deserialize, Serialize};
use std::borrow::Cow;

use crate::BodyError;

/// How a body is written: JSON now ([`Json`](crate::Json)); the tests hold a second.
///
/// A codec checks a whole document in one pass and hands out the members asked for, still encoded. So an envelope is
/// read without building anything, and a method's parameters are read once, straight into the method's own type.
pub trait Codec: 'static {
    /// Bits 16 to 23 of `MType`.
    const ID: u8;
    /// The document that is an object without members.
    const EMPTY_OBJECT: &'static [u8];

    /// Checks the whole document and returns the members of its top-level object that bear these names; where a name
    /// stands twice, the last one counts. Other members are checked and passed over.
    ///
    /// # Errors
    /// [`ResultCode::ParseFailed`](crate::ResultCode) where `document` is not one valid document (syntax, encoding,
    /// nesting deeper than 128), `InvalidMessage` where it is not an object.
    fn members<'a, const N: usize>(document: &'a [u8], names: [&str; N]) -> Result<[Option<Raw<'a>>; N], BodyError>;

    /// The items of an array; `None` where the value is not an array. Nothing is built: a peer can put an item into
    /// two bytes, and a list of them would take many times what was received.
    fn items(value: Raw<'_>) -> Option<impl Iterator<Item = Raw<'_>>>;

    /// The text of a string; `None` where the value is not a string. Allocates no more than the value's own bytes.
    fn text(value: Raw<'_>) -> Option<Cow<'_, str>>;

    /// The value of an integer; `None` where the value is not one (1.0 is not).
    fn integer(value: Raw<'_>) -> Option<Integer>;

    /// What sort of value this is, by its first byte.
    fn shape(value: Raw<'_>) -> Shape;

    /// Reads one value into a type of the caller's.
    ///
    /// # Errors
    /// The value does not have the type's form; the text says where.
    fn read<'a, T: Deserialize<'a>>(value: Raw<'a>) -> Result<T, ReadError>;

    /// Appends one value.
    ///
    /// # Errors
    /// The type refuses to be written, for example a map whose keys are no strings.
    fn write<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), EncodeError>;

    /// Appends a text.
    ///
    /// # Errors
    /// As [`write`](Self::write).
    fn write_text(text: &str, out: &mut BytesMut) -> Result<(), EncodeError> {
        Self::write(text, out)
    }
}

/// One value of a checked document, still encoded, borrowed from the frame.
///
/// It differs from `serde_json::value::RawValue` in that it costs no second pass to make: the codec that handed it out
/// has checked it already. [`Codec::read`] reads it into any type, `Box<RawValue>` among them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Raw<'a>(pub(crate) &'a [u8]);

impl<'a> Raw<'a> {
    /// For codecs: `value` is one whole value of a document that the codec has checked. Others take what a codec hands
    /// out, for example [`Json::check`](crate::Json::check).
    pub const fn new(value: &'a [u8]) -> Self {
        Self(value)
    }

    /// The encoded value.
    pub const fn bytes(self) -> &'a [u8] {
        self.0
    }
}

/// Writes as the value that it stands for. JSON text in a JSON document; refused by another codec's serializer.
impl Serialize for Raw<'_> {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let raw: &serde_json::value::RawValue =
            serde_json::from_slice(self.0).map_err(|e| serde::ser::Error::custom(e.to_string()))?;
        raw.serialize(serializer)
    }
}

/// An integer of the wire, whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Integer {
    /// One that fits.
    Small(i64),
    /// One outside of `i64`; no field of ours has a use for it.
    Big,
}

/// The sorts of value that every codec knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Shape {
    /// Nothing.
    Null,
    /// True or false.
    Bool,
    /// A number without fraction or exponent.
    Integer,
    /// Another number.
    Number,
    /// A string.
    String,
    /// A list.
    Array,
    /// Names with values.
    Object,
}

impl Shape {
    /// The name that error messages use, for example `integer`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::String => "string",
            Self::Array => "array",
            Self::Object => "object",
        }
    }
}

impl std::fmt::Display for Shape {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

/// A value does not have the form that its reader asked for.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ReadError(String);

impl ReadError {
    /// An error that says where and why.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

/// A body could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// The value's own type refused.
    #[error("value can't be encoded: {0}")]
    Value(String),
    /// The frame would be over the bound.
    #[error("frame of {frame_bytes} bytes is over the bound of {max_frame_bytes}")]
    TooLarge {
        /// What the frame would take.
        frame_bytes: usize,
        /// The bound.
        max_frame_bytes: usize,
    },
    /// The id is longer than the wire allows.
    #[error("id of {id_bytes} bytes is over the bound of {max_id_bytes}")]
    IdTooLong {
        /// The id's length.
        id_bytes: usize,
        /// The bound.
        max_id_bytes: usize,
    },
}
