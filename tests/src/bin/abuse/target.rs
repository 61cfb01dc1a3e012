//! The center that is attacked, with its default settings.

use std::collections::BTreeMap;
use std::fs::{File, read_to_string};
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use callboard_tests::WatchedCenter;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};
use tokio::time::timeout;

use crate::process::PATIENCE;

/// In a process of its own, which ends with this value.
pub(crate) enum Target {
    /// The program `callboard`.
    Program(Box<Program>),
    /// One that is embedded in this program.
    Embedded(Box<WatchedCenter>),
}

pub(crate) struct Program {
    child: Child,
    /// Its output stays open.
    _lines: Lines<BufReader<ChildStdout>>,
    tcp: String,
    folder: TempDir,
}

/// What a process has taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// What of it lies in memory now, in bytes.
    pub(crate) memory: u64,
    /// The most that ever did.
    pub(crate) peak: u64,
    /// Time of cores, in s.
    pub(crate) cores: f64,
}

impl Target {
    pub(crate) async fn start(program: Option<&Path>) -> Result<Self> {
        let Some(program) = program else {
            return Ok(Self::Embedded(Box::new(WatchedCenter::start(&[]).await?)));
        };
        let folder = tempfile::tempdir()?;
        let mut command = Command::new(program);
        command.args(["center", "--listen", "tcp://127.0.0.1:0"]).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.stderr(File::create(folder.path().join(LOG))?).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().context("it has an output")?).lines();
        let first = timeout(PATIENCE, lines.next_line()).await??.context("the center has ended")?;
        let tcp = first.rsplit(' ').next().unwrap_or_default().to_owned();
        Ok(Self::Program(Box::new(Program { child, _lines: lines, tcp, folder })))
    }

    pub(crate) fn address(&self) -> &str {
        match self {
            Self::Program(program) => &program.tcp,
            Self::Embedded(center) => &center.tcp,
        }
    }

    pub(crate) fn taken(&self) -> Result<Taken> {
        let id = match self {
            Self::Program(program) => program.child.id(),
            Self::Embedded(center) => center.id(),
        };
        Taken::by(id.context("the center has ended")?)
    }

    /// Ends it as SIGTERM would; what it has counted.
    pub(crate) async fn stop(self) -> Result<BTreeMap<String, u64>> {
        match self {
            Self::Embedded(mut center) => {
                let counted = center.counted().await?;
                center.stop().await?;
                Ok(counted)
            }
            Self::Program(program) => {
                let Program { mut child, folder, .. } = *program;
                let id = child.id().context("the center has ended")?;
                Command::new("kill").arg(id.to_string()).status().await?;
                let status = timeout(PATIENCE, child.wait()).await.context("the center does not end")??;
                ensure!(status.success(), "the center ended with {status}");
                let log = String::from_utf8_lossy(&std::fs::read(folder.path().join(LOG))?).into_owned();
                Ok(counted(&log))
            }
        }
    }
}

impl Taken {
    fn by(process: u32) -> Result<Self> {
        let status = read_to_string(format!("/proc/{process}/status"))?;
        let field = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).with_context(|| name.to_owned())?;
            Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
        };
        let stat = read_to_string(format!("/proc/{process}/stat"))?;
        // What follows the name, which is in parentheses: the 12th and 13th are the times, in hundredths of a second.
        let rest = stat.rsplit_once(") ").context("no stat")?.1;
        let ticks: u64 = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        #[expect(clippy::cast_precision_loss, reason = "they are few")]
        Ok(Self { memory: field("VmRSS:")?, peak: field("VmHWM:")?, cores: ticks as f64 / 100.0 })
    }
}

/// From the line of the log in which a center that has ended says what it has counted.
fn counted(log: &str) -> BTreeMap<String, u64> {
    let line = log.lines().rev().find(|line| line.contains("counted")).unwrap_or_default();
    let pairs = line.split_whitespace().filter_map(|word| word.split_once('='));
    pairs.filter_map(|(name, count)| Some((name.to_owned(), count.parse().ok()?))).collect()
}

const LOG: &str = "log";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_counted_is_read_from_the_log() {
        let log = "WARN closed peer=1.2.3.4:5\nINFO callboard: counted accepted=12 evicted=3\nINFO ended";
        let expected = [("accepted".to_owned(), 12), ("evicted".to_owned(), 3)];
        assert_eq!(counted(log), expected.into());
        assert_eq!(counted("nothing"), BTreeMap::new());
    }
}
