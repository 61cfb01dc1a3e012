//! The checks on what is made for them: a fuzzer finds its way to such inputs in minutes, these begin there.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test that can't go on should say where")]

use callboard_checks::{
    check_dispatcher, check_frame, check_json, check_rpc_body, check_service_body, check_session_body, check_topic_body,
};
use proptest::prelude::*;
use proptest::sample::{Index, select};

/// White space, or none.
fn blank() -> impl Strategy<Value = String> + Clone {
    "[ \t\r\n]{0,3}"
}

/// A string with its quotes, with all that may stand in one.
fn string() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        4 => "[ !#-\\[\\]-~]{1,9}",
        1 => select(vec!["\\\"", "\\\\", "\\/", "\\b", "\\f", "\\n", "\\r", "\\t"]).prop_map(String::from),
        1 => any::<char>()
            .prop_filter("must be escaped", |c| !matches!(c, '"' | '\\' | '\0'..='\x1f'))
            .prop_map(String::from),
        1 => any::<char>().prop_map(escaped),
    ];
    prop::collection::vec(part, 0..5).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

/// `\uXXXX`, twice for what takes two.
fn escaped(c: char) -> String {
    c.encode_utf16(&mut [0; 2]).iter().fold(String::new(), |text, unit| format!("{text}\\u{unit:04x}"))
}

/// One valid document with any white space, escapes and numbers.
fn document() -> impl Strategy<Value = String> {
    let number = "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,5})?([eE][+-]?[0-9]{1,4})?";
    let literal = select(vec!["null", "true", "false"]).prop_map(String::from);
    let leaf = prop_oneof![number, literal, string()];
    let value = leaf.prop_recursive(5, 30, 5, |inner| {
        let spaced = (blank(), inner, blank()).prop_map(|(before, value, after)| format!("{before}{value}{after}"));
        let member = (blank(), string(), blank(), spaced.clone())
            .prop_map(|(before, name, after, value)| format!("{before}{name}{after}:{value}"));
        prop_oneof![
            blank().prop_map(|blank| format!("[{blank}]")),
            blank().prop_map(|blank| format!("{{{blank}}}")),
            prop::collection::vec(spaced, 1..5).prop_map(|items| format!("[{}]", items.join(","))),
            prop::collection::vec(member, 1..5).prop_map(|members| format!("{{{}}}", members.join(","))),
        ]
    });
    // Around it some more, up to just past the depth that is permitted.
    let deep = prop_oneof![3 => Just(0_usize), 1 => 0..131_usize, 1 => 122..130_usize];
    (blank(), value, blank(), deep, any::<bool>()).prop_map(|(before, value, after, depth, lists)| {
        let (open, close) = if lists { ("[", "]") } else { ("{\"a\":", "}") };
        format!("{before}{}{value}{}{after}", open.repeat(depth), close.repeat(depth))
    })
}

/// One byte of it changed, dropped or doubled, or the rest cut off.
fn mutated(text: impl Strategy<Value = String>) -> impl Strategy<Value = Vec<u8>> {
    (text, any::<Index>(), 0..4_u8, any::<u8>()).prop_map(|(text, at, how, byte)| {
        let mut text = text.into_bytes();
        if text.is_empty() {
            return text;
        }
        let at = at.index(text.len());
        match how {
            0 => text[at] = byte,
            1 => drop(text.remove(at)),
            2 => text.insert(at, text[at]),
            _ => text.truncate(at),
        }
        text
    })
}

/// Bodies with the names and values of all kinds, right and wrong ones.
fn body() -> impl Strategy<Value = String> {
    let name = select(vec![
        "method",
        "parameters",
        "meta",
        "rcode",
        "result",
        "error",
        "topic_key",
        "key",
        "optype",
        "topic_msg",
        "message",
        "host",
        "version",
        "name",
        "instance",
        "features",
        "limits",
        "opt\\u0079pe",
        "unknown",
    ]);
    let value = prop_oneof![
        select(vec![
            "0",
            "1",
            "2",
            "3",
            "4",
            "5",
            "-1",
            "-0",
            "4.0",
            "18446744073709551616",
            "\"add\"",
            "\"a\\u0064d\"",
            "null",
            "\"TOPIC_PUBLISH\"",
            "\"TOPIC_CREATE\"",
            "\"SERVICE_REGISTRY\"",
            "\"SERVICE_ONLINE\"",
            "{}",
            "[]",
            r#"{"ip":"127.0.0.1","port":80}"#,
            r#"{"ip":"::1","port":0}"#,
            r#"{"ip":"0.0.0.0","port":80}"#,
            r#"{"ip":"::ffff:0.0.0.0","port":80}"#,
            r#"[{"ip":"127.0.0.1","port":80},{"ip":"x","port":80},7]"#,
            r#"["ping","one_way"]"#,
            r#"["ping",1]"#,
            r#"{"message":"no","executed":"yes","code":7,"data":[1]}"#,
            r#"{"timeout_ms":5}"#,
            r#"{"max_frame_bytes":1000,"in_flight":"x"}"#,
        ])
        .prop_map(String::from),
        document(),
    ];
    prop::collection::vec((name, value), 0..8).prop_map(|members| {
        let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
        format!("{{{}}}", members.join(","))
    })
}

fn check_bodies(body: &[u8]) {
    check_rpc_body(body);
    check_topic_body(body);
    check_service_body(body);
    check_session_body(body);
}

/// One frame, its length and its id's length right or a little wrong.
fn frame() -> impl Strategy<Value = Vec<u8>> {
    let off = || prop_oneof![12 => Just(0_u32), 1 => any::<u32>(), 1 => 0..20_u32];
    let id = prop::collection::vec(any::<u8>(), 0..20);
    let body = prop::collection::vec(any::<u8>(), 0..60);
    (off(), any::<u32>(), off(), id, body).prop_map(|(length_off, mtype, id_off, id, body)| {
        let [id_bytes, body_bytes] = [&id, &body].map(|part| u32::try_from(part.len()).unwrap());
        let length = (8 + id_bytes + body_bytes).wrapping_add(length_off);
        let words = [length, mtype, id_bytes.wrapping_add(id_off)].map(u32::to_be_bytes);
        [words.concat(), id, body].concat()
    })
}

proptest! {
    #[test]
    fn valid_documents(text in document()) {
        check_json(text.as_bytes());
    }

    #[test]
    fn documents_with_one_wrong_byte(text in mutated(document())) {
        check_json(&text);
    }

    #[test]
    fn bodies(body in body()) {
        check_bodies(body.as_bytes());
    }

    #[test]
    fn bodies_with_one_wrong_byte(body in mutated(body())) {
        check_bodies(&body);
    }

    #[test]
    fn streams(frames in prop::collection::vec(frame(), 0..6), reads in prop::collection::vec(0..40_u8, 0..6)) {
        let count = u8::try_from(reads.len()).unwrap();
        check_frame(&[vec![count], reads, frames.concat()].concat());
    }

    #[test]
    fn scripts(script in prop::collection::vec(any::<u8>(), 0..400)) {
        check_dispatcher(&script);
    }

    /// The same without raw messages, whose lengths would eat the steps behind them.
    #[test]
    fn scripts_of_operations(steps in prop::collection::vec((any::<u8>(), 4..8_u8, any::<u8>()), 0..200)) {
        let bytes: Vec<_> = steps.iter().flat_map(|(peer, does, more)| [peer & 3 | does << 2, *more]).collect();
        check_dispatcher(&bytes);
    }

    #[test]
    fn scripts_with_ends_and_stops(
        steps in prop::collection::vec((any::<u8>(), prop_oneof![1 => 0..2_u8, 9 => 4..8_u8], any::<u8>()), 0..200),
    ) {
        let more = |does: u8, more: u8| if does == 1 { more.max(201) } else { more };
        let bytes: Vec<_> = steps.iter().flat_map(|(peer, does, m)| [peer & 3 | does << 2, more(*does, *m)]).collect();
        check_dispatcher(&bytes);
    }
}
