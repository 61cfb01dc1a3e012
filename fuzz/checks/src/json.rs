use bytes::BytesMut;
use callboard_common::{Codec, Json, Raw, ResultCode, Shape};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::document::{self, Document};

/// Our reading of a text as JSON against that of `serde_json`: whether it is a document, and what each value in it is.
pub fn check_json(text: &[u8]) {
    let checked = Json::check(text);
    assert_eq!(checked.is_ok(), document::is_valid(text), "{:?}", checked.err());
    let members = Json::members(text, []);
    match (Document::read(text), members.map_err(|error| error.code)) {
        (Document::Broken, Err(ResultCode::ParseFailed))
        | (Document::NoObject, Err(ResultCode::InvalidMessage))
        | (Document::Object(_), Ok([])) => {}
        (_, read) => panic!("read as {read:?}"),
    }
    if let Ok(value) = checked {
        assert_eq!(value.bytes(), text.trim_ascii());
        check_value(value);
        check_compact(value);
    }
}

fn check_value(value: Raw<'_>) {
    let theirs: &RawValue = serde_json::from_slice(value.bytes()).unwrap();
    let integer = Json::integer(value);
    match Json::shape(value) {
        Shape::Integer => assert_eq!(integer, document::integer(theirs)),
        Shape::Number => assert_eq!((integer, document::integer(theirs)), (None, None)),
        Shape::String => assert_eq!(Json::text(value).map(String::from), document::string(theirs)),
        Shape::Array => {
            let ours: Vec<_> = Json::items(value).unwrap().collect();
            let theirs = document::array(theirs).unwrap();
            assert_eq!(ours.len(), theirs.len());
            for (one, other) in ours.iter().zip(&theirs) {
                assert_eq!(one.bytes(), other.get().as_bytes());
                check_value(*one);
            }
        }
        Shape::Object => {
            for (name, theirs) in document::object(theirs).unwrap() {
                let [ours] = Json::members(value.bytes(), [name.as_str()]).unwrap();
                assert_eq!(ours.map(Raw::bytes), Some(theirs.get().as_bytes()));
                check_value(ours.unwrap());
            }
        }
        Shape::Bool => assert!(matches!(value.bytes(), b"true" | b"false")),
        Shape::Null => assert_eq!(value.bytes(), b"null"),
    }
    let shape = Json::shape(value);
    assert_eq!(Json::text(value).is_some(), shape == Shape::String);
    assert_eq!(Json::items(value).is_some(), shape == Shape::Array);
    assert_eq!(integer.is_some(), shape == Shape::Integer);
}

/// The compact text means the same, and is the shortest that only leaves white space out.
fn check_compact(value: Raw<'_>) {
    let mut compact = BytesMut::new();
    Json::write_compact(value, &mut compact);
    let parsed = |text: &[u8]| serde_json::from_slice::<Value>(text).ok();
    assert_eq!(parsed(&compact), parsed(value.bytes()));
    let mut again = BytesMut::new();
    Json::write_compact(Json::check(&compact).unwrap(), &mut again);
    assert_eq!(again, compact);
    let blank = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
    let dropped = value.bytes().len() - compact.len();
    let blanks = value.bytes().iter().filter(blank).count() - compact.iter().filter(blank).count();
    assert_eq!(dropped, blanks, "nothing but white space is left out");
}
