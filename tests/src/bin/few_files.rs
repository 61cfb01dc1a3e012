//! A center that may open only so many files. It prints its address, and for each line of input how often accepting has
//! failed, once that has happened at all.

#![expect(clippy::print_stdout, reason = "its lines are what the test reads")]

use std::time::Duration;

use anyhow::Context;
use callboard_center::Center;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let center = Center::builder().listen("tcp://127.0.0.1:0").loops(1).start().await?;
    let files = std::env::args().nth(1).context("how many files?")?.parse()?;
    rlimit::setrlimit(rlimit::Resource::NOFILE, files, files)?;
    println!("{}", center.addresses().first().context("it listens")?);
    let (tell, mut asked) = tokio::sync::mpsc::channel(1);
    std::thread::spawn(move || {
        std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| tell.blocking_send(line))
    });
    while asked.recv().await.is_some() {
        let failed = async {
            while center.metrics().accept_failures == 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let failed = tokio::time::timeout(Duration::from_secs(20), failed).await;
        failed.context("accepting has not failed in 20 s: there are files to spare")?;
        println!("{}", center.metrics().accept_failures);
    }
    Ok(())
}
