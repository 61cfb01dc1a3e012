use callboard_net::Address;
use callboard_registry::Caller;
use clap::Args;
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio_stream::StreamExt;

use crate::output;

/// The caller of the tour: a number on standard input means so many calls of add
///
/// It prints `ready`, `answered N`, and the center's notices as `online HOST` and `offline HOST`.
#[derive(Debug, Args)]
pub(crate) struct TourCaller {
    #[arg(long, value_name = "ADDR")]
    center: Address,
}

impl TourCaller {
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let caller = Caller::connect(self.center.to_string()).await?;
        let mut notices = caller.notices();
        caller.hosts("add").await?;
        output::line("ready")?;
        let mut orders = BufReader::new(tokio::io::stdin()).lines();
        loop {
            tokio::select! {
                Some(notice) = notices.next() => {
                    let word = if notice.online { "online" } else { "offline" };
                    output::line(&format!("{word} {}", notice.host))?;
                }
                order = orders.next_line() => {
                    let Some(order) = order? else { return Ok(()) };
                    let calls = order.parse()?;
                    call(&caller, calls).await?;
                    output::line(&format!("answered {calls}"))?;
                }
            }
        }
    }
}

async fn call(caller: &Caller, calls: i64) -> anyhow::Result<()> {
    for number in 0..calls {
        let sum: i64 = caller.call("add", &json!({ "num1": number, "num2": 1 })).await?;
        anyhow::ensure!(sum == number + 1, "{number} + 1 came back as {sum}");
    }
    Ok(())
}
