/// Who the script is about: so many peers at once, each replaced by a new one when it has gone.
pub(super) const PEERS: usize = 4;

/// What happens next.
pub(super) struct Step {
    /// Which of the [`PEERS`] it happens to.
    pub(super) peer: usize,
    pub(super) what: What,
}

pub(super) enum What {
    /// The peer's connection ends.
    Close,
    /// The peer stops reading: from now on its outbox has no room.
    Fill,
    /// The peer sends a message.
    Send { mtype: u32, id: Vec<u8>, body: Vec<u8> },
}

/// Steps from bytes. The first byte of a step has the peer in its low 2 bits and what it does in the next 3, the second
/// one says more:
///
/// | does | the second byte |
/// | --- | --- |
/// | 0 closes | |
/// | 1 stops reading, if the second byte is over 200 | |
/// | 2 and 3 send any message | its kind; then a byte each for codec, flags, length of id, length of body; then those two |
/// | 4 opens a session | features, a bit each |
/// | 5 calls | method in 2 bits, parameters in the next 2 |
/// | 6 topic | optype in 3 bits, topic in the next 3, one more bit for how a message is spelled |
/// | 7 registry | optype in 3 bits, method in the next 2, host in the next 2 |
///
/// Bit 7 of the second byte makes a call, a topic or a registry operation one-way. Bits 5 to 7 of the first are free.
pub(super) struct Script<'a> {
    rest: &'a [u8],
    steps: usize,
}

impl<'a> Script<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes, steps: 0 }
    }

    fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*byte)
    }

    fn bytes(&mut self, count: u8) -> Vec<u8> {
        let (taken, rest) = self.rest.split_at(self.rest.len().min(count.into()));
        self.rest = rest;
        taken.to_vec()
    }

    fn any_message(&mut self, kind: u8) -> What {
        let [codec, flags, id_bytes, body_bytes] = [0; 4].map(|_: u8| self.byte().unwrap_or(0));
        let mtype = u32::from(kind) | u32::from(codec) << 16 | u32::from(flags) << 24;
        What::Send { mtype, id: self.bytes(id_bytes), body: self.bytes(body_bytes) }
    }

    /// A message with an id that no other step has.
    fn message(&self, kind: u32, more: u8, body: String) -> What {
        let one_way = if kind == 16 { 0 } else { u32::from(more >> 7) << 24 };
        What::Send { mtype: kind | one_way, id: format!("step {}", self.steps).into(), body: body.into() }
    }
}

impl Iterator for Script<'_> {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let (first, more) = (self.byte()?, self.byte()?);
        if self.steps == MAX_STEPS {
            return None;
        }
        self.steps += 1;
        let what = match first >> 2 & 7 {
            0 => What::Close,
            1 if more > 200 => What::Fill,
            1..=3 => self.any_message(more),
            4 => self.message(16, more, session(more)),
            5 => self.message(0, more, call(more)),
            6 => self.message(2, more, topic(more)),
            _ => self.message(4, more, registry(more)),
        };
        Some(Step { peer: usize::from(first) % PEERS, what })
    }
}

fn session(more: u8) -> String {
    let names = ["one_way", "ping", "withdraw", "topic_removed", "telepathy", "revisions"];
    let chosen: Vec<_> =
        names.iter().enumerate().filter(|(bit, _)| more >> bit & 1 == 1).map(|(_, name)| name).collect();
    format!("{{\"version\":2,\"name\":\"fuzz\",\"features\":{chosen:?}}}")
}

fn call(more: u8) -> String {
    let method = ["add", "echo", "nothing", "missing"][usize::from(more & 3)];
    let parameters = match more >> 2 & 3 {
        0 => r#","parameters":{"num1":1,"num2":2}"#,
        1 => r#","parameters":{"text":"hello"}"#,
        2 => r#","parameters":[1]"#,
        _ => "",
    };
    format!("{{\"method\":\"{method}\"{parameters}}}")
}

fn topic(more: u8) -> String {
    let optype = more & 7;
    let topic = NAMES[usize::from(more >> 3 & 7) % NAMES.len()];
    match (optype, more >> 6 & 1) {
        (4, 0) => format!("{{\"topic_key\":\"{topic}\",\"optype\":4,\"topic_msg\":\"m\\u0041\"}}"),
        (4, _) => format!("{{\"key\":\"{topic}\",\"optype\":\"TOPIC_PUBLISH\",\"message\": [1, {{}} ]}}"),
        (5, _) => format!("{{\"topic_key\":\"{topic}\",\"optype\":4,\"topic_msg\": {{ \"a\" : null }} }}"),
        (6, _) => format!("{{\"topic_key\":\"{topic}\",\"optype\":4}}"),
        _ => format!("{{\"topic_key\":\"{topic}\",\"optype\":{optype}}}"),
    }
}

fn registry(more: u8) -> String {
    let optype = more & 7;
    let method = NAMES[usize::from(more >> 3 & 3)];
    let host = match more >> 5 & 3 {
        0 => "",
        1 => r#","host":{"ip":"127.0.0.1","port":1}"#,
        2 => r#","host":{"ip":"::1","port":2}"#,
        _ => r#","host":{"ip":"127.0.0.1","port":3}"#,
    };
    format!("{{\"method\":\"{method}\",\"optype\":{optype}{host}}}")
}

/// The last one is too long.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "much too long"];

/// Longer scripts find nothing that these don't, and take longer.
const MAX_STEPS: usize = 250;
