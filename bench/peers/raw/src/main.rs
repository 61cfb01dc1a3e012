//! The limit of the machine: length-prefixed frames over tokio sockets. --transport tcp | unix
//!
//! --mode each   the server writes every reply with its own write call
//! --mode batch  the server writes all replies of one read with one write call
//! --mode json   like batch, but frames carry JSON-RPC 2.0 through `serde_json`
//! --mode hub    a topic: every frame of a publisher goes to every subscriber's socket; what one read brought is written
//!               once to each subscriber
mod caller;
mod frames;
mod hub;
mod json;
mod server;

use anyhow::Result;
use load::Opt;

fn main() {
    load::main_with(serve, client);
}

async fn serve(opt: Opt) -> Result<()> {
    if opt.mode == "hub" { hub::run(&opt).await } else { server::run(&opt).await }
}

async fn client(opt: Opt) -> Result<()> {
    match opt.job.as_str() {
        "sub" => hub::subscribe(&opt).await,
        "pub" => hub::publish(&opt).await,
        "idle" => load::idle(&opt, vec![], false).await,
        _ => caller::run(opt).await,
    }
}
