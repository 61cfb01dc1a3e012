//! A method that calls its caller back, to say how far it is.

#![expect(clippy::print_stdout, reason = "a demo tells what it sees")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};

use anyhow::{Result, ensure};
use callboard::{Client, MethodError, Router, Server};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // The provider works through a list; its caller hears of each item that is done.
    let router = Router::new().method_async_with("work", |context, items: Vec<String>| async move {
        let caller = context.caller();
        for (number, _item) in (1..).zip(&items) {
            if caller.serves() {
                caller.call::<()>("progress", &(number, items.len())).await?;
            }
        }
        Ok::<_, MethodError>(items.len())
    });
    let server = Server::builder().router(router).listen("127.0.0.1:0").loops(1).start().await?;
    let address = server.addresses().first().map(ToString::to_string).unwrap_or_default();

    // The client offers `progress` over the connection that it makes: it listens nowhere.
    let heard = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&heard);
    let progress = Router::new().method("progress", move |(done, of): (usize, usize)| {
        println!("{done} of {of}");
        counted.fetch_add(1, SeqCst);
        Ok(())
    });
    let client = Client::builder().serves(progress).connect(&address).await?;
    let done: usize = client.call("work", &["floor", "stage", "lights"]).await?;
    println!("all {done} are done");
    ensure!(done == 3 && heard.load(SeqCst) == 3);

    // Who offers nothing is served as well.
    let plain = Client::connect(&address).await?;
    ensure!(plain.call::<usize>("work", &["curtain"]).await? == 1);
    server.shutdown().await;
    Ok(())
}
