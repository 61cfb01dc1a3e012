//! Publishers and subscribers; messages of any type.

#![expect(clippy::print_stdout, reason = "a demo tells what it sees")]

use anyhow::{Context, Result, bail, ensure};
use callboard::{Center, Client, Subscription, Topics};
use serde::{Deserialize, Serialize};

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Price {
    symbol: String,
    cents: u64,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let center = Center::builder().listen("127.0.0.1:0").loops(1).start().await?;
    let publisher = Client::connect(center.address()).await?;
    let reader = Client::connect(center.address()).await?;
    let topics = Topics::new(&publisher);

    // A topic has to be there before it is used.
    let Err(error) = topics.publish("prices", "too early").await else { bail!("there was no topic") };
    println!("{error}");
    topics.create("prices").await?;
    topics.create("news").await?;

    // One connection may hold many subscriptions, several of them to one topic.
    let mut prices = Subscription::open(&reader, "prices").await?;
    let mut typed_prices = Subscription::open_typed::<Price>(&reader, "prices").await?;
    let mut news = Subscription::open(&reader, "news").await?;

    let sent: Vec<_> = (1..=3).map(|cents| Price { symbol: "TEA".to_owned(), cents }).collect();
    for price in &sent {
        topics.publish("prices", price).await?;
    }
    topics.publish("news", "curtain up").await?;

    // Messages of one publisher come in the order in which they were published.
    for price in &sent {
        let message = prices.next().await.context("the topic goes on")??;
        println!("{}: {}", message.topic(), message.text());
        ensure!(message.json::<Price>()? == *price);
        ensure!(typed_prices.next().await.context("the topic goes on")?? == *price);
    }
    let message = news.next().await.context("the topic goes on")??;
    println!("{}: {}", message.topic(), message.text());
    ensure!(message.text() == "curtain up");

    // Dropping the last subscription to a topic cancels it.
    drop(news);
    topics.publish("news", "unheard").await?;
    center.shutdown().await;
    Ok(())
}
