//! A second codec: bencode, which is far enough from JSON to show what a codec may be. `d3:onei1;3:twol1:xnee` is
//! `{"one": 1, "two": ["x", null]}`; to the bencode of torrent files it adds null, true, false and fractions, and a
//! number ends in `;`.

use std::borrow::Cow;
use std::str;

use bytes::{BufMut, BytesMut};
use callboard_common::{BodyError, Codec, EncodeError, Integer, Raw, ReadError, Shape};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Number, Value};

#[derive(Debug)]
pub(crate) struct Bencode;

impl Codec for Bencode {
    const ID: u8 = 200;
    const EMPTY_OBJECT: &'static [u8] = b"de";

    fn members<'a, const N: usize>(document: &'a [u8], names: [&str; N]) -> Result<[Option<Raw<'a>>; N], BodyError> {
        let whole = skip(document, 0).is_some_and(<[u8]>::is_empty);
        if !whole {
            return Err(BodyError::parse_failed("not one bencoded value"));
        }
        let mut rest = document.strip_prefix(b"d").ok_or_else(|| BodyError::invalid("not a dictionary"))?;
        let mut found = [None; N];
        while let Some((name, after)) = string(rest) {
            let (value, after) = split(after).ok_or_else(|| BodyError::parse_failed("a name without a value"))?;
            if let Some(place) = names.iter().position(|known| *known == name) {
                found[place] = Some(value);
            }
            rest = after;
        }
        Ok(found)
    }

    fn items(value: Raw<'_>) -> Option<impl Iterator<Item = Raw<'_>>> {
        let mut rest = value.bytes().strip_prefix(b"l")?;
        Some(std::iter::from_fn(move || {
            let (item, after) = split(rest)?;
            rest = after;
            Some(item)
        }))
    }

    fn text(value: Raw<'_>) -> Option<Cow<'_, str>> {
        string(value.bytes()).map(|(text, _)| Cow::Borrowed(text))
    }

    fn integer(value: Raw<'_>) -> Option<Integer> {
        let digits = value.bytes().strip_prefix(b"i")?.strip_suffix(b";")?;
        Some(str::from_utf8(digits).ok()?.parse().map_or(Integer::Big, Integer::Small))
    }

    fn shape(value: Raw<'_>) -> Shape {
        match value.bytes()[0] {
            b'n' => Shape::Null,
            b't' | b'f' => Shape::Bool,
            b'i' => Shape::Integer,
            b'r' => Shape::Number,
            b'l' => Shape::Array,
            b'd' => Shape::Object,
            _ => Shape::String,
        }
    }

    fn read<'a, T: Deserialize<'a>>(value: Raw<'a>) -> Result<T, ReadError> {
        let (tree, _) = tree(value.bytes()).ok_or_else(|| ReadError::new("not one bencoded value"))?;
        T::deserialize(tree).map_err(|e| ReadError::new(e.to_string()))
    }

    fn write<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), EncodeError> {
        let tree = serde_json::to_value(value).map_err(|e| EncodeError::Value(e.to_string()))?;
        print(&tree, out);
        Ok(())
    }
}

/// What stands behind one value; `None` where none begins here.
fn skip(text: &[u8], depth: usize) -> Option<&[u8]> {
    let (first, mut rest) = text.split_first()?;
    match first {
        b'n' | b't' | b'f' => Some(rest),
        b'i' | b'r' => number(rest).map(|(_, rest)| rest),
        b'l' | b'd' if depth < MAX_DEPTH => loop {
            if let Some(rest) = rest.strip_prefix(b"e") {
                return Some(rest);
            }
            if *first == b'd' {
                rest = string(rest)?.1;
            }
            rest = skip(rest, depth + 1)?;
        },
        _ => string(text).map(|(_, rest)| rest),
    }
}

fn split(text: &[u8]) -> Option<(Raw<'_>, &[u8])> {
    let rest = skip(text, 0)?;
    Some((Raw::new(&text[..text.len() - rest.len()]), rest))
}

fn number(text: &[u8]) -> Option<(Number, &[u8])> {
    let end = text.iter().position(|byte| *byte == b';')?;
    Some((serde_json::from_slice(&text[..end]).ok()?, &text[end + 1..]))
}

fn string(text: &[u8]) -> Option<(&str, &[u8])> {
    let colon = text.iter().position(|byte| !byte.is_ascii_digit()).filter(|at| text[*at] == b':')?;
    let bytes: usize = str::from_utf8(&text[..colon]).ok()?.parse().ok()?;
    let (inner, rest) = text[colon + 1..].split_at_checked(bytes)?;
    Some((str::from_utf8(inner).ok()?, rest))
}

fn tree(text: &[u8]) -> Option<(Value, &[u8])> {
    let (first, mut rest) = text.split_first()?;
    Some(match first {
        b'n' => (Value::Null, rest),
        b't' => (Value::Bool(true), rest),
        b'f' => (Value::Bool(false), rest),
        b'i' | b'r' => number(rest).map(|(number, rest)| (Value::Number(number), rest))?,
        b'l' => {
            let mut items = Vec::new();
            while let Some((item, after)) = tree(rest) {
                items.push(item);
                rest = after;
            }
            (Value::Array(items), rest.strip_prefix(b"e")?)
        }
        b'd' => {
            let mut members = Map::new();
            while let Some((name, after)) = string(rest) {
                let (value, after) = tree(after)?;
                members.insert(name.to_owned(), value);
                rest = after;
            }
            (Value::Object(members), rest.strip_prefix(b"e")?)
        }
        _ => string(text).map(|(text, rest)| (Value::from(text), rest))?,
    })
}

fn print(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Null => out.put_slice(b"n"),
        Value::Bool(true) => out.put_slice(b"t"),
        Value::Bool(false) => out.put_slice(b"f"),
        Value::Number(number) => {
            out.put_slice(if number.is_f64() { b"r" } else { b"i" });
            out.put_slice(number.to_string().as_bytes());
            out.put_slice(b";");
        }
        Value::String(text) => print_string(text, out),
        Value::Array(items) => {
            out.put_slice(b"l");
            for item in items {
                print(item, out);
            }
            out.put_slice(b"e");
        }
        Value::Object(members) => {
            out.put_slice(b"d");
            for (name, value) in members {
                print_string(name, out);
                print(value, out);
            }
            out.put_slice(b"e");
        }
    }
}

fn print_string(text: &str, out: &mut BytesMut) {
    out.put_slice(format!("{}:{text}", text.len()).as_bytes());
}

const MAX_DEPTH: usize = 128;
