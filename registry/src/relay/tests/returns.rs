//! Providers whose connections are lost, and that come back.

use super::*;

const GRACE: Duration = Duration::from_secs(2);

impl House {
    /// A provider of `add` that was there a moment ago.
    fn lost(&self, id: u64, instance: &str) {
        self.center.closed(&self.provider(id, instance));
    }

    /// All that is due, and how many calls are passed on of those that waited.
    fn look(&self) {
        while self.relay.resume() {}
        let _ = self.relay.registry.on_time(Instant::now());
        let _ = self.relay.on_time(Instant::now());
    }

    fn waiting(&self) -> usize {
        self.relay.metrics().waiting
    }
}

fn told(conn: &Recorder) -> Vec<(Vec<u8>, (u64, String, String))> {
    conn.take().iter().map(|sent| (sent.0.id().to_vec(), code(&sent.text()))).collect()
}

#[tokio::test(start_paused = true)]
async fn calls_wait_for_a_provider_that_may_be_back_and_are_passed_on_in_order() {
    let house = House::patient(RelayLimits::default());
    let (first, caller) = (house.provider(1, "i-1"), caller(2));
    // From the moment on from which it sends no more.
    house.center.ended(&first);
    house.send(&caller, RELAY, b"a", CALL);
    house.center.closed(&first);
    house.send(&caller, RELAY, b"b", CALL);
    house.send(&caller, RELAY | ONE_WAY, b"c", CALL);
    house.look();
    assert_eq!(
        (caller.take(), caller.in_flight(), house.waiting(), house.relay.metrics().passed_on),
        (vec![], 2, 3, 0)
    );
    tokio::time::advance(GRACE * 9 / 10).await;
    // So much of their time is over.
    let left = CALL.replace("5000", "3200");
    let second = provider(3, "i-1");
    house.ask(&second, 4, &REGISTER.replace("add", "other"));
    house.look();
    assert_eq!((second.take(), house.waiting()), (vec![], 3), "it does not offer the method yet");
    house.ask(&second, 4, REGISTER);
    house.look();
    let passed = second.take();
    assert_eq!(
        passed.iter().map(|sent| (sent.0.flags(), *sent.text() == left)).collect::<Vec<_>>(),
        [(0, true), (0, true), (1, true)],
        "{passed:?}"
    );
    for (passed, id) in passed.iter().zip([b"a", b"b"]) {
        house.send(&second, 1, passed.0.id(), r#"{"rcode":0,"result":3}"#);
        assert_eq!(caller.take().pop().unwrap().0.id(), id);
    }
    let metrics = house.relay.metrics();
    let counted = (metrics.waited, metrics.resumed, metrics.refused, metrics.waiting, metrics.waiting_bytes);
    assert_eq!((counted, metrics.passed_on, caller.in_flight()), ((3, 3, 0, 0, 0), 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_no_longer_than_its_time_and_the_grace_and_did_not_run() {
    let house = House::patient(RelayLimits::default());
    house.lost(1, "i-1");
    let caller = caller(2);
    house.send(&caller, RELAY, b"long", CALL);
    house.send(&caller, RELAY, b"short", &CALL.replace("5000", "20"));
    assert_eq!(code(&house.ask(&caller, RELAY, &CALL.replace("5000", "0"))), refused(16, ""));
    let kept = Arc::clone(&house.relay);
    let kept = tokio::spawn(async move { kept.keep().await });
    let began = Instant::now();
    while house.waiting() > 1 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() < Duration::from_millis(40), "{:?}", began.elapsed());
    while house.waiting() > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert!(began.elapsed() >= GRACE * 9 / 10 && began.elapsed() < GRACE + GRACE / 10);
    assert_eq!(told(&caller), [(b"short".to_vec(), refused(16, "")), (b"long".to_vec(), refused(22, ""))]);
    assert_eq!((caller.in_flight(), house.relay.metrics().refused), (0, 2));
    kept.abort();
    // Then nobody waits any more.
    house.look();
    assert_eq!(code(&house.ask(&caller, RELAY, CALL)), refused(22, ""));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_where_somebody_else_provides_the_method() {
    let house = House::patient(RelayLimits::default());
    house.lost(1, "i-1");
    let caller = caller(2);
    let listens = session(4, "i-4", Features::ALL, None);
    for id in [3, 4] {
        let other = if id == 3 { house.provider(3, "i-3") } else { listens.clone() };
        if id == 4 {
            house.ask(&other, 4, r#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":7}}"#);
        }
        assert_eq!(code(&house.ask(&caller, RELAY, CALL)), refused(22, ""), "{id}");
        // Who is gone as well is nobody to turn to.
        house.center.closed(&other);
        house.send(&caller, RELAY, b"x", CALL);
        assert_eq!((caller.take(), house.waiting()), (vec![], id - 2));
    }
    house.send(&caller, RELAY, b"y", &CALL.replace("add", "sub"));
    assert_eq!(told(&caller), [(b"y".to_vec(), refused(22, ""))], "what it never offered is not waited for");
}

#[tokio::test(start_paused = true)]
async fn what_is_given_up_while_it_waits_is_passed_on_to_nobody() {
    let house = House::patient(RelayLimits::default());
    house.lost(1, "i-1");
    let (given_up, ended, closed) = (caller(2), caller(3), caller(4));
    for conn in [&given_up, &ended, &closed] {
        house.send(conn, RELAY, b"mine", CALL);
    }
    house.send(&ended, RELAY | ONE_WAY, b"", CALL);
    house.send(&given_up, 20, b"mine", "");
    house.center.ended(&ended);
    house.center.closed(&closed);
    for conn in [&given_up, &ended, &closed] {
        assert_eq!((conn.take(), conn.in_flight(), conn.events()), (vec![], 0, vec![Event::Cancelled]));
    }
    assert!(house.here.lock().unwrap().is_empty(), "the word was for a call that was here");
    let back = house.provider(5, "i-1");
    house.look();
    let passed = back.take();
    assert!(passed.len() == 1 && passed[0].0.is_one_way(), "{passed:?}");
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_bounded_and_who_has_most_gives_way() {
    let bytes = CALL.len() + 1 + 12 + 512;
    let rows = [
        (RelayLimits { waiting_calls: 3, ..RelayLimits::default() }, "relay_waiting_calls"),
        (RelayLimits { waiting_bytes: 3 * bytes + 20, ..RelayLimits::default() }, "relay_waiting_bytes"),
    ];
    for (limits, limit) in rows {
        let house = House::patient(limits);
        house.lost(1, "i-1");
        let (greedy, newcomers, last) = (caller(2), [caller(3), caller(4)], caller(5));
        for id in [b"1", b"2", b"3"] {
            house.send(&greedy, RELAY, id, CALL);
        }
        house.send(&greedy, RELAY, b"4", CALL);
        assert_eq!(told(&greedy), [(b"4".to_vec(), refused(17, limit))]);
        for (newcomer, newest) in newcomers.iter().zip([b"3", b"2"]) {
            house.send(newcomer, RELAY, b"n", CALL);
            assert_eq!(told(&greedy), [(newest.to_vec(), refused(17, ""))]);
        }
        house.send(&last, RELAY, b"l", CALL);
        assert_eq!(told(&last), [(b"l".to_vec(), refused(17, limit))], "nobody has more than it would");
        let metrics = house.relay.metrics();
        assert_eq!((metrics.waiting, metrics.waited, metrics.refused), (3, 5, 2));
        assert!(metrics.waiting_bytes <= limits.waiting_bytes);
    }
    let house = House::patient(RelayLimits { waiting_calls: 0, ..RelayLimits::default() });
    house.lost(1, "i-1");
    assert_eq!(code(&house.ask(&caller(2), RELAY, CALL)), refused(17, "relay_waiting_calls"));
}

#[tokio::test(start_paused = true)]
async fn who_is_back_is_asked_only_for_what_it_can_do_and_permits() {
    let house = House::patient(RelayLimits::default());
    house.lost(1, "i-1");
    let caller = caller(2);
    let keyed = r#"{"method":"add","meta":{"instance":"i-1","idempotency_key":"k"}}"#;
    house.send(&caller, RELAY, b"keyed", keyed);
    house.send(&caller, RELAY, b"large", &CALL.replace("[1,2]", &format!("{:?}", "x".repeat(300))));
    for id in [b"1", b"2", b"3"] {
        house.send(&caller, RELAY, id, CALL);
    }
    let serving = Some(Limits { max_frame_bytes: 300, in_flight: 4 });
    let back = session(3, "i-1", Features::ALL.without(Feature::Keys), serving);
    house.ask(&back, 4, REGISTER);
    house.look();
    assert_eq!(
        told(&caller),
        [
            (b"keyed".to_vec(), refused(2, "")),
            (b"large".to_vec(), refused(21, "max_frame_bytes")),
            (b"3".to_vec(), refused(17, "provider_in_flight"))
        ]
    );
    let metrics = house.relay.metrics();
    assert_eq!((back.take().len(), caller.in_flight(), metrics.resumed, metrics.refused), (2, 2, 2, 3));
}

#[tokio::test(start_paused = true)]
async fn at_a_center_that_has_begun_anew_calls_wait_for_who_was_there_before() {
    let policy = AvailabilityPolicy { warm_up: 3 * GRACE, ..AvailabilityPolicy::trusting() };
    let registry = Arc::new(RegistryService::with_policy(RegistryLimits::default(), policy));
    let house = House::with(registry, RelayLimits::default());
    let caller = caller(2);
    house.send(&caller, RELAY, b"a", CALL);
    house.send(&caller, RELAY, b"b", &CALL.replace("i-1", "i-2").replace("5000", "9000"));
    let back = house.provider(1, "i-1");
    house.look();
    assert_eq!(back.take().len(), 1);
    tokio::time::advance(3 * GRACE).await;
    house.look();
    let told = told(&caller);
    assert!(told.contains(&(b"b".to_vec(), refused(22, ""))) && house.waiting() == 0, "{told:?}");
    assert_eq!(code(&house.ask(&caller, RELAY, &CALL.replace("i-1", "i-2"))), refused(22, ""));
}

#[tokio::test(start_paused = true)]
async fn a_center_that_ends_waits_for_nobody() {
    let house = House::patient(RelayLimits::default());
    house.lost(1, "i-1");
    let caller = caller(2);
    house.send(&caller, RELAY, b"a", CALL);
    house.relay.registry.drain();
    house.relay.drain();
    assert_eq!(told(&caller), [(b"a".to_vec(), refused(22, ""))]);
    assert_eq!((code(&house.ask(&caller, RELAY, CALL)), house.waiting()), (refused(22, ""), 0));
}

impl House {
    /// At a center that has begun anew, where calls wait for whoever is named.
    fn young() -> Self {
        let policy = AvailabilityPolicy { warm_up: GRACE, ..AvailabilityPolicy::trusting() };
        Self::with(Arc::new(RegistryService::with_policy(RegistryLimits::default(), policy)), RelayLimits::default())
    }
}

fn method(number: usize) -> String {
    format!("m{number:04}")
}

#[tokio::test(start_paused = true)]
async fn deadlines_are_kept_while_a_provider_comes_again_and_again() {
    let house = House::young();
    let (restless, caller) = (provider(1, "i-1"), caller(2));
    house.send(&caller, RELAY, b"a", &CALL.replace("i-1", "i-2").replace("5000", "20"));
    let kept = Arc::clone(&house.relay);
    let kept = tokio::spawn(async move { kept.keep().await });
    for number in 0..100 {
        house.ask(&restless, 4, &REGISTER.replace("add", &method(number)));
        // To the keeper's next turn.
        tokio::time::advance(Duration::from_millis(1)).await;
    }
    assert_eq!(told(&caller), [(b"a".to_vec(), refused(16, ""))], "its time was over long ago");
    kept.abort();
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_changes_nothing_lets_nothing_be_looked_at() {
    let house = House::young();
    house.send(&caller(2), RELAY, b"a", &CALL.replace("i-1", "i-2"));
    let known = house.provider(1, "i-1");
    assert!(house.relay.resume() && !house.relay.resume());
    house.ask(&known, 4, REGISTER);
    assert!(!house.relay.resume(), "a repeat");
    house.relay.registry.cut_line(&known);
    house.ask(&known, 4, REGISTER);
    assert!(house.relay.resume(), "it can be reached again");
    house.ask(&known, 4, &REGISTER.replace("add", "other"));
    assert!(house.relay.resume() && !house.relay.resume());
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_looked_at_in_pieces_and_all_who_are_back_have_their_turn() {
    let house = House::young();
    let (caller, methods) = (caller(2), 2 * AT_ONCE + 10);
    for number in 0..methods {
        house.send(&caller, RELAY, b"1", &CALL.replace("add", &method(number)));
    }
    let back = provider(1, "i-1");
    let serving = Some(Limits { max_frame_bytes: 300, in_flight: 10_000 });
    let many = session(3, "i-3", Features::ALL, serving);
    for number in 0..AT_ONCE {
        house.send(&caller, RELAY, b"3", &CALL.replace("i-1", "i-3").replace("[1,2]", &number.to_string()));
        house.send(&caller, RELAY, b"3", &CALL.replace("i-1", "i-3").replace("add", "sub"));
    }
    // Of all methods that are waited for it has the last one.
    house.ask(&back, 4, &REGISTER.replace("add", &method(methods - 1)));
    let mut passed = Vec::new();
    while house.relay.resume() {
        passed.push(back.take().len());
    }
    assert_eq!(passed, [0, 0, 1], "in three pieces");
    house.ask(&many, 4, &REGISTER.replace("add", "sub"));
    house.ask(&many, 4, REGISTER);
    let (mut passed, mut pieces) = (0, 0);
    while house.relay.resume() {
        // Somebody is back all the time.
        house.ask(&back, 4, &REGISTER.replace("add", &format!("x{pieces}")));
        assert!(pieces < 20, "whoever comes again and again leaves turns to others");
        let piece = many.take().len();
        assert!(piece < AT_ONCE, "{piece}");
        (passed, pieces) = (passed + piece, pieces + 1);
        if passed == 2 * AT_ONCE {
            return;
        }
    }
    panic!("{passed} were passed on");
}

#[tokio::test(start_paused = true)]
async fn who_comes_again_and_again_does_not_keep_others_waiting() {
    // Whichever comes first in the order of the hosts.
    for (one, other) in [("i-1", "i-2"), ("i-2", "i-1")] {
        let house = House::young();
        let (restless, caller) = (provider(1, one), caller(2));
        house.send(&caller, RELAY, b"a", &CALL.replace("i-1", other));
        house.ask(&restless, 4, REGISTER);
        let back = house.provider(3, other);
        for number in 0..2 {
            assert!(house.relay.resume());
            house.ask(&restless, 4, &REGISTER.replace("add", &method(number)));
        }
        assert_eq!(back.take().len(), 1, "{other}");
    }
}

#[tokio::test(start_paused = true)]
async fn calls_whose_time_is_over_together_are_answered_in_pieces() {
    let house = House::young();
    let (caller, calls) = (caller(2), 2 * AT_ONCE + 10);
    let serving = Some(Limits { max_frame_bytes: 300, in_flight: 10_000 });
    let there = session(3, "i-3", Features::ALL, serving);
    house.ask(&there, 4, &REGISTER.replace("add", "sub"));
    for _ in 0..calls {
        house.send(&caller, RELAY, b"waits", CALL);
        let call = CALL.replace("add", "sub").replace("i-1", "i-3").replace("5000", "2000");
        house.send(&caller, RELAY, b"passed on", &call);
    }
    let passed_on = there.take().len();
    assert_eq!((caller.take().len(), passed_on, house.waiting()), (0, calls, calls));
    let kept = Arc::clone(&house.relay);
    let kept = tokio::spawn(async move { kept.keep().await });
    yield_now().await;
    tokio::time::advance(GRACE).await;
    let mut pieces = Vec::new();
    while caller.in_flight() > 0 {
        yield_now().await;
        pieces.extend(Some(caller.take().len()).filter(|piece| *piece > 0));
    }
    assert_eq!(pieces, [2 * AT_ONCE, 2 * AT_ONCE, 20]);
    kept.abort();
}

#[tokio::test(start_paused = true)]
async fn a_center_that_ends_refuses_all_that_wait() {
    let house = House::young();
    let (caller, calls) = (caller(2), 2 * AT_ONCE + 10);
    for _ in 0..calls {
        house.send(&caller, RELAY, b"a", CALL);
    }
    house.relay.drain();
    assert_eq!((told(&caller).len(), house.waiting(), caller.in_flight()), (calls, 0, 0));
}
