use std::num::NonZeroU64;
use std::pin::pin;

use anyhow::Context;
use callboard::Signals;
use callboard_net::Address;
use callboard_pubsub::{Event, Missed, Subscription, Topics};
use clap::Args;
use tokio::sync::mpsc::{Receiver, Sender, channel};

use crate::output;
use crate::reach::Reach;

/// Subscribe to a topic and print its messages as they come, one a line
///
/// Texts are printed as they are, other values as JSON. `subscribed` on standard error says that the center has
/// confirmed; --timeout is for the time until then.
#[derive(Debug, Args)]
pub(crate) struct Subscribe {
    /// The topic's name
    topic: String,
    /// Create the topic first; it does no harm if there is one
    #[arg(long)]
    create: bool,
    /// End after so many messages
    #[arg(long, value_name = "N", value_parser = count)]
    count: Option<NonZeroU64>,
    #[command(flatten)]
    reach: Reach,
}

impl Subscribe {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let mut signals = Signals::new()?;
        tokio::select! {
            ended = self.listen() => ended,
            _ = signals.next() => Ok(()),
        }
    }

    async fn listen(&self) -> anyhow::Result<()> {
        let (centers, deadline) = self.reach.centers().await?;
        if self.create {
            Topics::new(centers.with_timeout(deadline.left())).create(&self.topic).await?;
        }
        let news = Subscription::open(centers.with_timeout(deadline.left()), &self.topic).await?;
        output::tell("subscribed");
        let (lines, receiver) = channel(QUEUED_LINES);
        // A thread of its own prints: a reader that does not read must not keep signals from being heard.
        let printing = tokio::task::spawn_blocking(move || print_all(receiver));
        let heard = forward(news, lines, self.count.map_or(u64::MAX, NonZeroU64::get)).await;
        printing.await??;
        heard
    }
}

/// Passes messages on until there have been so many, or nobody takes or reads them any more. What is missing is told.
async fn forward(mut news: Subscription, lines: Sender<String>, count: u64) -> anyhow::Result<()> {
    let mut closed = pin!(output::closed());
    let mut left = count;
    while left > 0 {
        let event = tokio::select! {
            event = news.next_event() => event.transpose()?,
            () = lines.closed() => None,
            () = &mut closed => None,
        };
        match event {
            Some(Event::Message(message)) => {
                if lines.send(message.text().into_owned()).await.is_err() {
                    break;
                }
                left -= 1;
            }
            Some(gap) => tell_gap(&gap, &news.heard_at()),
            None => break,
        }
    }
    Ok(())
}

fn tell_gap(event: &Event, center: &Address) {
    match event {
        Event::Lagged { from, to } => output::tell(&format!("messages {from} to {to} of {center} are missing")),
        Event::Disconnected => output::tell(&format!("the connection to {center} was lost; it is made again")),
        Event::Resumed { missed: Missed::Exactly(count) } => {
            output::tell(&format!("subscribed again at {center}; {count} messages are missing"));
        }
        Event::Resumed { missed: Missed::Unknown } => {
            output::tell(&format!("subscribed again at {center}; nobody knows how many messages are missing"));
        }
        _ => {}
    }
}

/// Prints what comes, all that has come at once.
fn print_all(mut lines: Receiver<String>) -> anyhow::Result<()> {
    let mut printed = Vec::new();
    while lines.blocking_recv_many(&mut printed, QUEUED_LINES) > 0 {
        let mut block = printed.join("\n");
        block.push('\n');
        output::block(block.as_bytes())?;
        printed.clear();
    }
    Ok(())
}

/// More than 0.
fn count(text: &str) -> anyhow::Result<NonZeroU64> {
    NonZeroU64::new(text.parse()?).context("must be more than 0")
}

const QUEUED_LINES: usize = 64;
