//! Values as JSON text.
//!
//! Texts are what bodies are mostly made of, and `serde_json` looks at each of their bytes by itself. Here they are passed
//! over in blocks; all that is not text is left to `serde_json`.

use std::fmt::Display;
use std::io;

use bytes::{BufMut, BytesMut};
use serde::ser::{self, Serialize, SerializeStruct as _, Serializer as _};
use serde_json::Error;

use crate::scan::plain_bytes;

/// Appends a value, byte for byte as `serde_json` writes it.
pub(crate) struct JsonWriter<'a>(&'a mut BytesMut);

impl<'a> JsonWriter<'a> {
    pub(crate) fn new(out: &'a mut BytesMut) -> Self {
        Self(out)
    }

    fn members(self) -> Parts<'a> {
        Parts { out: self.0, next: b'{', end: b"}", own: None }
    }

    fn items(self) -> Parts<'a> {
        Parts { out: self.0, next: b'[', end: b"]", own: None }
    }

    /// `{"variant":`
    fn variant(&mut self, variant: &str) {
        self.0.put_u8(b'{');
        write_text(variant, self.0);
        self.0.put_u8(b':');
    }
}

/// Appends a text with its quotes.
#[inline]
pub(crate) fn write_text(text: &str, out: &mut BytesMut) {
    if !write_short(text.as_bytes(), out) {
        write_long(text, out);
    }
}

/// The same for what is mostly a name: put together on the stack, it is appended at once. Not done where it is long or has
/// escapes.
#[inline]
fn write_short(text: &[u8], out: &mut BytesMut) -> bool {
    let mut quoted = [b'"'; SHORT_BYTES + 2];
    let Some(quoted) = quoted.get_mut(..text.len() + 2) else { return false };
    let mut plain = true;
    for (to, &byte) in quoted.iter_mut().skip(1).zip(text) {
        *to = byte;
        plain &= !matches!(byte, 0..0x20 | b'"' | b'\\');
    }
    if plain {
        out.put_slice(quoted);
    }
    plain
}

fn write_long(text: &str, out: &mut BytesMut) {
    // Room for what mostly follows too: growing by little would copy the text.
    out.reserve(text.len() + TAIL_BYTES);
    out.put_u8(b'"');
    let mut rest = text.as_bytes();
    let mut next = Next::Clean;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at_checked(next.bytes()).unwrap_or((rest, &[]));
        if let Next::Dense = next {
            let any = write_escaped(piece, out);
            next = if any { Next::Dense } else { Next::Clean };
            rest = behind;
            continue;
        }
        let plain = write_plain(piece, out);
        rest = rest.get(plain..).unwrap_or_default();
        next = match rest.split_first() {
            _ if plain == piece.len() => Next::Clean,
            Some((special, behind)) if plain >= FAR_BYTES => {
                rest = behind;
                write_escaped(&[*special], out);
                Next::Mixed
            }
            _ => Next::Dense,
        };
    }
    out.put_u8(b'"');
}

/// How the next piece of a text is written, by what the last one was like.
#[derive(Clone, Copy)]
enum Next {
    /// Copied, and the copy looked at.
    Clean,
    /// The same; less of it, since a copy behind an escape is in vain.
    Mixed,
    /// Byte by byte.
    Dense,
}

impl Next {
    const fn bytes(self) -> usize {
        match self {
            Self::Clean => 256,
            Self::Mixed => 64,
            Self::Dense => DENSE_BYTES,
        }
    }
}

/// Appends what comes before the first byte that needs an escape; how much that is.
fn write_plain(piece: &[u8], out: &mut BytesMut) -> usize {
    let start = out.len();
    out.put_slice(piece);
    // The copy is looked at, since a long text itself comes from afar.
    let plain = plain_bytes(out.get(start..).unwrap_or_default());
    out.truncate(start + plain);
    plain
}

/// Appends up to `DENSE_BYTES` byte by byte; whether any needed an escape.
fn write_escaped(piece: &[u8], out: &mut BytesMut) -> bool {
    let mut written = [0; LONGEST_ESCAPE * DENSE_BYTES];
    let mut free = written.iter_mut();
    let mut any = false;
    for &byte in piece {
        if matches!(byte, 0..0x20 | b'"' | b'\\') {
            any = true;
            let (escape, len) = escape(byte);
            free.by_ref().zip(&escape[..]).take(len).for_each(|(to, byte)| *to = *byte);
        } else if let Some(to) = free.next() {
            *to = byte;
        }
    }
    let unused = free.len();
    out.put_slice(written.get(..LONGEST_ESCAPE * DENSE_BYTES - unused).unwrap_or_default());
    any
}

/// The bytes of an escape, and how many they are.
fn escape(byte: u8) -> ([u8; LONGEST_ESCAPE], usize) {
    let letter = match byte {
        b'"' | b'\\' => byte,
        0x8 => b'b',
        0xc => b'f',
        b'\n' => b'n',
        b'\r' => b'r',
        b'\t' => b't',
        _ => {
            let [high, low] =
                [byte >> 4, byte & 0xf].map(|half| char::from_digit(half.into(), 16).unwrap_or('0') as u8);
            return ([b'\\', b'u', b'0', b'0', high, low], LONGEST_ESCAPE);
        }
    };
    ([b'\\', letter, 0, 0, 0, 0], 2)
}

const SHORT_BYTES: usize = 14;
/// What ends a body behind its last text, and then some.
const TAIL_BYTES: usize = 64;
/// Escapes that are so far apart are written one by one.
const FAR_BYTES: usize = 16;
const DENSE_BYTES: usize = 32;
const LONGEST_ESCAPE: usize = 6;

/// Appends what `serde_json` writes, piece by tiny piece, without a look at what it has room for before each.
struct Appender<'a>(&'a mut BytesMut);

impl io::Write for Appender<'_> {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn theirs(out: &mut BytesMut) -> serde_json::Serializer<Appender<'_>> {
    serde_json::Serializer::new(Appender(out))
}

/// What has no parts and is no text.
macro_rules! scalars {
    ($($name:ident($type:ty)),*) => {
        $(
            #[inline]
            fn $name(self, value: $type) -> Result<(), Error> {
                theirs(self.0).$name(value)
            }
        )*
    };
}

impl<'a> ser::Serializer for JsonWriter<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Parts<'a>;
    type SerializeTuple = Parts<'a>;
    type SerializeTupleStruct = Parts<'a>;
    type SerializeTupleVariant = Parts<'a>;
    type SerializeMap = Parts<'a>;
    type SerializeStruct = Parts<'a>;
    type SerializeStructVariant = Parts<'a>;

    scalars! {
        serialize_bool(bool), serialize_i8(i8), serialize_i16(i16), serialize_i32(i32), serialize_i64(i64),
        serialize_i128(i128), serialize_u8(u8), serialize_u16(u16), serialize_u32(u32), serialize_u64(u64),
        serialize_u128(u128), serialize_f32(f32), serialize_f64(f64), serialize_char(char), serialize_bytes(&[u8]),
        serialize_unit_struct(&'static str)
    }

    #[inline]
    fn serialize_str(self, text: &str) -> Result<(), Error> {
        write_text(text, self.0);
        Ok(())
    }

    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Error> {
        theirs(self.0).collect_str(value)
    }

    fn serialize_none(self) -> Result<(), Error> {
        self.serialize_unit()
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_unit(self) -> Result<(), Error> {
        self.0.put_slice(b"null");
        Ok(())
    }

    fn serialize_unit_variant(self, _: &'static str, _: u32, variant: &'static str) -> Result<(), Error> {
        self.serialize_str(variant)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.variant(variant);
        value.serialize(JsonWriter(self.0))?;
        self.0.put_u8(b'}');
        Ok(())
    }

    fn serialize_seq(self, _: Option<usize>) -> Result<Parts<'a>, Error> {
        Ok(self.items())
    }

    fn serialize_tuple(self, _: usize) -> Result<Parts<'a>, Error> {
        Ok(self.items())
    }

    fn serialize_tuple_struct(self, _: &'static str, _: usize) -> Result<Parts<'a>, Error> {
        Ok(self.items())
    }

    fn serialize_tuple_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Error> {
        self.variant(variant);
        Ok(Parts { end: b"]}", ..self.items() })
    }

    fn serialize_map(self, _: Option<usize>) -> Result<Parts<'a>, Error> {
        Ok(self.members())
    }

    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Parts<'a>, Error> {
        let own = name.starts_with(THEIR_OWN).then_some(name);
        Ok(Parts { own, ..self.members() })
    }

    fn serialize_struct_variant(
        mut self,
        _: &'static str,
        _: u32,
        variant: &'static str,
        _: usize,
    ) -> Result<Parts<'a>, Error> {
        self.variant(variant);
        Ok(Parts { end: b"}}", ..self.members() })
    }
}

/// Types of `serde_json` that only its own serializer understands have names that begin so: text that is JSON already,
/// and numbers of any size. They have one field.
const THEIR_OWN: &str = "$serde_json::private::";

/// An array or an object that is being written.
pub(crate) struct Parts<'a> {
    out: &'a mut BytesMut,
    /// What comes before the next part: the bracket that opens this one, then commas.
    next: u8,
    end: &'static [u8],
    /// The name of a type of `serde_json`'s own.
    own: Option<&'static str>,
}

impl Parts<'_> {
    fn item<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.out.put_u8(self.next);
        self.next = b',';
        value.serialize(JsonWriter(self.out))
    }

    fn field<T: Serialize + ?Sized>(&mut self, key: &'static str, value: &T) -> Result<(), Error> {
        if let Some(name) = self.own {
            let mut json = theirs(self.out);
            let mut own = json.serialize_struct(name, 1)?;
            own.serialize_field(key, value)?;
            return ser::SerializeStruct::end(own);
        }
        self.out.put_u8(self.next);
        self.next = b',';
        write_text(key, self.out);
        self.out.put_u8(b':');
        value.serialize(JsonWriter(self.out))
    }

    fn close(self) {
        if self.own.is_some() {
            return;
        }
        if self.next != b',' {
            self.out.put_u8(self.next);
        }
        self.out.put_slice(self.end);
    }
}

impl ser::SerializeMap for Parts<'_> {
    type Ok = ();
    type Error = Error;

    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        let start = self.out.len();
        theirs(self.out).serialize_map(None)?.serialize_key(key)?;
        // They have written the bracket that begins a map.
        if let Some(bracket) = self.out.get_mut(start) {
            *bracket = std::mem::replace(&mut self.next, b',');
        }
        Ok(())
    }

    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.out.put_u8(b':');
        value.serialize(JsonWriter(self.out))
    }

    fn end(self) -> Result<(), Error> {
        self.close();
        Ok(())
    }
}

macro_rules! parts {
    ($($of:ident: $method:ident($($key:ident)?) by $by:ident),*) => {
        $(
            impl ser::$of for Parts<'_> {
                type Ok = ();
                type Error = Error;

                fn $method<T: Serialize + ?Sized>(&mut self, $($key: &'static str,)? value: &T) -> Result<(), Error> {
                    self.$by($($key,)? value)
                }

                fn end(self) -> Result<(), Error> {
                    self.close();
                    Ok(())
                }
            }
        )*
    };
}

parts! {
    SerializeSeq: serialize_element() by item,
    SerializeTuple: serialize_element() by item,
    SerializeTupleStruct: serialize_field() by item,
    SerializeTupleVariant: serialize_field() by item,
    SerializeStruct: serialize_field(key) by field,
    SerializeStructVariant: serialize_field(key) by field
}

#[cfg(test)]
mod tests;
