//! Writes the seeds of all fuzz targets into `fuzz/seeds/`: `cargo run -p callboard-checks --example seeds`.
//!
//! They are the captured frames, the rows of the contract's section 5, and scripts of what a center sees. Other files in
//! those folders, such as what a fuzzer found, are left as they are.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a program for a developer, who wants to see where it ends"
)]

use std::fs;
use std::path::Path;

use serde_json::Value;

fn main() {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let seeds = [golden(&fuzz), frames(), bodies(), texts(), scripts()].concat();
    for (target, name, bytes) in &seeds {
        let folder = fuzz.join("seeds").join(target);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join(name), bytes).unwrap();
    }
    println!("{} seeds written", seeds.len());
}

/// The target, the file's name, its bytes.
type Seed = (&'static str, String, Vec<u8>);

/// Each captured frame for `frame`, its body for the kind's target and for `json`, and all for `dispatcher`.
fn golden(fuzz: &Path) -> Vec<Seed> {
    let capture = fs::read(fuzz.join("../tests/golden/wire-v1.json")).unwrap();
    let capture: Value = serde_json::from_slice(&capture).unwrap();
    let (mut seeds, mut stream, mut script) = (Vec::new(), vec![3, 1, 40, 7], Vec::new());
    for golden in capture["frames"].as_array().unwrap() {
        let text = |key: &str| golden[key].as_str().unwrap();
        let words: Vec<_> = text("name").split(' ').take(3).collect();
        let name = format!("golden-{}", words.join("-"));
        let frame = from_hex(text("frame_hex"));
        let (kind, body) = (golden["mtype"].as_u64().unwrap(), frame[12 + text("id").len()..].to_vec());
        let target = ["rpc_body", "rpc_body", "topic_body", "topic_body", "service_body", "service_body"]
            [usize::try_from(kind).unwrap()];
        script.extend([any(0), u8::try_from(kind).unwrap(), 0, 0, 2, u8::try_from(body.len()).unwrap()]);
        script.extend([b"id", &body[..]].concat());
        seeds.push((target, name.clone(), body.clone()));
        seeds.push(("json", name.clone(), body));
        seeds.push(("frame", name, [&[0][..], &frame].concat()));
        stream.extend(frame);
    }
    seeds.push(("frame", "golden-all".into(), stream));
    seeds.push(("dispatcher", "golden-all".into(), script));
    seeds
}

/// Good and bad headers.
fn frames() -> Vec<Seed> {
    let rows: [(&str, u32, u32, u32, &[u8]); 14] = [
        ("smallest", 8, 0, 0, b""),
        ("longest-id", 8 + 255, 0, 255, &[b'i'; 255]),
        ("largest", 996, 2, 1, &[b'x'; 988]),
        ("all-bits-of-mtype", 10, u32::MAX, 1, b"ix"),
        ("length-0", 0, 0, 0, b""),
        ("length-7", 7, 0, 0, b""),
        ("length-over-the-bound", 997, 0, 0, b"{}"),
        ("length-4-gib", u32::MAX, 0, 0, b"{}"),
        ("id-over-the-frame", 8, 0, 1, b"i"),
        ("id-of-256", 8 + 256, 0, 256, &[b'i'; 256]),
        ("id-4-gib", 100, 0, u32::MAX, &[b'i'; 92]),
        ("half-a-frame", 100, 0, 1, b"i{"),
        ("two-frames", 10, 0, 1, b"ix\0\0\0\x08\0\0\0\x01\0\0\0\0"),
        ("good-then-bad", 10, 0, 1, b"ix\0\0\0\x07\0\0\0\x01\0\0\0\0"),
    ];
    let frame = |(name, length, mtype, id_bytes, rest): &(&str, u32, u32, u32, &[u8])| {
        let header = [*length, *mtype, *id_bytes].map(u32::to_be_bytes).concat();
        ("frame", format!("header-{name}"), [&[2, 3, 1], &header[..], rest].concat())
    };
    rows.iter().map(frame).collect()
}

/// Bodies at the edges of what is accepted.
fn bodies() -> Vec<Seed> {
    let nested = |depth: usize| {
        let lists = ["[".repeat(depth), "]".repeat(depth)].concat();
        format!(
            r#"{{"method":"add","rcode":0,"topic_key":"t","optype":4,"topic_msg":1,"version":2,"unknown":{lists}}}"#
        )
    };
    let rows = [
        ("rpc_body", "no-parameters", r#"{"method":"a\u0064d"}"#),
        ("rpc_body", "meta", r#"{"method":"add","parameters":[1],"meta":{"timeout_ms":5}}"#),
        ("rpc_body", "method-no-string", r#"{"method":1,"parameters":{}}"#),
        ("rpc_body", "result-null", r#"{"rcode":0,"result":null}"#),
        ("rpc_body", "error", r#"{"rcode":64,"error":{"message":"no","executed":"yes","code":7,"data":[1]}}"#),
        ("rpc_body", "error-no-object", r#"{"rcode":4,"error":"text"}"#),
        ("rpc_body", "rcode-beyond-64-bits", r#"{"rcode":18446744073709551616}"#),
        ("topic_body", "short-names", r#"{"key":"t","optype":"TOPIC_PUBLISH","message":null}"#),
        ("topic_body", "both-names", r#"{"topic_key":"t","key":"u","optype":4,"topic_msg":1,"message":2}"#),
        ("topic_body", "list", r#"["t",4,"x"]"#),
        ("topic_body", "optype-fraction", r#"{"topic_key":"t","optype":4.0,"topic_msg":1}"#),
        ("topic_body", "optype-unknown", r#"{"topic_key":"t","optype":5}"#),
        ("topic_body", "optype-beyond-64-bits", r#"{"topic_key":"t","optype":18446744073709551616}"#),
        ("topic_body", "optype-other-kind", r#"{"topic_key":"t","optype":"SERVICE_REGISTRY"}"#),
        ("topic_body", "no-message", r#"{"topic_key":"t","optype":4}"#),
        ("service_body", "ipv6", r#"{"method":"m","optype":"SERVICE_REGISTRY","host":{"ip":"::1","port":65535}}"#),
        ("service_body", "unspecified", r#"{"method":"m","optype":0,"host":{"ip":"::ffff:0.0.0.0","port":1}}"#),
        ("service_body", "name", r#"{"method":"m","optype":0,"host":{"ip":"localhost","port":1}}"#),
        ("service_body", "port-0", r#"{"method":"m","optype":0,"host":{"ip":"127.0.0.1","port":0}}"#),
        ("service_body", "no-host", r#"{"method":"m","optype":0}"#),
        ("service_body", "withdraw", r#"{"method":"m","optype":4}"#),
        ("service_body", "answer-without-code", r#"{"method":"m","optype":1,"host":[{"ip":"1.1.1.1","port":1},7]}"#),
        ("service_body", "answer-not-found", r#"{"rcode":5,"optype":1,"method":"m","host":[]}"#),
        ("session_body", "request", r#"{"version":2,"name":"n","instance":"i","features":["ping","one_way","x"]}"#),
        ("session_body", "version-1", r#"{"version":1}"#),
        ("session_body", "features-no-list", r#"{"version":2,"features":"ping"}"#),
        (
            "session_body",
            "answer",
            r#"{"rcode":0,"version":2,"instance":"i","features":[],"limits":{"max_frame_bytes":1,"in_flight":2}}"#,
        ),
    ];
    let mut seeds: Vec<Seed> = rows.map(|(target, name, body)| (target, name.to_owned(), body.into())).into();
    for target in ["rpc_body", "topic_body", "service_body", "session_body"] {
        for (name, depth) in [("nested-128", 127), ("nested-129", 128)] {
            seeds.push((target, name.to_owned(), nested(depth).into()));
        }
        seeds.push((target, "half-an-object".to_owned(), br#"{"optype":0,"method":"#.into()));
        seeds.push((target, "not-utf8".to_owned(), b"{\"method\":\"\xff\"}".into()));
    }
    seeds
}

/// Texts that readers of JSON differ over.
fn texts() -> Vec<Seed> {
    let rows: [(&str, &[u8]); 17] = [
        ("empty", b""),
        ("numbers", b"[0,-0,1e9,1E+9,-1.5e-3,1e999,123456789012345678901234567890]"),
        ("number-01", b"01"),
        ("number-without-end", b"1."),
        ("escapes", br#"["\"\\\/\b\f\n\r\t","\u00e9\ud83d\ude00\u0000"]"#),
        ("half-a-pair", br#""\ud800""#),
        ("other-half", br#""\udc00""#),
        ("pair-of-halves", br#""\ud800\u0041""#),
        ("unknown-escape", br#""\x""#),
        ("control", b"\"a\nb\""),
        ("not-utf8", b"\"\xc3\x28\""),
        ("mark", b"\xef\xbb\xbf1"),
        ("comma", b"[1,]"),
        ("two", b"{} {}"),
        ("twice", br#"{"a":1,"\u0061":2," ":{"":[ ]}}"#),
        ("spaces", b" \t\r\n{ \"a b\" : [ 1.50 , \"x \\\" y\\\\\" ] } "),
        ("form-feed", b"\x0c1"),
    ];
    let mut seeds: Vec<Seed> = rows.map(|(name, text)| ("json", name.to_owned(), text.to_vec())).into();
    for depth in [127, 128, 129] {
        seeds.push(("json", format!("nested-{depth}"), ["[".repeat(depth), "]".repeat(depth)].concat().into()));
    }
    seeds
}

/// What a center sees; `dispatcher/script.rs` says what the bytes mean.
fn scripts() -> Vec<Seed> {
    let topic = |peer: u8, optype: u8, name: u8| [peer | 6 << 2, optype | name << 3];
    let registry = |peer: u8, optype: u8, method: u8, host: u8| [peer | 7 << 2, optype | method << 3 | host << 5];
    let session = |peer: u8, features: u8| [peer | 4 << 2, features];
    let call = |peer: u8, method: u8, parameters: u8| [peer | 5 << 2, method | parameters << 2];
    let close = |peer: u8| [peer, 0];
    let fill = |peer: u8| [peer | 1 << 2, 255];
    let one_way = |[peer, more]: [u8; 2]| [peer, more | 0x80];
    let send = |peer: u8, kind: u8, codec: u8, flags: u8| [any(peer), kind, codec, flags, 0, 0];
    let all = 0b1_1111;
    let rows = [
        (
            "calls",
            [call(0, 0, 0), call(0, 1, 1), call(0, 2, 3), call(0, 3, 0), session(1, all), call(1, 2, 0)].concat(),
        ),
        (
            "publish",
            [
                [topic(0, 0, 0), topic(1, 2, 0), session(2, all), topic(2, 2, 0), topic(0, 2, 0)].concat(),
                [topic(0, 4, 0), topic(3, 5, 0), topic(3, 4 | 64, 0), topic(1, 3, 0), topic(0, 4, 0)].concat(),
                [topic(0, 1, 0), topic(0, 4, 0), topic(0, 2, 0)].concat(),
            ]
            .concat(),
        ),
        (
            "topic-limits",
            [
                [topic(0, 0, 0), topic(0, 0, 1), topic(0, 0, 2), topic(0, 0, 3), topic(0, 0, 4)].concat(),
                [topic(0, 2, 0), topic(0, 2, 1), topic(0, 2, 2), topic(0, 2, 0)].concat(),
            ]
            .concat(),
        ),
        (
            "registry",
            [
                [registry(1, 1, 0, 0), registry(0, 0, 0, 1), registry(2, 0, 0, 1), registry(2, 0, 0, 2)].concat(),
                [registry(1, 1, 0, 0), close(0), close(2), registry(1, 1, 0, 0)].concat(),
            ]
            .concat(),
        ),
        (
            "withdraw",
            [
                [session(0, all), registry(1, 1, 0, 0), registry(0, 0, 0, 3), registry(0, 0, 0, 1)].concat(),
                [registry(0, 0, 1, 2), registry(0, 4, 0, 1), registry(0, 0, 0, 1), registry(0, 4, 0, 0)].concat(),
                [registry(1, 4, 0, 0), registry(1, 2, 0, 1), registry(1, 3, 0, 1), close(0)].concat(),
            ]
            .concat(),
        ),
        (
            "registry-limits",
            [
                [registry(0, 0, 0, 1), registry(0, 0, 0, 2), registry(0, 0, 1, 1), registry(0, 0, 2, 1)].concat(),
                [registry(0, 1, 0, 0), registry(0, 1, 1, 0), registry(0, 1, 2, 0), registry(0, 1, 0, 0)].concat(),
            ]
            .concat(),
        ),
        (
            "one-way",
            [
                [session(0, all), topic(0, 0, 0), topic(1, 2, 0), one_way(topic(0, 4, 0)), one_way(call(0, 0, 0))]
                    .concat(),
                [one_way(registry(0, 1, 0, 0)), one_way(registry(0, 0, 0, 1)), one_way(topic(1, 4, 0))].concat(),
                [session(2, 0), one_way(topic(2, 4, 0)), one_way(call(2, 3, 0))].concat(),
            ]
            .concat(),
        ),
        ("session-late", [call(0, 0, 0), session(0, all), session(1, all), session(1, all)].concat()),
        (
            "full",
            [
                [topic(0, 0, 0), topic(1, 2, 0), registry(1, 1, 0, 0), registry(1, 0, 1, 1), registry(2, 1, 1, 0)]
                    .concat(),
                [fill(1), fill(2), topic(0, 4, 0), topic(0, 4, 0), registry(0, 0, 0, 1)].concat(),
            ]
            .concat(),
        ),
        (
            "kinds",
            [
                [1, 6, 7, 17, 18, 19, 20, 21, 22, 255].map(|kind| send(0, kind, 0, 0)).concat(),
                session(1, all).to_vec(),
                [1, 6, 7, 16, 17, 18, 19, 20, 21, 22].map(|kind| send(1, kind, 0, 0)).concat(),
                [send(2, 0, 1, 0), send(2, 2, 0, 1), send(2, 4, 0, 2), send(1, 18, 1, 0), send(1, 6, 0, 1)].concat(),
            ]
            .concat(),
        ),
    ];
    rows.map(|(name, script)| ("dispatcher", format!("script-{name}"), script)).into()
}

/// The first byte of a step that sends any message.
const fn any(peer: u8) -> u8 {
    peer | 2 << 2
}

fn from_hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}
