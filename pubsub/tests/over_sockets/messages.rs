use std::collections::BTreeMap;

use callboard_pubsub::{Subscription, SubscriptionError, Topics, TypedSubscription, subscribe_with};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::center::{Center, PATIENCE, next, settle};

#[tokio::test]
async fn any_value_reaches_old_and_new_peers_as_a_type() {
    let center = Center::start().await;
    let (new, old) = (center.client().await, center.v1_client().await);
    Topics::new(&new).create("prices").await.unwrap();
    let mut to_new: TypedSubscription<BTreeMap<String, f64>> = Subscription::open_typed(&new, "prices").await.unwrap();
    let mut to_old = Subscription::open_typed::<BTreeMap<String, f64>>(&old, "prices").await.unwrap();
    let mut text = Subscription::open(&old, "prices").await.unwrap();
    for publisher in [&new, &old] {
        let prices = BTreeMap::from([("a".to_owned(), 1.5)]);
        Topics::new(publisher).publish("prices", &prices).await.unwrap();
        assert_eq!(timeout(PATIENCE, to_new.next()).await.unwrap().unwrap().unwrap(), prices);
        assert_eq!(timeout(PATIENCE, to_old.next()).await.unwrap().unwrap().unwrap(), prices);
        assert_eq!(next(&mut text).await.unwrap().text(), r#"{"a":1.5}"#);
    }
    Topics::new(&new).publish("prices", "none").await.unwrap();
    assert!(matches!(timeout(PATIENCE, to_new.next()).await.unwrap(), Some(Err(SubscriptionError::Decode { .. }))));
    Topics::new(&new).publish("prices", &json!({})).await.unwrap();
    assert!(timeout(PATIENCE, to_new.next()).await.unwrap().unwrap().unwrap().is_empty());
}

#[tokio::test]
async fn a_callback_hears_until_its_guard_is_dropped() {
    let center = Center::start().await;
    let client = center.client().await;
    let topics = Topics::new(&client);
    topics.create("news").await.unwrap();
    let (heard, mut came) = mpsc::unbounded_channel();
    let guard = subscribe_with(&client, "news", move |news| {
        let _ = heard.send(news.map(|news| news.text().into_owned()).map_err(|e| e.to_string()));
    })
    .await
    .unwrap();
    for text in ["a", "b"] {
        topics.publish("news", text).await.unwrap();
        assert_eq!(timeout(PATIENCE, came.recv()).await.unwrap().unwrap().unwrap(), text);
    }
    drop(guard);
    assert!(timeout(PATIENCE, came.recv()).await.unwrap().is_none(), "the callback is dropped");
    settle(&client).await;
    assert_eq!(center.topics.subscriber_count(), 0);
}

#[tokio::test]
async fn a_callback_that_panics_hears_the_next_message() {
    let center = Center::start().await;
    let client = center.client().await;
    let topics = Topics::new(&client);
    topics.create("news").await.unwrap();
    let (heard, mut came) = mpsc::unbounded_channel();
    let _guard = subscribe_with(&client, "news", move |news| {
        let text = news.unwrap().text().into_owned();
        assert_ne!(text, "bad", "as the test wants it");
        let _ = heard.send(text);
    })
    .await
    .unwrap();
    for text in ["a", "bad", "b"] {
        topics.publish("news", text).await.unwrap();
    }
    for text in ["a", "b"] {
        assert_eq!(timeout(PATIENCE, came.recv()).await.unwrap().unwrap(), text);
    }
}
