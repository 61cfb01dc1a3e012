use std::time::Duration;

use callboard_client::Centers;
use callboard_pubsub::{Subscription, TopicLimits, Topics};
use tokio::time::{interval, timeout};

use crate::center::{Center, PATIENCE, next_number};

#[tokio::test]
async fn a_time_limit_beyond_what_the_clock_can_tell_is_none() {
    let (one, other) = (Center::start().await, Center::start().await);
    let centers = Centers::new(one.client().await, [other.client().await]).with_timeout(Duration::MAX);
    let topics = Topics::new(centers.clone());
    topics.create("news").await.unwrap();
    let mut news = Subscription::open(centers, "news").await.unwrap();
    topics.publish("news", &1).await.unwrap();
    assert_eq!(next_number(&mut news).await, 1);
}

#[tokio::test]
async fn a_center_that_has_no_room_for_a_topic_is_asked_again_until_it_has() {
    let one = Center::start().await;
    let full = Center::with_topic_limits(TopicLimits { topics: 1, ..TopicLimits::default() }).await;
    let (client, at_full) = (one.client().await, full.client().await);
    Topics::new(&at_full).create("other").await.unwrap();
    let topics = Topics::new(Centers::new(client, [at_full.clone()]));
    for topic in ["news", "removed"] {
        topics.create(topic).await.unwrap();
    }
    topics.remove("removed").await.unwrap();
    Topics::new(&at_full).remove("other").await.unwrap();
    let mut looks = interval(Duration::from_millis(5));
    let there = async {
        while Subscription::open(&at_full, "news").await.is_err() {
            looks.tick().await;
        }
    };
    timeout(PATIENCE, there).await.unwrap();
    assert_eq!(full.topics.topic_count(), 1);
}
