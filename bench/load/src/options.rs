//! The command line that all drivers have in common, and their entry point.
use std::io::Write as _;
use std::process::exit;

use anyhow::Result;
use clap::Parser;
use serde::Serialize;
use tokio::runtime::{Builder, Runtime};

/// The command line of a driver.
#[derive(Parser, Clone, Debug)]
#[command(disable_version_flag = true)]
pub struct Cli {
    /// `server` or `client`
    #[arg(value_parser = ["server", "client"])]
    pub role: String,
    #[command(flatten)]
    #[expect(missing_docs, reason = "clap would show it in the help")]
    pub opt: Opt,
}

/// What is to be driven, and how. Not every peer heeds every option.
#[derive(clap::Args, Clone, Debug)]
pub struct Opt {
    /// Peer specific: tcp, unix, tcp-json, ws, http, ...
    #[arg(long, default_value = "tcp")]
    pub transport: String,
    /// 127.0.0.1:port or a unix socket path
    #[arg(long, default_value = "127.0.0.1:7400")]
    pub addr: String,
    /// Tokio runtime: "multi" (2 workers), "current", or a number of workers
    #[arg(long, default_value = "multi")]
    pub rt: String,
    /// Peer specific mode (raw: each|batch|json|hub, redis: await|pipe, ...)
    #[arg(long, default_value = "")]
    pub mode: String,
    /// What to do: rpc | sub | pub | idle | registry
    #[arg(long, default_value = "rpc")]
    pub job: String,
    /// rpc: add | echo1k | echo64k; registry: register | discover; sub and pub: watch
    #[arg(long, default_value = "add")]
    pub method: String,
    /// Connections
    #[arg(long, default_value_t = 1)]
    pub conns: usize,
    /// Calls in flight on each connection
    #[arg(long, default_value_t = 1)]
    pub outstanding: usize,
    /// Seconds of load before the measured window
    #[arg(long, default_value_t = 1.0)]
    pub warm: f64,
    /// Seconds of the measured window
    #[arg(long, default_value_t = 5.0)]
    pub secs: f64,
    /// Processes whose CPU time and memory are accounted as "server"
    #[arg(long, value_delimiter = ',')]
    pub pids: Vec<u32>,
    /// Subscribers of the topic, or watchers of the registry
    #[arg(long, default_value_t = 1)]
    pub subs: usize,
    /// Bytes of a topic's message (at least 24)
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// Publishes per second, 0 = as fast as the peer lets us
    #[arg(long, default_value_t = 0)]
    pub rate: u64,
    /// The processes that help with the load, accounted apart from the server
    #[arg(long, value_delimiter = ',')]
    pub sub_pids: Vec<u32>,
    /// idle: also subscribe on each connection (peer specific)
    #[arg(long)]
    pub with_sub: bool,
}

/// The tokio runtime that `--rt` names.
pub fn runtime(rt: &str) -> std::io::Result<Runtime> {
    if rt == "current" {
        return Builder::new_current_thread().enable_all().build();
    }
    Builder::new_multi_thread().worker_threads(rt.parse().unwrap_or(2)).enable_all().build()
}

/// Entry point of a driver: runs the role that the command line names on its own runtime, then ends the process, with 1
/// after an error. Neither role's future needs to be `Send`.
pub fn main_with<S, C>(server: impl FnOnce(Opt) -> S, client: impl FnOnce(Opt) -> C)
where
    S: Future<Output = Result<()>>,
    C: Future<Output = Result<()>>,
{
    let Cli { role, opt } = Cli::parse();
    if let Err(error) = run(&role, opt, server, client) {
        eprintln!("error: {error:#}");
        exit(1);
    }
    // A runtime may hold background tasks that never end; the result is printed by now.
    exit(0);
}

fn run<S, C>(role: &str, opt: Opt, server: impl FnOnce(Opt) -> S, client: impl FnOnce(Opt) -> C) -> Result<()>
where
    S: Future<Output = Result<()>>,
    C: Future<Output = Result<()>>,
{
    rlimit::increase_nofile_limit(u64::MAX)?;
    let runtime = runtime(&opt.rt)?;
    if role == "server" { runtime.block_on(server(opt)) } else { runtime.block_on(client(opt)) }
}

/// Tells the runner that this process is set up.
pub fn ready() {
    println!("READY");
    std::io::stdout().flush().ok();
}

/// Prints a result as one line of JSON.
pub fn print(result: &impl Serialize) -> Result<()> {
    println!("{}", serde_json::to_string(result)?);
    std::io::stdout().flush()?;
    Ok(())
}
