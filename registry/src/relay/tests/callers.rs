//! Providers that learn whose calls are passed on to them, and call these back.

use super::*;

use crate::relay::back::CALL_BACK_BYTES;

const BACK: &str = r#"{"method":"tell","parameters":1,"meta":{"timeout_ms":5000,"caller":"TAG"}}"#;
const CANCEL: u32 = 20;

/// Somebody who calls, and offers methods.
fn serving_caller(id: u64) -> Recorder {
    session(id, "caller", Features::ALL, Some(Limits { max_frame_bytes: 200, in_flight: 2 }))
}

fn tag(sent: &Sent) -> CallerTag {
    CallerTag::from_id(sent.0.id()).expect("it ends with a tag")
}

fn back_to(tag: CallerTag) -> String {
    BACK.replace("TAG", std::str::from_utf8(&CallerTag::digits(tag.number())).unwrap())
}

#[test]
fn a_provider_learns_whose_each_call_is_and_one_that_does_not_know_that_gets_what_it_knows() {
    let house = House::new();
    let (provider, one, other) = (house.provider(1, "i-1"), caller(2), serving_caller(3));
    let tags = [&one, &other, &one].map(|caller| tag(&house.passed_on(caller, b"x", &provider)));
    assert!(tags[0] == tags[2] && tags[0].number() != tags[1].number(), "{tags:?}");
    assert_eq!(tags.map(CallerTag::serves), [false, true, false]);
    house.send(&one, RELAY | ONE_WAY, b"", CALL);
    let sent = provider.take().remove(0);
    assert_eq!((tag(&sent), sent.0.id().len()), (tags[0], RequestId::WIRE_BYTES + CallerTag::WIRE_BYTES));
    // What is given up is named as it was passed on.
    house.send(&one, CANCEL, b"x", "{}");
    let given_up = provider.take();
    assert!(given_up.len() == 2 && given_up.iter().all(|sent| tag(sent) == tags[0]), "{given_up:?}");
    house.center.closed(&one);
    assert_eq!(tag(&house.passed_on(&other, b"y", &provider)), tags[1]);
    assert_ne!(tag(&house.passed_on(&caller(4), b"x", &provider)), tags[0]);

    let old = session(5, "i-1", Features::ALL.without(Feature::Callers), Some(Limits::default()));
    house.center.closed(&provider);
    assert_eq!(house.ask(&old, 4, REGISTER), r#"{"rcode":0,"optype":0}"#);
    let passed = house.passed_on(&other, b"z", &old);
    assert_eq!((passed.0.id().len(), CallerTag::from_id(passed.0.id())), (17, None));
    house.send(&other, RELAY | ONE_WAY, b"", CALL);
    assert_eq!(old.take().remove(0).0.id().len(), RequestId::WIRE_BYTES);
}

#[test]
fn what_has_waited_for_a_provider_is_passed_on_as_whose_it_is_though_they_have_gone() {
    let house = House::patient(RelayLimits::default());
    let (first, caller) = (house.provider(1, "i-1"), caller(2));
    let known = tag(&house.passed_on(&caller, b"x", &first));
    house.center.closed(&first);
    house.send(&caller, RELAY, b"y", CALL);
    house.send(&caller, RELAY | ONE_WAY, b"", CALL);
    house.send(&caller, RELAY | ONE_WAY, b"", CALL);
    let back = house.provider(3, "i-1");
    assert!(house.relay.resume());
    let passed = back.take();
    assert!(passed.len() == 3 && passed.iter().all(|sent| tag(sent) == known), "{passed:?}");
    // And nothing is kept of one that has gone.
    house.center.closed(&back);
    house.send(&caller, RELAY | ONE_WAY, b"", CALL);
    house.center.closed(&caller);
    let back = house.provider(4, "i-1");
    assert!(house.relay.resume());
    assert_eq!(back.take().iter().map(tag).collect::<Vec<_>>(), [known]);
    assert!(house.relay.desk().callers.find(known.number()).is_none());
}

#[test]
fn a_provider_calls_those_that_have_called_it_and_nobody_else() {
    let house = House::new();
    let (provider, caller) = (house.provider(1, "i-1"), serving_caller(2));
    let tag = tag(&house.passed_on(&caller, b"x", &provider));
    house.send(&provider, RELAY, b"b1", &back_to(tag));
    let passed = caller.take().remove(0);
    assert_eq!((passed.0.kind(), passed.0.flags(), &*passed.text()), (MessageType::RpcRequest, 0, &*back_to(tag)));
    assert!(CallerTag::from_id(passed.0.id()).is_some_and(|provider| provider != tag && !provider.serves()));
    assert_eq!((house.relay.metrics().passed_on, provider.in_flight()), (2, 1));
    house.send(&caller, 1, passed.0.id(), r#"{"rcode":0,"result":7}"#);
    let answer = provider.take().remove(0);
    assert_eq!((answer.0.id(), &*answer.text()), (&b"b1"[..], r#"{"rcode":0,"result":7}"#));
    // One way, and what is given up.
    house.send(&provider, RELAY | ONE_WAY, b"", &back_to(tag));
    assert_eq!(caller.take().remove(0).0.flags(), FLAG_ONE_WAY);
    house.send(&provider, RELAY, b"b2", &back_to(tag));
    house.send(&provider, CANCEL, b"b2", "{}");
    let sent = caller.take();
    assert_eq!((sent[1].0.kind(), sent[1].0.id()), (MessageType::Cancel, sent[0].0.id()));
    assert_eq!((house.relay.metrics().passed_on, provider.in_flight()), (1, 0));

    let refuses = |body: &str| code(&house.ask(&provider, RELAY, body));
    assert_eq!(refuses(&BACK.replace("TAG", "00000000000000a7")), refused(3, ""), "nobody has it");
    assert_eq!(refuses(&BACK.replace(r#""TAG""#, "7")), refused(3, ""));
    assert_eq!(refuses(&back_to(tag).replace("5000", "0")), refused(16, ""));
    assert_eq!(refuses(&back_to(tag).replace("tell", &"x".repeat(100))), refused(21, "max_frame_bytes"));
    caller.set_queued_bytes(CALL_BACK_BYTES + 1);
    assert_eq!(refuses(&back_to(tag)), refused(17, ""), "it does not read");
    caller.set_queued_bytes(0);
    // Two at once, of which one asker has one.
    house.send(&provider, RELAY, b"b3", &back_to(tag));
    assert_eq!(refuses(&back_to(tag)), refused(17, "provider_in_flight"));
    assert_eq!(caller.take().len(), 1);
}

#[test]
fn who_offers_nothing_or_has_gone_is_not_called() {
    let house = House::new();
    let (provider, deaf, gone) = (house.provider(1, "i-1"), caller(2), serving_caller(3));
    let of_deaf = tag(&house.passed_on(&deaf, b"x", &provider));
    assert_eq!(code(&house.ask(&provider, RELAY, &back_to(of_deaf))), refused(5, ""));
    let of_gone = tag(&house.passed_on(&gone, b"x", &provider));
    house.send(&provider, RELAY, b"b1", &back_to(of_gone));
    house.center.closed(&gone);
    let unknown = (3, "unknown".to_owned(), String::new());
    let told = provider.take();
    let of_b1 = told.iter().find(|sent| sent.0.id() == b"b1").unwrap();
    assert_eq!(code(&of_b1.text()), unknown);
    assert_eq!(code(&house.ask(&provider, RELAY, &back_to(of_gone))), refused(3, ""));
    assert_eq!(deaf.take(), []);
}

#[test]
fn where_much_waits_to_be_written_a_caller_leaves_room_for_others_and_so_do_calls_that_nobody_waits_for() {
    let house = House::new();
    let (provider, one, other) = (house.provider(1, "i-1"), caller(2), caller(3));
    let frame = provider_frame_bytes();
    provider.set_bounds(10_000, 12 * frame);
    let refuses = |caller: &Recorder| code(&house.ask(caller, RELAY, CALL));
    house.passed_on(&one, b"x", &provider);
    // A quarter is to be written; then more, of which one more call of a caller takes no more than is free.
    provider.set_queued_bytes(3 * frame);
    house.passed_on(&one, b"y", &provider);
    provider.set_queued_bytes(10 * frame + 1);
    assert_eq!(refuses(&one), refused(17, "provider_queued_bytes"));
    house.passed_on(&other, b"x", &provider);
    // One way: half of it.
    let passes = |queued| {
        provider.set_queued_bytes(queued);
        house.send(&one, RELAY | ONE_WAY, b"", CALL);
        provider.take().len()
    };
    assert_eq!([6 * frame, 6 * frame + 1, 0].map(passes), [1, 0, 1]);
}

/// What a call takes that comes to the center.
fn provider_frame_bytes() -> usize {
    12 + 1 + CALL.len()
}
