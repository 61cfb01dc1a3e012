use std::time::Duration;

use super::{Field, Setting};
use crate::Config;

const fn number(key: &'static str, least: usize, field: fn(&mut Config) -> &mut usize, about: &'static str) -> Setting {
    Setting { key, about, field: Field::Number(least, field) }
}

const fn millis(key: &'static str, field: fn(&mut Config) -> &mut Duration, about: &'static str) -> Setting {
    Setting { key, about, field: Field::Millis(field) }
}

/// In the order in which they are told.
pub(crate) const ALL: &[Setting] = &[
    Setting {
        key: "listen",
        about: "Addresses to listen on: tcp://host:port or unix:///path; port 0 takes a free one",
        field: Field::Addresses(|config| &mut config.listen),
    },
    number("loops", 0, |config| &mut config.loops, "Event loops, a thread each; 0 means one a core"),
    Setting {
        key: "pin",
        about: "Whether each event loop stays on one core",
        field: Field::Switch(|config| &mut config.pin),
    },
    millis(
        "grace_ms",
        |config| &mut config.grace,
        "A center that stops waits for so long for requests in flight, and for peers to end their connections",
    ),
    number(
        "max_connections",
        1,
        |config| &mut config.limits.max_connections,
        "Connections held at once; further ones are closed at once",
    ),
    number(
        "churn_per_second",
        50,
        |config| &mut config.limits.churn_per_second,
        "Connections that may end in a second, 50 at least; where more come and go, no more than that are let in",
    ),
    number(
        "max_frame_bytes",
        1024,
        |config| &mut config.limits.max_frame_bytes,
        "The largest frame taken; a connection that announces a larger one is closed",
    ),
    number(
        "queue_bytes",
        1024,
        |config| &mut config.limits.queue_bytes,
        "What may wait to be written to one connection; at least twice max_frame_bytes",
    ),
    number(
        "in_flight",
        1,
        |config| &mut config.limits.in_flight,
        "Requests of one connection that may be in work at once",
    ),
    millis(
        "frame_silence_ms",
        |config| &mut config.limits.frame_silence,
        "A connection that begins a frame and then sends nothing for so long is closed",
    ),
    number(
        "frame_bytes_per_second",
        1,
        |config| &mut config.limits.frame_bytes_per_second,
        "A frame must be whole after frame_silence_ms and one second for each so many of its bytes",
    ),
    millis(
        "half_closed_ms",
        |config| &mut config.limits.half_closed,
        "A connection whose peer sends no more is kept for so long for the answers that are due",
    ),
    millis(
        "heartbeat_ms",
        |config| &mut config.limits.heartbeats.caller.interval,
        "A session peer that says nothing for so long is asked for a sign of life",
    ),
    millis(
        "dead_ms",
        |config| &mut config.limits.heartbeats.caller.dead,
        "A session peer that says nothing for so long is taken for dead, and its connection closed",
    ),
    millis(
        "provider_heartbeat_ms",
        |config| &mut config.limits.heartbeats.provider.interval,
        "The same as heartbeat_ms for a peer that has registered methods",
    ),
    millis(
        "provider_dead_ms",
        |config| &mut config.limits.heartbeats.provider.dead,
        "The same as dead_ms for a peer that has registered methods",
    ),
    millis(
        "keep_alive_ms",
        |config| &mut config.limits.keep_alive.idle,
        "A TCP peer that says nothing for so long is probed by the kernel; in whole seconds",
    ),
    millis(
        "keep_alive_interval_ms",
        |config| &mut config.limits.keep_alive.interval,
        "After so long without an answer to a probe comes the next one; in whole seconds",
    ),
    number(
        "keep_alive_probes",
        1,
        |config| &mut config.limits.keep_alive.probes,
        "A connection ends after so many probes without an answer",
    ),
    millis(
        "unacknowledged_ms",
        |config| &mut config.limits.keep_alive.unacknowledged,
        "A TCP peer that neither acknowledges nor takes what was sent for so long is closed",
    ),
    millis(
        "stall_ms",
        |config| &mut config.limits.stall,
        "A subscriber that takes no byte for so long no longer holds its publishers back",
    ),
    number(
        "total_queue_bytes",
        1024,
        |config| &mut config.limits.total_queue_bytes,
        "What may wait to be written to all connections; past it the most stalled one is closed",
    ),
    number(
        "total_partial_bytes",
        1024,
        |config| &mut config.limits.total_partial_bytes,
        "What all connections together may hold of unfinished frames",
    ),
    number(
        "registered_per_connection",
        1,
        |config| &mut config.registry.registered_per_connection,
        "Methods, each at a host, that one connection may register",
    ),
    number(
        "watched_per_connection",
        1,
        |config| &mut config.registry.watched_per_connection,
        "Methods that one connection may discover and then hears of",
    ),
    number(
        "max_method_bytes",
        1,
        |config| &mut config.registry.max_name_bytes,
        "The longest name of a method that may be registered or discovered",
    ),
    number(
        "total_registry_bytes",
        1024,
        |config| &mut config.registry.total_bytes,
        "What all that is registered and watched may take; past it the connection goes that has most of it",
    ),
    Setting {
        key: "probe",
        about: "Whether a provider is announced only after its host was connected to once",
        field: Field::Switch(|config| &mut config.availability.probe),
    },
    millis(
        "probe_timeout_ms",
        |config| &mut config.availability.probe_timeout,
        "How long it may take to connect to a provider's host; a first attempt has a tenth of it, a second one the rest",
    ),
    number(
        "max_probes",
        1,
        |config| &mut config.availability.max_probes,
        "First attempts at once, a quarter for one connection; as many second ones, and as many for the departed",
    ),
    millis(
        "provider_grace_ms",
        |config| &mut config.availability.provider_grace,
        "A provider whose connection broke stays online for so long, if its host still accepts",
    ),
    number(
        "flap_changes",
        1,
        |config| &mut config.availability.flap_changes,
        "Comings and goings of a method at a host in flap_window_ms; past it, coming is told later",
    ),
    millis("flap_window_ms", |config| &mut config.availability.flap_window, "The time over which flap_changes counts"),
    millis(
        "warm_up_ms",
        |config| &mut config.availability.warm_up,
        "Callers of a method that nobody provides wait until the center has run for so long: providers may be coming back",
    ),
    number(
        "relayed_calls",
        0,
        |config| &mut config.relay.calls,
        "Calls passed on at once to providers that listen nowhere; past it who has most gives way, or is refused",
    ),
    number(
        "relay_waiting_calls",
        0,
        |config| &mut config.relay.waiting_calls,
        "Calls that may wait for such a provider to come back, as long as it may; past it as past relayed_calls",
    ),
    number(
        "relay_waiting_bytes",
        0,
        |config| &mut config.relay.waiting_bytes,
        "The same in bytes of their frames, and 512 for each",
    ),
    number(
        "max_topics",
        1,
        |config| &mut config.topics.topics,
        "Topics in all; past it one that nobody holds is removed, else the connection goes that holds most",
    ),
    number(
        "topics_per_connection",
        1,
        |config| &mut config.topics.created_per_connection,
        "Topics that one connection may hold: it created them, or was subscribed when the one that did ended",
    ),
    number(
        "subscribed_per_connection",
        1,
        |config| &mut config.topics.subscribed_per_connection,
        "Topics that one connection may subscribe to",
    ),
    number(
        "total_topic_bytes",
        1024,
        |config| &mut config.topics.total_bytes,
        "What all topics and subscriptions may take; past it as past max_topics",
    ),
    number("max_topic_bytes", 1, |config| &mut config.topics.max_name_bytes, "The longest name of a topic"),
    number(
        "ring_messages",
        0,
        |config| &mut config.topics.ring_messages,
        "How many of its last messages a topic keeps for subscribers that come back",
    ),
    number("ring_bytes", 0, |config| &mut config.topics.ring_bytes, "The same in bytes; past it the oldest go"),
    number(
        "total_ring_bytes",
        0,
        |config| &mut config.topics.total_ring_bytes,
        "What all topics together keep; past it the one to which nothing was published for longest gives up all of it",
    ),
];
