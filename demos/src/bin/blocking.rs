//! The client for programs without a runtime.

#![expect(clippy::print_stdout, reason = "a demo tells what it sees")]

use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use callboard::blocking::Client;
use callboard::{CallErrorKind, MethodError, Router, Server};
use serde_json::{Value, json};

fn main() -> Result<()> {
    // Only to have something to call: a server needs a runtime to start, but runs on threads of its own.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let router = Router::new()
        .method("shout", |text: String| Ok(text.to_uppercase()))
        .method_async("never", |_: Value| std::future::pending::<Result<(), MethodError>>());
    let server = runtime.block_on(Server::builder().router(router).listen("127.0.0.1:0").start())?;
    let address = server.addresses().first().context("it listens")?.to_string();

    let client = Client::connect(address)?;
    let loud: String = client.call("shout", "curtain up")?;
    println!("{loud}");
    ensure!(loud == "CURTAIN UP");

    // Threads share the client, and its one connection.
    let calls = ["one", "two", "three"].map(|word| {
        let client = client.clone();
        thread::spawn(move || client.call::<String>("shout", word))
    });
    for (call, expected) in calls.into_iter().zip(["ONE", "TWO", "THREE"]) {
        let louder = call.join().map_err(|_| anyhow!("a thread panicked"))??;
        println!("{louder}");
        ensure!(louder == expected);
    }

    // No call waits longer than its deadline.
    let hasty = client.with_timeout(Duration::from_millis(50));
    let Err(error) = hasty.call::<Value>("never", &json!({})) else { bail!("it answered after all") };
    println!("{error}");
    ensure!(matches!(error.kind(), CallErrorKind::Timeout));

    // It would hold up a thread that drives asynchronous tasks; there it is an error.
    let blocked = runtime.block_on(async { client.call::<String>("shout", "here") });
    let Err(error) = blocked else { bail!("it blocked a runtime") };
    println!("{error}");
    ensure!(matches!(error.kind(), CallErrorKind::BlockingInAsync));
    Ok(())
}
