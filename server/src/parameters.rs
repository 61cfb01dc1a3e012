use std::borrow::Cow;
use std::fmt;

use callboard_common::{Codec, ErrorInfo, Json, Raw, Shape};
use serde::de::{DeserializeOwned, Deserializer as _, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::method::{Method, Parameter};

/// Why the parameters of a call were refused.
#[derive(Debug)]
pub(crate) struct BadParameters {
    message: String,
    fault: Option<Fault>,
}

/// `error.data` of INVALID_PARAMS: what a description asks for and does not find.
#[derive(Debug, Serialize)]
struct Fault {
    /// `None` where the parameters as a whole are meant.
    parameter: Option<String>,
    expected: &'static str,
    got: &'static str,
}

/// Checks the parameters against the method's description, then reads them into the handler's type.
///
/// A handler that takes nothing (`()`) is content with `{}`, since that is what absent parameters mean.
pub(crate) fn read<P: DeserializeOwned>(method: &Method, parameters: Raw<'_>) -> Result<P, BadParameters> {
    check(method.parameters(), parameters)?;
    Json::read(parameters).or_else(|why| {
        let nothing = if is_empty(parameters) { read_null() } else { None };
        nothing.ok_or_else(|| BadParameters::unreadable(&why.to_string()))
    })
}

impl BadParameters {
    fn new(parameter: Option<&str>, expected: &'static str, got: &'static str) -> Self {
        let subject = parameter.map_or_else(|| "parameters".to_owned(), |name| format!("parameter {name:?}"));
        let message = format!("{subject}: expected {expected}, got {got}");
        Self { message, fault: Some(Fault { parameter: parameter.map(str::to_owned), expected, got }) }
    }

    fn unreadable(why: &str) -> Self {
        Self { message: format!("parameters: {}", shorten(why)), fault: None }
    }

    pub(crate) fn into_info(self) -> ErrorInfo {
        let info = ErrorInfo::not_executed(self.message);
        match &self.fault {
            Some(fault) => info.with_data(fault),
            None => info,
        }
    }
}

/// Keeps both ends of a text that may hold what a peer sent, so that its answer is bounded.
pub(crate) fn shorten(text: &str) -> Cow<'_, str> {
    if text.len() <= MAX_TEXT_BYTES {
        return Cow::Borrowed(text);
    }
    let half = MAX_TEXT_BYTES / 2;
    let head = text.get(..text.floor_char_boundary(half)).unwrap_or_default();
    let tail = text.get(text.ceil_char_boundary(text.len() - half)..).unwrap_or_default();
    Cow::Owned(format!("{head} ... {tail}"))
}

/// Walks the members once; a value's shape shows in its text, so nothing is built.
fn check(described: &[Parameter], parameters: Raw<'_>) -> Result<(), BadParameters> {
    if described.is_empty() {
        return Ok(());
    }
    let shape = Json::shape(parameters);
    if shape != Shape::Object {
        return Err(BadParameters::new(None, Shape::Object.name(), shape.name()));
    }
    let found = serde_json::Deserializer::from_slice(parameters.bytes())
        .deserialize_map(Members(described))
        .map_err(|why| BadParameters::unreadable(&why.to_string()))?;
    if let Some((parameter, shape)) = found.wrong {
        return Err(BadParameters::new(Some(&parameter.name), parameter.value.name(), shape.name()));
    }
    let missing = described.iter().enumerate().find(|(at, parameter)| parameter.required && found.seen >> at & 1 == 0);
    missing.map_or(Ok(()), |(_, parameter)| {
        Err(BadParameters::new(Some(&parameter.name), parameter.value.name(), "nothing"))
    })
}

struct Members<'m>(&'m [Parameter]);

/// What a walk over the members met.
#[derive(Default)]
struct Found<'m> {
    /// One bit a described parameter.
    seen: u64,
    /// The first value of a wrong shape.
    wrong: Option<(&'m Parameter, Shape)>,
}

#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de, 'm> Visitor<'de> for Members<'m> {
    type Value = Found<'m>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of parameters")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Found<'m>, A::Error> {
        let mut found = Found::default();
        while let Some((key, value)) = members.next_entry::<Key<'de>, &'de RawValue>()? {
            let Some((at, parameter)) = self.0.iter().enumerate().find(|(_, known)| known.name == key.0) else {
                continue;
            };
            let shape = shape_of(value);
            let absent = shape == Shape::Null && !parameter.required;
            if !absent && !parameter.value.accepts(shape) {
                found.wrong.get_or_insert((parameter, shape));
            }
            found.seen |= 1 << at;
        }
        Ok(found)
    }
}

/// The shape of a value in a checked document; only what is not told by its first byte is looked at further.
fn shape_of(value: &RawValue) -> Shape {
    let text = value.get().as_bytes();
    match text.first() {
        Some(b'{') => Shape::Object,
        Some(b'[') => Shape::Array,
        Some(b'"') => Shape::String,
        _ => Json::check(text).map_or(Shape::Null, Json::shape),
    }
}

fn is_empty(parameters: Raw<'_>) -> bool {
    Json::shape(parameters) == Shape::Object && !parameters.bytes().contains(&b'"')
}

fn read_null<P: DeserializeOwned>() -> Option<P> {
    Json::check(b"null").ok().and_then(|null| Json::read(null).ok())
}

/// How much of a text that a peer had a hand in is sent back to it.
const MAX_TEXT_BYTES: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Type;

    fn refused(described: &Method, text: &str) -> Option<(String, String)> {
        let why = check(described.parameters(), Json::check(text.as_bytes()).unwrap()).err()?;
        let info = why.into_info();
        Some((info.message, info.data.map_or_else(String::new, |data| data.get().to_owned())))
    }

    #[test]
    fn parameters_are_held_against_their_description() {
        let method = Method::new("m")
            .param("id", Type::Integer)
            .param("any", Type::Any)
            .optional("ratio", Type::Number)
            .optional("tags", Type::Array);
        let good = [
            r#"{"id":1,"any":null}"#,
            r#" { "any" : {"id":"x"} , "id" : -7 , "ratio" : 2 } "#,
            r#"{"id":1,"any":[],"ratio":2.5e3,"tags":[1,"x"],"unknown":"passed over"}"#,
            r#"{"\u0069d":1,"any":0,"ratio":null,"tags":null}"#,
            r#"{"id":99999999999999999999,"any":1e999}"#,
        ];
        for text in good {
            assert_eq!(refused(&method, text), None, "{text}");
        }
        let bad = [
            ("{}", "id", "integer", "nothing"),
            (r#"{"id":1}"#, "any", "any", "nothing"),
            (r#"{"id":"1","any":1}"#, "id", "integer", "string"),
            (r#"{"id":1.0,"any":1}"#, "id", "integer", "number"),
            (r#"{"id":null,"any":1}"#, "id", "integer", "null"),
            (r#"{"id":true,"any":1}"#, "id", "integer", "bool"),
            (r#"{"id":[1],"any":1}"#, "id", "integer", "array"),
            (r#"{"id":{},"any":1}"#, "id", "integer", "object"),
            (r#"{"id":1,"any":1,"ratio":"x"}"#, "ratio", "number", "string"),
            (r#"{"tags":{},"any":1}"#, "tags", "array", "object"),
        ];
        for (text, parameter, expected, got) in bad {
            let message = format!("parameter {parameter:?}: expected {expected}, got {got}");
            let data = format!(r#"{{"parameter":"{parameter}","expected":"{expected}","got":"{got}"}}"#);
            assert_eq!(refused(&method, text), Some((message, data)), "{text}");
        }
    }

    #[test]
    fn described_parameters_must_be_an_object() {
        let method = Method::new("m").optional("x", Type::Any);
        for (text, got) in [("null", "null"), ("[1]", "array"), ("1", "integer"), ("\"x\"", "string")] {
            let message = format!("parameters: expected object, got {got}");
            let data = format!(r#"{{"parameter":null,"expected":"object","got":"{got}"}}"#);
            assert_eq!(refused(&method, text), Some((message, data)), "{text}");
            assert_eq!(refused(&Method::new("bare"), text), None, "{text}");
        }
    }

    #[test]
    fn a_handler_that_takes_nothing_is_content_with_an_empty_object() {
        for (text, taken) in [("{}", true), ("{ }", true), ("null", true), ("{\"a\":1}", false), ("[]", false)] {
            let parameters = Json::check(text.as_bytes()).unwrap();
            assert_eq!(read::<()>(&Method::new("m"), parameters).is_ok(), taken, "{text}");
        }
    }

    #[test]
    fn long_texts_keep_both_ends() {
        let long = format!("head {} tail", "é".repeat(1 << 20));
        let short = shorten(&long);
        assert!(short.len() <= MAX_TEXT_BYTES + 8);
        assert!(short.starts_with("head") && short.ends_with("tail"));
        assert_eq!(shorten("as it is"), "as it is");
    }
}
