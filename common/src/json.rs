use std::borrow::Cow;
use std::str;

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use crate::scan::{Scanner, Syntax};
use crate::{BodyError, Codec, EncodeError, Integer, Raw, ReadError, Shape};

/// Codec 0: JSON in UTF-8, any white space.
///
/// ```
/// use callboard_common::{Codec, Json};
/// let body = br#"{"method": "add", "parameters": {"num1": 1}, "more": [true]}"#;
/// let [method, parameters] = Json::members(body, ["method", "parameters"]).unwrap();
/// assert_eq!(Json::text(method.unwrap()).unwrap(), "add");
/// assert_eq!(parameters.unwrap().bytes(), br#"{"num1": 1}"#);
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Json;

impl Json {
    /// Takes text that is to stand for a value, for example one typed by a person.
    ///
    /// # Errors
    /// `ParseFailed` where the text is not one valid JSON document.
    pub fn check(text: &[u8]) -> Result<Raw<'_>, BodyError> {
        let mut scanner = utf8(text)?;
        let value = scanner.value(0).map_err(parse_failed)?;
        scanner.end().map_err(parse_failed)?;
        Ok(Raw(value))
    }

    /// Appends the value without the white space between its parts; order, numbers and escapes stay as they are.
    pub fn write_compact(value: Raw<'_>, out: &mut BytesMut) {
        let mut in_string = false;
        let mut escaped = false;
        for &byte in value.bytes() {
            if in_string {
                in_string = escaped || byte != b'"';
                escaped = !escaped && byte == b'\\';
            } else if matches!(byte, b' ' | b'\t' | b'\n' | b'\r') {
                continue;
            } else {
                in_string = byte == b'"';
            }
            out.put_u8(byte);
        }
    }
}

impl Codec for Json {
    const ID: u8 = 0;

    fn members<'a, const N: usize>(document: &'a [u8], names: [&str; N]) -> Result<[Option<Raw<'a>>; N], BodyError> {
        let mut found = [None; N];
        let mut scanner = utf8(document)?;
        scanner.space();
        if scanner.peek() != Some(b'{') {
            scanner.value(0).and_then(|_| scanner.end()).map_err(parse_failed)?;
            return Err(BodyError::invalid("the body is not an object"));
        }
        read_members(&mut scanner, names, &mut found).map_err(parse_failed)?;
        Ok(found)
    }

    fn items(value: Raw<'_>) -> Option<Vec<Raw<'_>>> {
        let mut scanner = Scanner::new(value.bytes());
        let mut items = Vec::new();
        if !scanner.take(b'[') {
            return None;
        }
        if scanner.take(b']') {
            return Some(items);
        }
        loop {
            items.push(Raw(scanner.value(1).ok()?));
            if !scanner.take(b',') {
                return Some(items);
            }
        }
    }

    fn text(value: Raw<'_>) -> Option<Cow<'_, str>> {
        text(value.bytes())
    }

    fn integer(value: Raw<'_>) -> Option<Integer> {
        let text = str::from_utf8(value.bytes()).ok()?;
        let digits = text.strip_prefix('-').unwrap_or(text);
        let whole = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
        whole.then(|| text.parse().map_or(Integer::Big, Integer::Small))
    }

    fn shape(value: Raw<'_>) -> Shape {
        match value.bytes().first() {
            Some(b'{') => Shape::Object,
            Some(b'[') => Shape::Array,
            Some(b'"') => Shape::String,
            Some(b't' | b'f') => Shape::Bool,
            Some(b'-' | b'0'..=b'9') if Self::integer(value).is_some() => Shape::Integer,
            Some(b'-' | b'0'..=b'9') => Shape::Number,
            _ => Shape::Null,
        }
    }

    fn read<'a, T: Deserialize<'a>>(value: Raw<'a>) -> Result<T, ReadError> {
        serde_json::from_slice(value.bytes()).map_err(|e| ReadError(e.to_string()))
    }

    fn write<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), EncodeError> {
        serde_json::to_writer(out.writer(), value).map_err(|e| EncodeError::Value(e.to_string()))
    }
}

fn read_members<'a, const N: usize>(
    scanner: &mut Scanner<'a>,
    names: [&str; N],
    found: &mut [Option<Raw<'a>>; N],
) -> Result<(), Syntax> {
    scanner.expect(b'{', "expected an object")?;
    if !scanner.take(b'}') {
        loop {
            let key = scanner.key()?;
            let value = scanner.value(1)?;
            if let Some(key) = text(key)
                && let Some((_, place)) = names.iter().zip(found.iter_mut()).find(|(name, _)| **name == key)
            {
                *place = Some(Raw(value));
            }
            if !scanner.take(b',') {
                break;
            }
        }
        scanner.expect(b'}', "expected ',' or '}'")?;
    }
    scanner.end()
}

/// The text of a checked string with its quotes; borrowed unless it has escapes.
fn text(quoted: &[u8]) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') {
        serde_json::from_slice(quoted).ok().map(Cow::Owned)
    } else {
        str::from_utf8(inner).ok().map(Cow::Borrowed)
    }
}

fn utf8(document: &[u8]) -> Result<Scanner<'_>, BodyError> {
    match str::from_utf8(document) {
        Ok(_) => Ok(Scanner::new(document)),
        Err(e) => Err(parse_failed(Syntax { at: e.valid_up_to(), what: "not UTF-8" })),
    }
}

fn parse_failed(wrong: Syntax) -> BodyError {
    BodyError::parse_failed(format!("the body is not valid JSON: {} at byte {}", wrong.what, wrong.at))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ResultCode;

    #[test]
    fn members_last_one_counts_and_escaped_names_match() {
        let [a, b, c] = Json::members(br#" {"a":1,"\u0061":2,"b":{"a":3}} "#, ["a", "b", "c"]).unwrap();
        assert_eq!(a.map(Raw::bytes), Some(&b"2"[..]));
        assert_eq!(b.map(Raw::bytes), Some(&br#"{"a":3}"#[..]));
        assert_eq!(c, None);
    }

    #[test]
    fn bad_documents_tell_syntax_from_shape() {
        let rows: [(&[u8], ResultCode); 8] = [
            (b"", ResultCode::ParseFailed),
            (b"{", ResultCode::ParseFailed),
            (b"{\"a\":\"\xff\"}", ResultCode::ParseFailed),
            (b"[1,2", ResultCode::ParseFailed),
            (b"{} {}", ResultCode::ParseFailed),
            (b"[\"t\",4,\"x\"]", ResultCode::InvalidMessage),
            (b"null", ResultCode::InvalidMessage),
            (b"\"text\"", ResultCode::InvalidMessage),
        ];
        for (document, code) in rows {
            let error = Json::members(document, ["a"]).unwrap_err();
            assert_eq!(error.code, code, "{}", String::from_utf8_lossy(document));
        }
    }

    #[test]
    fn integers_are_told_from_other_numbers() {
        let rows: [(&str, Option<Integer>); 8] = [
            ("4", Some(Integer::Small(4))),
            ("-1", Some(Integer::Small(-1))),
            ("-0", Some(Integer::Small(0))),
            ("99999999999999999999", Some(Integer::Big)),
            ("4.0", None),
            ("4e0", None),
            ("\"4\"", None),
            ("true", None),
        ];
        for (text, expected) in rows {
            assert_eq!(Json::integer(Raw(text.as_bytes())), expected, "{text}");
        }
    }

    #[test]
    fn compact_keeps_what_stands_in_strings() {
        let mut out = BytesMut::new();
        let text = b"{ \"a b\" : [ 1.50 , \"x \\\" y\\\\\" , 1e999 ] }";
        Json::write_compact(Json::check(text).unwrap(), &mut out);
        assert_eq!(&out[..], b"{\"a b\":[1.50,\"x \\\" y\\\\\",1e999]}");
    }

    #[test]
    fn items_of_a_list() {
        let items = Json::items(Raw(b"[1, {\"a\":[2]} ,\"x\"]")).unwrap();
        assert_eq!(items.len(), 3);
        assert_eq!(items[1].bytes(), b"{\"a\":[2]}");
        assert!(Json::items(Raw(b"{}")).is_none());
        assert_eq!(Json::items(Raw(b"[ ]")).unwrap().len(), 0);
    }
}
