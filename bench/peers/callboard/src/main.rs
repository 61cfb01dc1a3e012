//! Callboard, as its users write it: a `Server` with a `Router` or a `Center`, and a `Client` a connection.
//!
//! --transport tcp | unix
//!
//! server --mode
//!   (none)       a `Server` with the methods `add` and `echo`
//!   center       a `Center` that has them too, for registry, topics and idle connections
//!   caller       a `Center`, and a provider of them beside it that has registered there
//!   methods=N    N methods that add: `add`, `add-1` to `add-(N-1)`
//!   async        these as tasks that let others run once before they end
//!   loops=N      event loops
//!
//! client --job rpc       calls; see `rpc.rs` for its modes
//!        --job registry  --method register | discover; see `registry.rs`
//!        --job sub|pub   topics; with --method watch: notices; see `pubsub.rs` and `watch.rs`
//!        --job idle      connections that only hold a session; --with-sub: and a subscription
//!        --job hold | provide | watchers | listeners | publish   the crowds of `capacity`; see `crowd/`
#![expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::indexing_slicing,
    clippy::semicolon_if_nothing_returned,
    reason = "counts of tasks and bytes of addresses are small, and a driver may end where it is wrong"
)]
mod crowd;
mod idle;
mod mode;
mod pubsub;
mod registry;
mod rpc;
mod server;
mod styles;
mod watch;

use anyhow::Result;
use load::Opt;

fn main() {
    load::main_with(server::run, client);
}

fn address(opt: &Opt) -> String {
    if opt.transport == "unix" { format!("unix://{}", opt.addr) } else { format!("tcp://{}", opt.addr) }
}

async fn client(opt: Opt) -> Result<()> {
    match (opt.job.as_str(), opt.method.as_str()) {
        ("rpc", _) => rpc::run(opt).await,
        ("registry", _) => registry::run(opt).await,
        ("sub", "watch") => watch::watch(opt).await,
        ("pub", "watch") => watch::announce(opt).await,
        ("sub", _) => pubsub::subscribe(opt).await,
        ("pub", _) => pubsub::publish(opt).await,
        ("idle", _) => idle::run(opt).await,
        _ => crowd::run(opt).await,
    }
}
