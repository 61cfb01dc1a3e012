use std::borrow::Cow;
use std::{iter, str};

use bytes::{BufMut, BytesMut};
use serde::{Deserialize, Serialize};

use crate::json_writer::{JsonWriter, write_text};
use crate::scan::{Scanner, Syntax, is_plain_ascii, plain_bytes};
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

    /// The same for text that is the value of a member: there it may be nested one level less.
    ///
    /// # Errors
    /// As [`check`](Self::check).
    pub fn check_member(text: &[u8]) -> Result<Raw<'_>, BodyError> {
        let mut scanner = utf8(text)?;
        let value = scanner.value(1).map_err(parse_failed)?;
        scanner.end().map_err(parse_failed)?;
        Ok(Raw(value))
    }

    /// Whether this is one string without escapes, and nothing else: then it is a valid document, and its text is what
    /// stands between the quotes.
    pub fn is_plain_string(text: &[u8]) -> bool {
        match text {
            [b'"', inner @ .., b'"'] => {
                is_plain_ascii(inner) || plain_bytes(inner) == inner.len() && str::from_utf8(inner).is_ok()
            }
            _ => false,
        }
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
    const EMPTY_OBJECT: &'static [u8] = b"{}";

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

    fn items(value: Raw<'_>) -> Option<impl Iterator<Item = Raw<'_>>> {
        let mut scanner = Scanner::new(value.bytes());
        if !scanner.take(b'[') {
            return None;
        }
        let mut more = !scanner.take(b']');
        Some(iter::from_fn(move || {
            let item = if more { scanner.value(1).ok()? } else { return None };
            more = scanner.take(b',');
            Some(Raw(item))
        }))
    }

    fn text(value: Raw<'_>) -> Option<Cow<'_, str>> {
        text(value.bytes())
    }

    fn integer(value: Raw<'_>) -> Option<Integer> {
        let (negative, digits) = match value.bytes() {
            [b'-', digits @ ..] => (true, digits),
            digits => (false, digits),
        };
        if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let read = digits.iter().try_fold(0i64, |sum, digit| {
            let digit = i64::from(digit - b'0');
            let sum = sum.checked_mul(10)?;
            if negative { sum.checked_sub(digit) } else { sum.checked_add(digit) }
        });
        Some(read.map_or(Integer::Big, Integer::Small))
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
        serde_json::from_slice(value.bytes()).map_err(|e| ReadError::new(short(e.to_string())))
    }

    fn write_text(text: &str, out: &mut BytesMut) -> Result<(), EncodeError> {
        write_text(text, out);
        Ok(())
    }

    fn write<T: Serialize + ?Sized>(value: &T, out: &mut BytesMut) -> Result<(), EncodeError> {
        value.serialize(JsonWriter::new(out)).map_err(|e| EncodeError::Value(e.to_string()))
    }
}

/// An error's text repeats what came, and that may be as long as a frame.
fn short(mut text: String) -> String {
    if text.len() > MAX_ERROR_BYTES {
        text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
        text.push_str("...");
    }
    text
}

const MAX_ERROR_BYTES: usize = 512;

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
            let key = unquoted(key);
            if let Some((_, place)) = names.iter().zip(found.iter_mut()).find(|(name, _)| name.as_bytes() == &*key) {
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

/// The bytes of a checked key with its quotes; few have escapes.
fn unquoted(quoted: &[u8]) -> Cow<'_, [u8]> {
    match quoted {
        [b'"', inner @ .., b'"'] if !inner.contains(&b'\\') => Cow::Borrowed(inner),
        _ => Cow::Owned(text(quoted).map(|text| text.into_owned().into_bytes()).unwrap_or_default()),
    }
}

/// The text of a checked string with its quotes; borrowed unless it has escapes.
fn text(quoted: &[u8]) -> Option<Cow<'_, str>> {
    let inner = quoted.strip_prefix(b"\"")?.strip_suffix(b"\"")?;
    if inner.contains(&b'\\') { unescape(inner).map(Cow::Owned) } else { str::from_utf8(inner).ok().map(Cow::Borrowed) }
}

/// Never longer than it was with its escapes, so this one allocation is all that a peer's string can cost;
/// `serde_json` takes up to three times the string, in a buffer that it doubles and then copies.
fn unescape(inner: &[u8]) -> Option<String> {
    let mut rest = str::from_utf8(inner).ok()?;
    let mut text = String::with_capacity(rest.len());
    while let Some((plain, escape)) = rest.split_once('\\') {
        text.push_str(plain);
        let (meant, after) = read_escape(escape)?;
        text.push(meant);
        rest = after;
    }
    text.push_str(rest);
    Some(text)
}

/// What an escape means, and the text behind it.
fn read_escape(escape: &str) -> Option<(char, &str)> {
    let mut chars = escape.chars();
    let meant = match chars.next()? {
        'b' => '\u{8}',
        'f' => '\u{c}',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'u' => return read_unicode(chars.as_str()),
        itself => itself,
    };
    Some((meant, chars.as_str()))
}

/// `XXXX`, or `XXXX\uXXXX` where the first is half a surrogate pair.
fn read_unicode(digits: &str) -> Option<(char, &str)> {
    let (first, rest) = read_unit(digits)?;
    if let Some(meant) = char::from_u32(u32::from(first)) {
        return Some((meant, rest));
    }
    let (second, rest) = read_unit(rest.strip_prefix("\\u")?)?;
    let meant = char::decode_utf16([first, second]).next()?.ok()?;
    Some((meant, rest))
}

fn read_unit(digits: &str) -> Option<(u16, &str)> {
    let (unit, rest) = digits.split_at_checked(4)?;
    Some((u16::from_str_radix(unit, 16).ok()?, rest))
}

fn utf8(document: &[u8]) -> Result<Scanner<'_>, BodyError> {
    if document.is_ascii() {
        return Ok(Scanner::new(document));
    }
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
    fn an_error_does_not_repeat_a_long_value() {
        let long = format!("\"{}\"", "\u{e9}".repeat(100_000));
        let error = Json::read::<u8>(Json::check(long.as_bytes()).unwrap()).unwrap_err().to_string();
        assert!(error.starts_with("invalid type: string") && error.len() < 600, "{error}");
    }

    #[test]
    fn items_of_a_list() {
        let items: Vec<_> = Json::items(Raw(b"[1, {\"a\":[2]} ,\"x\"]")).unwrap().collect();
        assert_eq!(items.len(), 3);
        assert_eq!(items[1].bytes(), b"{\"a\":[2]}");
        assert!(Json::items(Raw(b"{}")).is_none());
        assert_eq!(Json::items(Raw(b"[ ]")).unwrap().count(), 0);
    }

    #[test]
    fn escapes_mean_what_the_standard_says() {
        let rows = [
            (r#""\"\\\/\b\f\n\r\t""#, "\"\\/\u{8}\u{c}\n\r\t"),
            (r#""a\u00e9\ud83d\ude00\u0000z""#, "a\u{e9}\u{1f600}\0z"),
            (r#""\\u0041""#, "\\u0041"),
        ];
        for (quoted, expected) in rows {
            assert_eq!(Json::text(Json::check(quoted.as_bytes()).unwrap()).unwrap(), expected, "{quoted}");
        }
    }
}
