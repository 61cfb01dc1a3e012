use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use proptest::prelude::*;
use serde::Serialize;
use serde_json::value::RawValue;

use super::*;

fn written<T: Serialize + ?Sized>(value: &T) -> Result<String, String> {
    let mut out = BytesMut::from("before");
    value.serialize(JsonWriter::new(&mut out)).map_err(|e| e.to_string())?;
    Ok(String::from_utf8(out[6..].to_vec()).unwrap())
}

fn same_as_theirs<T: Serialize + ?Sized>(value: &T) {
    assert_eq!(written(value), serde_json::to_string(value).map_err(|e| e.to_string()));
}

#[derive(Serialize)]
enum Kind {
    Bare,
    New(u8),
    Pair(u8, &'static str),
    None(),
    Named { a: Option<i8>, b: () },
    Empty {},
}

#[derive(Serialize)]
struct Unit;

#[derive(Serialize)]
struct Newtype(f64);

#[derive(Serialize)]
struct Tuple(bool, char);

#[derive(Serialize)]
struct Struct<'a> {
    #[serde(rename = "an \"odd\" name")]
    odd: u128,
    text: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    absent: Option<u8>,
    raw: Box<RawValue>,
    list: Vec<Option<&'a str>>,
    address: Ipv4Addr,
    #[serde(flatten)]
    more: BTreeMap<String, Newtype>,
}

/// Names as long as those that are put together at once, and longer ones.
#[derive(Serialize)]
struct Names {
    #[serde(rename = "")]
    none: u8,
    #[serde(rename = "\n")]
    escaped: u8,
    fourteen_bytes: u8,
    fifteen_letters: u8,
}

#[test]
fn each_form_is_written_as_serde_json_writes_it() {
    same_as_theirs(&Names { none: 1, escaped: 2, fourteen_bytes: 3, fifteen_letters: 4 });
    same_as_theirs(&[Kind::Bare, Kind::New(1), Kind::Pair(2, "\n"), Kind::None(), Kind::Empty {}]);
    same_as_theirs(&Kind::Named { a: Some(-1), b: () });
    same_as_theirs(&(Unit, Newtype(1.0), Newtype(f64::NAN), Tuple(true, '"'), 1.5f32, i128::MIN, u64::MAX));
    same_as_theirs(&(Vec::<u8>::new(), BTreeMap::<String, u8>::new(), [(); 0], Vec::from([BTreeMap::<u8, u8>::new()])));
    let raw = RawValue::from_string("{ \"as\" : 1e999 }".to_owned()).unwrap();
    same_as_theirs(&raw);
    let more = BTreeMap::from([("x\\".to_owned(), Newtype(-0.5)), (String::new(), Newtype(1e300))]);
    let list = vec![Some("\u{1}\u{7f}\u{e9}"), None];
    same_as_theirs(&Struct {
        odd: 7,
        text: "\u{8}\u{c}\r\t",
        absent: None,
        raw,
        list,
        address: Ipv4Addr::LOCALHOST,
        more,
    });
}

#[test]
fn texts_of_every_length_may_have_an_escape_anywhere() {
    for len in (0..=17).chain([63, 64, 65, 255, 256, 257]) {
        for special in ["", "\"", "\\", "\n", "\u{1f}", "\u{7f}", "\u{e9}"] {
            for at in 0..=len {
                same_as_theirs(&["a".repeat(at), "b".repeat(len - at)].join(special));
            }
        }
    }
}

#[test]
fn keys_of_maps_are_texts_or_refused() {
    same_as_theirs(&BTreeMap::from([(1, "one"), (-2, "two")]));
    same_as_theirs(&BTreeMap::from([('"', Kind::Bare)]));
    same_as_theirs(&BTreeMap::from([(true, [1])]));
    same_as_theirs(&BTreeMap::from([([1, 2], 3)]));
    assert!(written(&BTreeMap::from([((), 1)])).is_err());
}

proptest! {
    #[test]
    fn texts_are_written_as_serde_json_writes_them(text in any::<String>(), plain in 0..200_usize, again in 0..3_usize) {
        let text = ["x".repeat(plain), text].concat().repeat(again);
        prop_assert_eq!(written(&text), Ok(serde_json::to_string(&text).unwrap()));
    }

    #[test]
    fn values_are_written_as_serde_json_writes_them(text in "[\\[\\]{}\",:\\\\0-9a.\\-tfnu]{0,24}", list: Vec<(i64, Option<f64>, String)>) {
        let value = serde_json::from_str::<serde_json::Value>(&text).unwrap_or_default();
        prop_assert_eq!(written(&(&value, &list)), Ok(serde_json::to_string(&(&value, &list)).unwrap()));
    }
}
