//! Values as JSON text.
//!
//! Texts are what bodies are mostly made of, and `serde_json` looks at each of their bytes by itself. Here they are
//! passed over in blocks; all that is not text is left to `serde_json`.

mod text;

use std::fmt::Display;
use std::io;

use bytes::{BufMut, BytesMut};
use serde::ser::{self, Serialize, SerializeStruct as _, Serializer as _};
use serde_json::Error;

pub(crate) use self::text::{write_name, write_text};

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
        write_name(std::mem::replace(&mut self.next, b','), key, self.out);
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
