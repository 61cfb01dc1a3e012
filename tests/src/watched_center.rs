use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use callboard_center::{Center, Config};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines, Stdin, stdin};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// A center in a process of its own, at whose memory, file descriptors and tables one can look. Killed with this value.
///
/// The process is the program itself, so its `main` begins with [`be_center_if_asked`](Self::be_center_if_asked).
#[derive(Debug)]
pub struct WatchedCenter {
    child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    /// Where it listens: `tcp://127.0.0.1:port`.
    pub tcp: String,
    /// And on a Unix socket, whose file goes with this value.
    pub unix: String,
    folder: tempfile::TempDir,
}

/// What a center holds at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Look {
    /// What of it lies in memory (`VmRSS`), in bytes.
    pub memory: u64,
    /// Open file descriptors.
    pub descriptors: u64,
    /// Its tables.
    #[serde(flatten)]
    pub tables: Tables,
}

/// The sizes of a center's tables.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tables {
    /// Connections that are accepted and have not ended.
    pub connections: u64,
    /// Bytes that wait to be written.
    pub queued_bytes: u64,
    /// Bytes of frames that have not come whole.
    pub partial_bytes: u64,
    /// Methods that are provided or watched.
    pub methods: u64,
    /// Connections that provide or watch.
    pub registered: u64,
    /// Topics.
    pub topics: u64,
    /// Connections that are subscribed to something.
    pub subscribers: u64,
    /// Bytes of messages that are kept for subscribers that come back.
    pub kept_bytes: u64,
    /// Requests that wait for their answers.
    pub in_flight: u64,
    /// Calls that were passed on to providers and wait for their answers.
    pub relayed_calls: u64,
}

impl WatchedCenter {
    /// Runs a center in place of the program, where [`start`](Self::start) started it: then it does not return.
    ///
    /// # Errors
    /// The center can't be started or asked.
    pub async fn be_center_if_asked() -> Result<()> {
        if std::env::var_os(ASKED).is_none() {
            return Ok(());
        }
        let mut config = Config::default();
        config.apply_environment(|name| std::env::var_os(name))?;
        serve(Center::builder().config(config).start().await?).await?;
        std::process::exit(0)
    }

    /// Starts one with these settings, by their variables.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start(settings: &[(&str, &str)]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let unix = format!("unix://{}", folder.path().join("center").display());
        let mut command = Command::new(std::env::current_exe()?);
        command.env(ASKED, "1").env("CALLBOARD_LISTEN", format!("tcp://127.0.0.1:0,{unix}"));
        command.envs(settings.iter().copied()).stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let asks = child.stdin.take().context("it has an input")?;
        let mut answers = BufReader::new(child.stdout.take().context("it has an output")?).lines();
        let tcp = timeout(PATIENCE, answers.next_line()).await??.context("the center has ended")?;
        Ok(Self { child, asks, answers, tcp, unix, folder })
    }

    /// What it holds.
    ///
    /// # Errors
    /// It has ended, or does not answer.
    pub async fn look(&mut self) -> Result<Look> {
        let tables = serde_json::from_str(&self.ask("look").await?)?;
        let process = self.process()?;
        let descriptors = std::fs::read_dir(process.join("fd"))?.count() as u64;
        Ok(Look { memory: resident(&process)?, descriptors, tables })
    }

    /// What it has counted since it started, by name.
    ///
    /// # Errors
    /// It has ended, or does not answer.
    pub async fn counted(&mut self) -> Result<BTreeMap<String, u64>> {
        Ok(serde_json::from_str(&self.ask(COUNTED).await?)?)
    }

    /// Of its process, while that runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Ends it as SIGTERM would.
    ///
    /// # Errors
    /// It does not end, or not well.
    pub async fn stop(mut self) -> Result<()> {
        drop(self.asks);
        let status = timeout(PATIENCE, self.child.wait()).await.context("the center does not end")??;
        ensure!(status.success(), "the center ended with {status}");
        self.folder.close()?;
        Ok(())
    }

    async fn ask(&mut self, what: &str) -> Result<String> {
        self.asks.write_all(format!("{what}\n").as_bytes()).await?;
        let line = timeout(PATIENCE, self.answers.next_line()).await.context("the center does not answer")??;
        line.context("the center has ended")
    }

    fn process(&self) -> Result<PathBuf> {
        let id = self.child.id().context("the center has ended")?;
        Ok(PathBuf::from(format!("/proc/{id}")))
    }
}

/// In the center's process: answers each line with its tables or counters, until the input ends.
#[expect(clippy::print_stdout, reason = "its lines are what it is asked for")]
async fn serve(center: Center) -> Result<()> {
    println!("{}", center.address());
    let mut lines: Lines<BufReader<Stdin>> = BufReader::new(stdin()).lines();
    while let Some(line) = lines.next_line().await? {
        if line == COUNTED {
            println!("{}", serde_json::to_string(&center.counted().collect::<BTreeMap<_, _>>())?);
            continue;
        }
        let (metrics, registry) = (center.metrics(), center.registry_size());
        let tables = Tables {
            connections: metrics.connections,
            queued_bytes: metrics.queued_bytes,
            partial_bytes: metrics.partial_bytes,
            methods: registry.methods as u64,
            registered: registry.connections as u64,
            topics: center.topic_count() as u64,
            subscribers: center.subscriber_count() as u64,
            kept_bytes: center.kept_bytes() as u64,
            in_flight: center.in_flight() as u64,
            relayed_calls: center.relayed_calls() as u64,
        };
        println!("{}", serde_json::to_string(&tables)?);
    }
    center.shutdown().await;
    Ok(())
}

fn resident(process: &std::path::Path) -> Result<u64> {
    let status = std::fs::read_to_string(process.join("status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}

/// Set where the program is to be a center.
const ASKED: &str = "CALLBOARD_TESTS_WATCHED_CENTER";
/// Asks for the counters.
const COUNTED: &str = "counted";
const PATIENCE: Duration = Duration::from_secs(30);
