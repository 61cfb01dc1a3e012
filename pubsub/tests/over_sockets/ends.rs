use callboard_client::{Client, Reconnect};
use callboard_pubsub::{Subscription, SubscriptionError, Topics};

use crate::center::{Center, PATIENCE, next};

#[tokio::test]
async fn the_end_of_the_connection_is_told_once_after_what_has_come() {
    let center = Center::start().await;
    let once = Client::builder().timeout(PATIENCE).reconnect(Reconnect::never());
    let client = once.connect(center.serving.addresses()[0].to_string()).await.unwrap();
    let topics = Topics::new(&client);
    topics.create("news").await.unwrap();
    let mut news = Subscription::open(&client, "news").await.unwrap();
    topics.publish("news", "last").await.unwrap();
    center.serving.shutdown(PATIENCE).await;
    assert_eq!(next(&mut news).await.unwrap().text(), "last");
    let error = next(&mut news).await.unwrap_err();
    let expected = format!(
        "topic \"news\" is heard no more: the connection to {} ended; connect and subscribe again",
        client.address()
    );
    assert_eq!(error.to_string(), expected);
    assert!(news.next().await.is_none());
    let error = Subscription::open(&client, "news").await.unwrap_err();
    assert_eq!(error.subject(), "topic \"news\"");
}

#[tokio::test]
async fn the_end_of_a_topic_is_told_to_session_peers() {
    let center = Center::start().await;
    let (reader, v1) = (center.client().await, center.v1_client().await);
    let topics = Topics::new(&center.client().await);
    topics.create("news").await.unwrap();
    let mut news = Subscription::open(&reader, "news").await.unwrap();
    let mut deaf = Subscription::open(&v1, "news").await.unwrap();
    topics.publish("news", "last").await.unwrap();
    topics.remove("news").await.unwrap();
    topics.create("news").await.unwrap();
    topics.publish("news", "unheard").await.unwrap();
    assert_eq!(next(&mut news).await.unwrap().text(), "last");
    assert!(matches!(next(&mut news).await, Err(SubscriptionError::TopicRemoved { topic, .. }) if topic == "news"));
    assert!(news.next().await.is_none());
    assert_eq!(next(&mut deaf).await.unwrap().text(), "last");
    let mut again = Subscription::open(&v1, "news").await.unwrap();
    topics.publish("news", "heard").await.unwrap();
    for news in [&mut deaf, &mut again] {
        assert_eq!(next(news).await.unwrap().text(), "heard", "one connection, one subscription at the center");
    }
}
