use anyhow::Context;
use callboard_pubsub::Topics;
use clap::Args;
use serde_json::value::{RawValue, to_raw_value};

use crate::reach::Reach;

/// Publish a message to a topic
#[derive(Debug, Args)]
pub(crate) struct Publish {
    /// The topic's name
    topic: String,
    /// The message: a text, or with --json any JSON value
    #[arg(allow_negative_numbers = true)]
    message: String,
    /// Create the topic first; it does no harm if there is one
    #[arg(long)]
    create: bool,
    /// Read the message as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    reach: Reach,
}

impl Publish {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let message: Box<RawValue> = if self.json {
            serde_json::from_str(&self.message).context("the message is not JSON")?
        } else {
            to_raw_value(&self.message)?
        };
        let (centers, deadline) = self.reach.centers().await?;
        if self.create {
            Topics::new(centers.with_timeout(deadline.left())).create(&self.topic).await?;
        }
        Topics::new(centers.with_timeout(deadline.left())).publish(&self.topic, &message).await?;
        Ok(())
    }
}
