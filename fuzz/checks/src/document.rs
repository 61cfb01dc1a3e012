use std::collections::HashMap;
use std::str;

use callboard_common::Integer;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

/// What `serde_json` makes of a text, with the checks that the contract adds and `serde_json` leaves out of what it
/// skips: depth and halves of surrogate pairs.
pub(crate) enum Document {
    Broken,
    NoObject,
    Object(Members),
}

/// An object's members, each value as its text; of a name that stands twice, the last.
pub(crate) type Members = HashMap<String, Box<RawValue>>;

impl Document {
    pub(crate) fn read(text: &[u8]) -> Self {
        if !is_valid(text) {
            Self::Broken
        } else if text.trim_ascii_start().starts_with(b"{") {
            Self::Object(serde_json::from_slice(text).expect("a valid object"))
        } else {
            Self::NoObject
        }
    }
}

pub(crate) fn is_valid(text: &[u8]) -> bool {
    str::from_utf8(text)
        .is_ok_and(|text| serde_json::from_str::<IgnoredAny>(text).is_ok() && depth_and_strings_are_valid(text))
}

/// Of a text whose syntax is right.
fn depth_and_strings_are_valid(text: &str) -> bool {
    let mut depth = 0;
    let mut deepest = 0;
    let mut bytes = text.bytes().enumerate();
    while let Some((start, byte)) = bytes.next() {
        match byte {
            b'[' | b'{' => depth += 1,
            b']' | b'}' => depth -= 1,
            b'"' => {
                let mut escaped = false;
                let (end, _) = bytes
                    .find(|(_, byte)| {
                        let ends = *byte == b'"' && !escaped;
                        escaped = *byte == b'\\' && !escaped;
                        ends
                    })
                    .expect("the syntax is right");
                if serde_json::from_str::<String>(&text[start..=end]).is_err() {
                    return false;
                }
            }
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest <= 128
}

pub(crate) fn string(value: &RawValue) -> Option<String> {
    value.get().starts_with('"').then(|| serde_json::from_str(value.get()).expect("a valid string"))
}

/// A number without fraction and exponent.
pub(crate) fn integer(value: &RawValue) -> Option<Integer> {
    let text = value.get();
    let digits = text.strip_prefix('-').unwrap_or(text);
    digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().map_or(Integer::Big, Integer::Small))
}

/// One that fits into 64 bits.
pub(crate) fn small(value: &RawValue) -> Option<i64> {
    match integer(value) {
        Some(Integer::Small(number)) => Some(number),
        _ => None,
    }
}

pub(crate) fn array(value: &RawValue) -> Option<Vec<Box<RawValue>>> {
    value.get().starts_with('[').then(|| serde_json::from_str(value.get()).expect("a valid array"))
}

pub(crate) fn object(value: &RawValue) -> Option<Members> {
    value.get().starts_with('{').then(|| serde_json::from_str(value.get()).expect("a valid object"))
}
