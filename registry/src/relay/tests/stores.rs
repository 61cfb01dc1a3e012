//! Providers that keep their answers to calls under keys in a store.

use super::*;

fn with_store(id: u64, instance: &str, store: Option<&str>) -> Recorder {
    let session = provider(id, instance).session().unwrap().clone();
    Recorder::with_session(id, Session { store: store.map(Into::into), ..session })
}

impl House {
    fn keeps_in(&self, id: u64, instance: &str, store: Option<&str>) -> Recorder {
        let provider = with_store(id, instance, store);
        assert_eq!(self.ask(&provider, 4, REGISTER), r#"{"rcode":0,"optype":0}"#);
        provider
    }
}

fn call(store: &str) -> String {
    CALL.replace("\"instance\"", &format!("\"idempotency_key\":\"k\",\"store\":{store},\"instance\""))
}

#[test]
fn callers_are_told_where_a_provider_keeps_its_answers() {
    let house = House::new();
    let watcher = caller(2);
    let listed = |expected: &str| {
        let told = house.ask(&watcher, 4, r#"{"method":"add","optype":1}"#);
        assert!(told.contains(&format!(r#""host":[{expected}]"#)), "{told}");
    };
    listed("");
    let provider = house.keeps_in(1, "i-1", Some("s-1"));
    let told = watcher.take().pop().unwrap();
    assert!(told.text().contains(r#""relay":true,"instance":"i-1","store":"s-1","revision":1"#), "{}", told.text());
    listed(r#"{"relay":true,"instance":"i-1","store":"s-1"}"#);
    house.center.closed(&provider);
    watcher.take();
    let _none = house.keeps_in(3, "i-1", None);
    listed(r#"{"relay":true,"instance":"i-1"}"#);
    // Of one that listens its callers are told by itself.
    let listens = with_store(4, "i-4", Some("s-4"));
    house.ask(&listens, 4, r#"{"method":"add","optype":0,"host":{"ip":"127.0.0.1","port":7}}"#);
    listed(r#"{"relay":true,"instance":"i-1"},{"ip":"127.0.0.1","port":7,"instance":"i-4"}"#);
}

#[test]
fn a_call_is_not_passed_on_to_one_with_another_store_than_it_names() {
    for (store, named, is_passed) in [
        (Some("s-1"), r#""s-1""#, true),
        (Some("s-1"), r#""s\u002d1""#, true),
        (Some("s-2"), r#""s-1""#, false),
        (None, r#""s-1""#, false),
        // What is no name says nothing.
        (Some("s-1"), "7", true),
    ] {
        let house = House::new();
        let (provider, caller) = (house.keeps_in(1, "i-1", store), caller(2));
        let told = house.ask(&caller, RELAY, &call(named));
        let expected = if is_passed { (99, String::new(), String::new()) } else { refused(22, "") };
        assert_eq!((provider.take().len(), code(&told)), (usize::from(is_passed), expected), "{store:?} {named}");
        assert_eq!(told.contains("is another one now"), !is_passed, "{told}");
    }
}

#[test]
fn of_two_of_one_name_the_one_with_the_store_is_asked() {
    let house = House::new();
    let (first, second, caller) =
        (house.keeps_in(1, "i-1", Some("s-1")), house.keeps_in(3, "i-1", Some("s-2")), caller(2));
    for (named, asked) in [("s-1", &first), ("s-2", &second)] {
        house.send(&caller, RELAY, named.as_bytes(), &call(&format!("{named:?}")));
        assert_eq!(asked.take().len(), 1, "{named}");
    }
    assert_eq!((first.take().len(), second.take().len(), caller.take().len()), (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_with_another_store_is_another_one() {
    for store in [Some("s-1"), Some("s-2"), None] {
        let house = House::patient(RelayLimits::default());
        let (first, caller, watcher) = (house.keeps_in(1, "i-1", Some("s-1")), caller(2), caller(4));
        house.ask(&watcher, 4, r#"{"method":"add","optype":1}"#);
        house.center.closed(&first);
        house.send(&caller, RELAY, b"a", &call(r#""s-1""#));
        assert_eq!((caller.take().len(), house.relay.metrics().waiting), (0, 1));
        let second = house.keeps_in(3, "i-1", store);
        while house.relay.resume() {}
        let is_it = store == Some("s-1");
        let answers: Vec<_> = caller.take().iter().map(|sent| code(&sent.text())).collect();
        let expected = if is_it { vec![] } else { vec![refused(22, "")] };
        assert_eq!((second.take().len(), answers), (usize::from(is_it), expected), "{store:?}");
        let told: Vec<_> = watcher.take().iter().map(|sent| sent.text().contains(r#""optype":2"#)).collect();
        assert_eq!(told, if is_it { vec![] } else { vec![false, true] }, "{store:?}");
    }
}
