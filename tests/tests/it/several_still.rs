//! One of two centers stands still: it takes connections and bytes, and answers nothing.

use std::time::Duration;

use callboard_client::Client;
use callboard_pubsub::{Subscription, Topics};
use callboard_registry::{Caller, Discovery, Provider};
use callboard_server::Server;
use callboard_tests::within;
use tokio::time::timeout;

use crate::house::router;
use crate::several_centers::{Mortal, Stage, number};

#[tokio::test]
async fn methods_that_were_not_called_before_are_found_elsewhere_while_the_first_center_stands_still() {
    let stage = Stage::new();
    let (a, _b) = (Mortal::born(&stage, "a").await, stage.center("b").await);
    let server = Server::builder().router(router()).start().await.unwrap();
    let list = format!("{},{}", stage.address("a"), stage.address("b"));
    let provider = Provider::connect(&list).await.unwrap();
    let _provider = provider.announce(["add"], server.addresses()).await.unwrap();
    let (older, numbers) = (Caller::connect(&list).await.unwrap(), serde_json::json!({"num1": 1, "num2": 2}));
    assert_eq!(older.center().address().to_string(), stage.address("a"));

    let still = a.stand_still();
    let younger = within(Caller::connect(&list)).await.unwrap();
    assert!(younger.center().has_session(), "none that stands still is taken for one of v1 where another one answers");
    for caller in [older, younger] {
        assert_eq!(caller.call::<i64>("add", &numbers).await.unwrap(), 3);
        assert_eq!(caller.center().address().to_string(), stage.address("b"));
    }
    drop(still);
    a.kill().await;
}

#[tokio::test]
async fn a_center_that_stands_still_holds_up_nobody_who_asks_all() {
    let stage = Stage::new();
    let (a, _b) = (Mortal::born(&stage, "a").await, stage.center("b").await);
    let server = Server::builder().router(router()).start().await.unwrap();
    let (creating, hearing, providing) = (stage.centers().await, stage.centers().await, stage.centers().await);
    Topics::new(&creating).create("there").await.unwrap();

    let still = a.stand_still();
    let soon = |asked| timeout(creating.timeout() / 2, asked);
    let asked = async {
        Topics::new(&creating).create("t").await.unwrap();
        let mut news = Subscription::open(&hearing, "there").await.unwrap();
        let provider = Provider::new(&providing).announce(["add"], server.addresses()).await.unwrap();
        let b = Client::connect(stage.address("b")).await.unwrap();
        Topics::new(&b).publish("there", &7).await.unwrap();
        assert_eq!(number(&mut news).await, 7);
        Topics::new(&b).publish("t", &8).await.unwrap();
        assert_eq!(Discovery::new(&b).hosts("add").await.unwrap().len(), 1);
        (news, provider)
    };
    let (mut news, _provider) = soon(asked).await.unwrap();
    drop(still);
    // What it was asked for, it does as soon as it goes on, or is asked for again.
    let only_a = Client::connect(stage.address("a")).await.unwrap();
    let topics = Topics::new(&only_a);
    let settled = async {
        while topics.publish("t", &0).await.is_err() || Discovery::new(&only_a).hosts("add").await.unwrap().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        topics.publish("there", &9).await.unwrap();
        while number(&mut news).await != 9 {}
    };
    within(settled).await;
    a.kill().await;
}
