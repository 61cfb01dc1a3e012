//! Callboard, as its users write it: a `Server` with a `Router`, and a `Client` a connection.
//! --transport tcp | unix
use std::borrow::Cow;

use anyhow::Result;
use callboard::{Client, Router, Server};
use load::{Meter, Opt, closed_loop};
use serde::{Deserialize, Serialize};

#[derive(Serialize, Deserialize)]
struct Add {
    num1: i64,
    num2: i64,
}

#[derive(Serialize, Deserialize)]
struct Echo<'a> {
    text: Cow<'a, str>,
}

fn main() {
    load::main_with(server, client);
}

fn address(opt: &Opt) -> String {
    if opt.transport == "unix" { format!("unix://{}", opt.addr) } else { format!("tcp://{}", opt.addr) }
}

async fn server(opt: Opt) -> Result<()> {
    let router = Router::new()
        .method("add", |pair: Add| Ok(pair.num1 + pair.num2))
        .method("echo", |echo: Echo<'static>| Ok(echo.text));
    let mut builder = Server::builder().router(router).listen(address(&opt));
    if let Ok(loops) = opt.mode.parse() {
        builder = builder.loops(loops);
    }
    let _server = builder.start().await?;
    load::ready();
    std::future::pending().await
}

async fn client(opt: Opt) -> Result<()> {
    match opt.job.as_str() {
        "idle" => return load::idle(&opt, vec![], false).await,
        _ => rpc(opt).await,
    }
}

async fn rpc(opt: Opt) -> Result<()> {
    let mut clients = Vec::new();
    for _ in 0..opt.conns {
        let client = Client::connect(&address(&opt)).await?;
        let sum: i64 = client.call("add", &Add { num1: 1, num2: 2 }).await?;
        load::check(sum == 3)?;
        clients.push(client);
    }
    let meter = Meter::start(&opt);
    let size = load::echo_size(&opt.method);
    let mut tasks = Vec::new();
    for client in clients {
        for k in 0..opt.outstanding as i64 {
            let (client, meter) = (client.clone(), meter.clone());
            tasks.push(tokio::spawn(async move {
                if size == 0 {
                    let mut i = 0;
                    closed_loop!(&meter, {
                        i += 1;
                        match client.call::<i64>("add", &Add { num1: i, num2: k }).await {
                            Ok(sum) => load::check(sum == i + k),
                            Err(e) => Err(e.into()),
                        }
                    })
                } else {
                    let text = load::payload(size);
                    closed_loop!(&meter, {
                        match client.call::<String>("echo", &Echo { text: text.as_str().into() }).await {
                            Ok(text) => load::check(text.len() == size),
                            Err(e) => Err(e.into()),
                        }
                    })
                }
            }));
        }
    }
    for task in tasks {
        task.await?;
    }
    meter.finish(&opt)
}
