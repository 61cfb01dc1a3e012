//! Coming back, what is kept for that, and those who can't keep up.

use super::*;

/// Publishes `"1"`, `"2"` and so on up to this one, one by one.
fn publish_up_to(topics: &TopicService<Recorder>, publisher: &Recorder, last: u64) {
    for n in 1..=last {
        send(topics, publisher, "p", &format!(r#"{{"topic_key":"t","optype":4,"topic_msg":{n}}}"#));
    }
    publisher.take();
}

/// The answer to a subscribe, and the numbers of what follows it, which are those that it says.
fn subscribed(topics: &TopicService<Recorder>, peer: &Recorder, more: &str) -> (String, Vec<u64>) {
    send(topics, peer, "s", &format!(r#"{{"topic_key":"t","optype":2{more}}}"#));
    let mut sent = peer.take();
    let answer = sent.remove(0);
    let read = TopicAnswer::decode::<Json>(answer.0.body()).unwrap().subscribed.unwrap();
    let numbers: Vec<_> =
        sent.iter().map(|sent| TopicRequest::decode::<Json>(sent.0.body()).unwrap().seq.unwrap()).collect();
    assert_eq!(numbers, (read.at.seq - read.replayed + 1..=read.at.seq).collect::<Vec<_>>());
    (answer.text().into_owned(), numbers)
}

fn kept(ring_messages: usize) -> TopicLimits {
    TopicLimits { ring_messages, ..TopicLimits::default() }
}

#[test]
fn one_who_comes_back_gets_what_is_kept_and_is_told_what_is_not() {
    let (topics, publisher, first) = (TopicService::with_limits(kept(4)), Recorder::new(1), session_peer(2));
    send(&topics, &publisher, "c", r#"{"topic_key":"t","optype":0}"#);
    send(&topics, &first, "s", r#"{"topic_key":"t","optype":2}"#);
    topics.closed(&first);
    publish_up_to(&topics, &publisher, 10);
    let rows = [
        (r#","epoch":1,"after":10"#, r#","missed":0"#, 11),
        (r#","epoch":1,"after":9"#, r#","replayed":1,"missed":0"#, 10),
        (r#","epoch":1,"after":6"#, r#","replayed":4,"missed":0"#, 7),
        (r#","epoch":1,"after":5"#, r#","replayed":4,"missed":1"#, 7),
        (r#","epoch":1,"after":0"#, r#","replayed":4,"missed":6"#, 7),
        (r#","epoch":1,"after":11"#, r#","replayed":4,"missed":-1"#, 7),
        (r#","epoch":2,"after":9"#, r#","replayed":4,"missed":-1"#, 7),
        (r#","epoch":2"#, "", 11),
        ("", "", 11),
        (r#","retain":true"#, r#","replayed":1"#, 10),
    ];
    for (id, (asked, told, from)) in (10..).zip(rows) {
        let peer = session_peer(id);
        let (answer, numbers) = subscribed(&topics, &peer, asked);
        assert_eq!(answer, format!(r#"{{"rcode":0,"epoch":1,"seq":10{told}}}"#), "{asked}");
        assert_eq!(numbers, (from..=10).collect::<Vec<_>>(), "{asked}");
    }
    for (id, peer) in [Recorder::new(30), plain_peer(31)].iter().enumerate() {
        send(&topics, peer, "s", r#"{"topic_key":"t","optype":2,"epoch":1,"after":"x","retain":7}"#);
        assert_eq!(came(peer), [r#"RSP_TOPIC s {"rcode":0}"#], "{id}: it does not count");
    }
    let peer = session_peer(40);
    send(&topics, &peer, "s", r#"{"topic_key":"t","optype":2,"epoch":1,"after":"x"}"#);
    assert!(came(&peer)[0].contains(r#""rcode":2"#));
}

#[test]
fn what_follows_comes_after_what_is_replayed_and_a_bundle_may_be_replayed_in_part() {
    let (topics, publisher, first, back) = (with_subscribers(&[]), Recorder::new(1), session_peer(2), session_peer(3));
    subscribed(&topics, &first, "");
    let body = br#"{"topic_key":"t","optype":4,"topic_msg":"x"}"#;
    topics.handle_all(&publisher, &mut (0..5).map(|_| publisher.message(REQ_TOPIC, b"p", body)));
    let (_, numbers) = subscribed(&topics, &back, r#","epoch":1,"after":2"#);
    assert_eq!(numbers, [3, 4, 5]);
    publish_up_to(&topics, &publisher, 1);
    assert_eq!(back.take()[0].text(), r#"{"seq":6,"topic_key":"t","optype":4,"topic_msg":1}"#);
    let (_, again) = subscribed(&topics, &back, r#","epoch":1,"after":5"#);
    assert_eq!(again, [6], "also one who is subscribed already");
}

#[test]
fn a_topic_that_retains_gives_its_last_message_to_each_who_counts_and_does_not_refuse_it() {
    let (topics, publisher) = (TopicService::with_limits(kept(0)), Recorder::new(1));
    let creator = session_peer(2);
    send(&topics, &publisher, "c", r#"{"topic_key":"t","optype":0,"retain":true}"#);
    publish_up_to(&topics, &publisher, 1);
    assert_eq!(topics.kept_bytes(), 0, "a v1 peer can't ask for it");
    send(&topics, &creator, "c", r#"{"topic_key":"t","optype":0,"retain":true}"#);
    send(&topics, &creator, "c", r#"{"topic_key":"t","optype":0}"#);
    assert_eq!(subscribed(&topics, &session_peer(3), "").0, r#"{"rcode":0,"epoch":1,"seq":1,"retain":true}"#);
    publish_up_to(&topics, &publisher, 3);
    let (answer, numbers) = subscribed(&topics, &session_peer(4), "");
    assert_eq!(answer, r#"{"rcode":0,"epoch":1,"seq":4,"replayed":1,"retain":true}"#);
    assert_eq!(numbers, [4]);
    assert_eq!(subscribed(&topics, &session_peer(5), r#","retain":false"#).1, [0; 0]);
    let (answer, numbers) = subscribed(&topics, &session_peer(6), r#","epoch":1,"after":1"#);
    assert_eq!(answer, r#"{"rcode":0,"epoch":1,"seq":4,"replayed":1,"missed":2,"retain":true}"#);
    assert_eq!(numbers, [4]);
    let v1 = Recorder::new(7);
    send(&topics, &v1, "s", r#"{"topic_key":"t","optype":2}"#);
    assert_eq!(came(&v1), [r#"RSP_TOPIC s {"rcode":0}"#]);
}

#[test]
fn nothing_is_kept_until_somebody_counts_and_all_is_given_back_when_the_topic_goes() {
    let (v1, publisher, counting) = (Recorder::new(1), Recorder::new(2), session_peer(3));
    let topics = with_subscribers(&[&v1]);
    publish_up_to(&topics, &publisher, 3);
    assert_eq!(topics.kept_bytes(), 0);
    subscribed(&topics, &counting, "");
    topics.closed(&counting);
    publish_up_to(&topics, &publisher, 3);
    assert!(topics.kept_bytes() > 0);
    assert_eq!(subscribed(&topics, &session_peer(4), r#","epoch":1,"after":1"#).1, [4, 5, 6]);
    send(&topics, &publisher, "r", r#"{"topic_key":"t","optype":1}"#);
    assert_eq!(topics.kept_bytes(), 0);
}

#[test]
fn past_the_bound_on_all_topics_the_quietest_gives_up_what_it_keeps_and_says_so() {
    let limits = TopicLimits { total_ring_bytes: 3000, ..TopicLimits::default() };
    let (topics, publisher, peer) = (TopicService::with_limits(limits), Recorder::new(1), session_peer(2));
    let publish = |topic: &str, bytes: usize| {
        let value = "x".repeat(bytes);
        send(&topics, &publisher, "p", &format!(r#"{{"topic_key":"{topic}","optype":4,"topic_msg":"{value}"}}"#));
    };
    for topic in ["t", "u", "v"] {
        send(&topics, &peer, "c", &format!(r#"{{"topic_key":"{topic}","optype":0}}"#));
        send(&topics, &peer, "s", &format!(r#"{{"topic_key":"{topic}","optype":2}}"#));
        publish(topic, 700);
    }
    assert_eq!(topics.given_up(), 0);
    publish("t", 700);
    assert_eq!(topics.given_up(), 1);
    assert!(topics.kept_bytes() <= 3000);
    let back = session_peer(3);
    assert_eq!(subscribed(&topics, &back, r#","epoch":1,"after":0"#).1, [1, 2]);
    back.take();
    send(&topics, &back, "s", r#"{"topic_key":"u","optype":2,"epoch":2,"after":0}"#);
    assert_eq!(came(&back), [r#"RSP_TOPIC s {"rcode":0,"epoch":2,"seq":1,"missed":1}"#]);
}

#[test]
fn one_that_may_miss_messages_holds_nobody_and_goes_on_as_its_policy_says() {
    let rows: [(&str, usize, &[u64]); 4] =
        [("drop_oldest", 4, &[7, 8, 9, 10]), ("drop_oldest", 0, &[10]), ("latest", 4, &[10]), ("drop_newest", 4, &[])];
    for (policy, ring_messages, expected) in rows {
        let (topics, publisher) = (TopicService::with_limits(kept(ring_messages)), Recorder::new(1));
        let slow = session_peer(2);
        send(&topics, &publisher, "c", r#"{"topic_key":"t","optype":0}"#);
        subscribed(&topics, &slow, &format!(r#","policy":"{policy}","max_bytes":100"#));
        publish_up_to(&topics, &publisher, 1);
        assert_eq!(numbers(&slow).len(), 1);
        slow.set_queued_bytes(101);
        publish_up_to(&topics, &publisher, 9);
        assert_eq!((slow.take(), slow.close_reason()), (vec![], None), "{policy}");
        slow.set_queued_bytes(0);
        let (told, came): (Vec<_>, Vec<_>) =
            slow.take().into_iter().partition(|sent| sent.text().contains(r#""optype":2"#));
        let seqs: Vec<_> =
            came.iter().map(|sent| TopicRequest::decode::<Json>(sent.0.body()).unwrap().seq.unwrap()).collect();
        assert_eq!(seqs, expected, "{policy} {ring_messages}");
        let told: Vec<_> = told.iter().map(|sent| sent.text().into_owned()).collect();
        let notice = r#"{"seq":10,"topic_key":"t","optype":2}"#;
        assert_eq!(told, if expected.is_empty() { vec![notice] } else { vec![] }, "{policy} {ring_messages}");
        publish_up_to(&topics, &publisher, 1);
        assert_eq!(numbers(&slow)[0].0, 11, "{policy}");
    }
}

/// Publishes a string of so many letters.
fn publish_long(topics: &TopicService<Recorder>, publisher: &Recorder, topic: &str, letters: usize) {
    let value = "x".repeat(letters);
    send(topics, publisher, "p", &format!(r#"{{"topic_key":"{topic}","optype":4,"topic_msg":"{value}"}}"#));
    publisher.take();
}

/// The numbers that came since the last look, and those up to which all was sent or is left out.
fn heard(peer: &Recorder) -> (Vec<u64>, Vec<u64>) {
    let (mut came, mut told) = (Vec::new(), Vec::new());
    for sent in peer.take() {
        let request = TopicRequest::decode::<Json>(sent.0.body()).unwrap();
        (if request.op == TopicOp::Publish { &mut came } else { &mut told }).push(request.seq.unwrap());
    }
    (came, told)
}

#[test]
fn who_was_behind_ends_with_the_last_message_though_a_topic_keeps_none_that_is_so_large() {
    let rows: [(&str, &[u64], &[u64]); 3] =
        [("drop_oldest", &[8], &[]), ("latest", &[8], &[]), ("drop_newest", &[], &[8])];
    for (policy, came, told) in rows {
        let limits = TopicLimits { ring_bytes: 500, ..TopicLimits::default() };
        let (topics, publisher, slow) = (TopicService::with_limits(limits), Recorder::new(1), session_peer(2));
        send(&topics, &publisher, "c", r#"{"topic_key":"t","optype":0}"#);
        subscribed(&topics, &slow, &format!(r#","policy":"{policy}","max_bytes":100"#));
        slow.set_queued_bytes(101);
        (0..8).for_each(|_| publish_long(&topics, &publisher, "t", 1000));
        slow.set_queued_bytes(0);
        assert_eq!(heard(&slow), (came.to_vec(), told.to_vec()), "{policy}");
        publish_long(&topics, &publisher, "t", 1000);
        assert_eq!((heard(&slow).0, topics.kept_bytes()), (vec![9], 0), "{policy}: it is kept for those behind only");
    }
}

#[test]
fn who_subscribes_anew_while_it_is_behind_hears_all_in_order_and_once() {
    for policy in ["hold", "drop_oldest", "disconnect"] {
        let (topics, publisher) = (with_subscribers(&[]), Recorder::new(1));
        let slow = session_peer(2);
        subscribed(&topics, &slow, r#","policy":"drop_oldest","max_bytes":100"#);
        publish_up_to(&topics, &publisher, 2);
        assert_eq!(heard(&slow).0, [1, 2]);
        slow.set_queued_bytes(101);
        publish_up_to(&topics, &publisher, 3);
        send(&topics, &slow, "s", &format!(r#"{{"topic_key":"t","optype":2,"policy":"{policy}","max_bytes":100}}"#));
        assert_eq!(came(&slow), [r#"RSP_TOPIC s {"rcode":0,"epoch":1,"seq":5}"#]);
        publish_up_to(&topics, &publisher, 2);
        slow.set_queued_bytes(0);
        publish_up_to(&topics, &publisher, 1);
        assert_eq!((heard(&slow), slow.close_reason()), (((3..=8).collect(), vec![]), None), "{policy}");
    }
}

#[test]
fn who_may_miss_messages_is_not_closed_however_much_it_lets_wait() {
    for (policy, last) in [("drop_oldest", 30), ("drop_newest", 30), ("latest", 30)] {
        let (topics, publisher) = (TopicService::with_limits(kept(4)), Recorder::new(1));
        let slow = session_peer(2);
        slow.set_bounds(1 << 10, 4 << 10);
        send(&topics, &publisher, "c", r#"{"topic_key":"t","optype":0}"#);
        subscribed(&topics, &slow, &format!(r#","policy":"{policy}","max_bytes":1000000"#));
        let (mut came, mut told) = (Vec::new(), 0);
        let mut hear = || {
            let (numbers, reached) = heard(&slow);
            came.extend(numbers);
            told = reached.into_iter().fold(told, u64::max);
        };
        for _ in 0..30 {
            publish_long(&topics, &publisher, "t", 500);
            hear();
        }
        while slow.queued_bytes() > 0 {
            slow.written(100);
            hear();
        }
        assert_eq!(slow.close_reason(), None, "{policy}");
        assert!(came.is_sorted() && came.len() < 20, "{policy} {came:?}");
        assert_eq!(told.max(*came.last().unwrap()), last, "{policy}: nothing ends without a word");
        assert_eq!(told == last, policy == "drop_newest");
    }
}

#[test]
fn one_topic_that_is_behind_does_not_keep_another_one_of_the_same_connection_from_going_on() {
    let (topics, publisher, slow) = (TopicService::new(), Recorder::new(1), session_peer(2));
    slow.set_bounds(1 << 10, 64 << 10);
    for (topic, policy) in [("much", "drop_oldest"), ("little", "drop_oldest"), ("last", "latest")] {
        send(&topics, &publisher, "c", &format!(r#"{{"topic_key":"{topic}","optype":0}}"#));
        let more = format!(r#""policy":"{policy}","max_bytes":2000"#);
        send(&topics, &slow, "s", &format!(r#"{{"topic_key":"{topic}","optype":2,{more}}}"#));
    }
    for topic in ["much", "little", "last"] {
        (0..10).for_each(|_| publish_long(&topics, &publisher, topic, 600));
    }
    let mut heard = Vec::new();
    // More is published than leaves.
    for _ in 0..12 {
        publish_long(&topics, &publisher, "much", 600);
        slow.written(500);
        let of = |sent: &Sent| TopicRequest::decode::<Json>(sent.0.body()).unwrap().topic.into_owned();
        heard.extend(slow.take().iter().filter(|sent| sent.text().contains(r#""optype":4"#)).map(of));
    }
    for topic in ["little", "last"] {
        assert!(heard.iter().any(|heard| heard == topic), "{topic}: {heard:?}");
    }
}

#[test]
fn one_that_is_to_be_cut_off_is_and_policies_are_for_those_who_count() {
    let (topics, publisher) = (with_subscribers(&[]), Recorder::new(1));
    let (slow, plain) = (session_peer(2), plain_peer(3));
    subscribed(&topics, &slow, r#","policy":"disconnect","max_bytes":100"#);
    send(&topics, &plain, "s", r#"{"topic_key":"t","optype":2,"policy":"disconnect","max_bytes":0}"#);
    plain.set_queued_bytes(1000);
    plain.take();
    publish_up_to(&topics, &publisher, 1);
    slow.set_queued_bytes(101);
    publish_up_to(&topics, &publisher, 1);
    assert!(slow.close_reason().unwrap().ends_with("more waits for it than its subscribe permits"));
    assert_eq!((plain.take().len(), plain.close_reason()), (2, None));
    let odd = session_peer(4);
    send(&topics, &odd, "s", r#"{"topic_key":"t","optype":2,"policy":"drop_all"}"#);
    assert!(came(&odd)[0].contains("drop_oldest"), "what there is, is named");
}

#[test]
fn who_was_behind_in_another_life_of_the_topic_is_told_what_it_missed_and_gets_nothing_more() {
    let (topics, publisher, slow, gone) = (with_subscribers(&[]), Recorder::new(1), session_peer(2), session_peer(3));
    for peer in [&slow, &gone] {
        subscribed(&topics, peer, r#","policy":"drop_oldest","max_bytes":100"#);
        peer.set_queued_bytes(101);
    }
    publish_up_to(&topics, &publisher, 2);
    topics.closed(&gone);
    send(&topics, &publisher, "r", r#"{"topic_key":"t","optype":1}"#);
    send(&topics, &publisher, "c", r#"{"topic_key":"t","optype":0}"#);
    subscribed(&topics, &session_peer(4), "");
    publish_up_to(&topics, &publisher, 1);
    slow.set_queued_bytes(0);
    gone.set_queued_bytes(0);
    let left_out = r#"REQ_TOPIC 1 {"seq":2,"topic_key":"t","optype":2}"#;
    assert_eq!(came(&slow), [left_out, r#"REQ_TOPIC 2 {"topic_key":"t","optype":1}"#]);
    assert_eq!(came(&gone), [""; 0]);
}
