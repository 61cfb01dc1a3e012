//! What attackers send, built beforehand where that is possible: an attack costs the attacker little.

use callboard_tests::frame;
use serde_json::json;

use crate::attack::Attack;

/// What each connection of an attack sends over and over: whole frames, but where the attack says otherwise.
pub(crate) fn of(attack: Attack, method: &str) -> Vec<u8> {
    match attack {
        Attack::HalfFrames => {
            let mut half = frame(4, b"half", &[b' '; 1000]);
            half.truncate(500);
            half
        }
        Attack::LargeHalves => {
            let mut most = frame(4, b"half", &vec![b' '; (16 << 20) - 12]);
            most.truncate(most.len() - 1000);
            most
        }
        Attack::UnreadPings | Attack::Pings => frame(18, b"p", b"").repeat(4096),
        Attack::FewPings => frame(18, b"p", b"").repeat(64),
        Attack::UnreadDiscoveries | Attack::Discoveries => {
            frame(4, b"d", json!({"method": method, "optype": 1}).to_string().as_bytes()).repeat(1024)
        }
        Attack::UnreadMessages => message("attacked", 1024).repeat(64),
        Attack::FloodTo1 | Attack::FloodTo64 => message("attacked", 64).repeat(512),
        Attack::Calls => {
            let call = |n: u32| frame(1 << 26, &n.to_be_bytes(), relayed_call().as_bytes());
            (0..512).flat_map(call).collect()
        }
        Attack::ReusedIds => {
            let call = frame(1 << 26, b"same", relayed_call().as_bytes());
            // Now and then one is given up, whichever that is.
            [call.repeat(15), frame(20, b"same", b"")].concat().repeat(32)
        }
        Attack::Resubscriptions => {
            (0..SHARED).flat_map(|n| [topic(&shared(n), 2), topic(&shared(n), 3)].concat()).collect()
        }
        Attack::LongNames => {
            let name = "n".repeat(10_000_000);
            let create = frame(2, b"t", json!({"topic_key": name, "optype": 0}).to_string().as_bytes());
            let discover = frame(4, b"s", json!({"method": name, "optype": 1}).to_string().as_bytes());
            let call = frame(0, b"c", json!({"method": name, "parameters": {}}).to_string().as_bytes());
            [create, discover, call].concat()
        }
        Attack::Garbage => {
            let mut random = fastrand::Rng::with_seed(1);
            (0..4096).map(|_| random.u8(..)).collect()
        }
        Attack::HugeLengths
        | Attack::Messages
        | Attack::Subscriptions
        | Attack::Registrations
        | Attack::Watches
        | Attack::Connects => Vec::new(),
    }
}

pub(crate) fn session(number: usize, serves: bool) -> Vec<u8> {
    let mut features = vec!["ping", "relay", "cancel"];
    if serves {
        features.push("serves");
    }
    let instance = if serves { PROVIDER.to_owned() } else { format!("attacker-{number}") };
    let hello = json!({"version": 2, "instance": instance, "features": features, "limits": {}});
    frame(16, b"s", hello.to_string().as_bytes())
}

pub(crate) fn register_relayed(method: &str) -> Vec<u8> {
    frame(4, b"r", json!({"method": method, "optype": 0, "relay": true}).to_string().as_bytes())
}

/// An operation on a topic.
pub(crate) fn topic(name: &str, optype: u32) -> Vec<u8> {
    frame(2, b"o", json!({"topic_key": name, "optype": optype}).to_string().as_bytes())
}

/// Creates the topics of [`Attack::Resubscriptions`].
pub(crate) fn creates() -> Vec<u8> {
    (0..SHARED).flat_map(|n| topic(&shared(n), 0)).collect()
}

/// Answers the whole calls in what has come; how many bytes these were.
pub(crate) fn answer_calls(came: &[u8], answers: &mut Vec<u8>) -> usize {
    let word = |at: usize| {
        came.get(at..at + 4).and_then(|word| word.try_into().ok()).map(u32::from_be_bytes).map(|word| word as usize)
    };
    let mut at = 0;
    while let (Some(length), Some(kind), Some(id_bytes)) = (word(at), word(at + 4), word(at + 8)) {
        if came.len() < at + 4 + length {
            break;
        }
        let id = came.get(at + 12..at + 12 + id_bytes).unwrap_or_default();
        match kind {
            0 => answers.extend(frame(1, id, br#"{"rcode":0,"result":3}"#)),
            18 => answers.extend(frame(19, id, b"")),
            _ => {}
        }
        at += 4 + length;
    }
    at
}

/// Requests with names that were not there before, without end.
pub(crate) struct Names {
    attack: Attack,
    connection: usize,
    next: usize,
}

impl Names {
    pub(crate) fn new(attack: Attack, connection: usize) -> Self {
        Self { attack, connection, next: 0 }
    }

    pub(crate) fn next_frames(&mut self) -> Vec<u8> {
        let mut frames = Vec::new();
        for _ in 0..BATCH {
            // By hand: it is to cost little.
            let name = format!("attacked/{}/{}", self.connection, self.next);
            self.next += 1;
            let body = |rest: &str| format!("{{\"method\":\"{name}\",{rest}}}");
            match self.attack {
                Attack::Subscriptions => {
                    for optype in [0, 2] {
                        let body = format!("{{\"topic_key\":\"{name}\",\"optype\":{optype}}}");
                        frames.extend(frame(2, b"o", body.as_bytes()));
                    }
                }
                Attack::Registrations => {
                    let body = body(r#""optype":0,"host":{"ip":"127.0.0.1","port":9}"#);
                    frames.extend(frame(4, b"r", body.as_bytes()));
                }
                _ => frames.extend(frame(4, b"w", body(r#""optype":1"#).as_bytes())),
            }
        }
        frames
    }
}

fn message(topic: &str, bytes: usize) -> Vec<u8> {
    frame(2, b"m", json!({"topic_key": topic, "optype": 4, "topic_msg": "x".repeat(bytes)}).to_string().as_bytes())
}

fn relayed_call() -> String {
    json!({"method": "attacked", "parameters": {}, "meta": {"instance": PROVIDER}}).to_string()
}

fn shared(number: usize) -> String {
    format!("shared/{number}")
}

/// The instance of the attackers' provider.
const PROVIDER: &str = "attacked-provider";
/// Topics of [`Attack::Resubscriptions`].
const SHARED: usize = 100;
/// Names at a time.
const BATCH: usize = 200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whole_calls_are_answered_and_halves_are_left() {
        let call = frame(0, b"7", b"{}");
        let mut answers = Vec::new();
        let came = [&call[..], &frame(18, b"p", b""), &call[..9]].concat();
        assert_eq!(answer_calls(&came, &mut answers), came.len() - 9);
        let expected = [frame(1, b"7", br#"{"rcode":0,"result":3}"#), frame(19, b"p", b"")].concat();
        assert_eq!(answers, expected);
    }
}
