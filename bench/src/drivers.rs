//! Builds what is measured, and finds the brokers.
use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::{Broker, Config, Peer};

/// Where the binaries are.
#[derive(Debug, Default)]
pub struct Drivers(BTreeMap<String, PathBuf>);

/// A broker that is not installed, so that its peers go unmeasured.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Missing {
    pub broker: String,
    pub package: String,
}

/// The product's own binary: the center that `start` measures.
pub const CENTER: &str = "callboard";

impl Drivers {
    /// Builds the drivers of these peers, each by an invocation of its own, so that no peer's features of a shared
    /// dependency reach another.
    pub fn build(home: &Path, peers: &[&Peer], center: bool) -> Result<Self> {
        let Self(mut paths) = Self::built_in(home, peers, &[])?;
        if center {
            eprintln!("building {CENTER}");
            let manifest = home.parent().context("no directory above")?.join("Cargo.toml");
            paths.insert(CENTER.into(), build(&manifest, &["--bin", CENTER])?);
        }
        Ok(Self(paths))
    }

    /// Those of another checkout, whose arena is there. They are kept there too, wherever ours are.
    pub fn elsewhere(home: &Path, peers: &[&Peer]) -> Result<Self> {
        let target = home.join("target").into_os_string();
        let target = target.to_str().context("the path is no text")?;
        Self::built_in(home, peers, &["--target-dir", target])
    }

    fn built_in(home: &Path, peers: &[&Peer], options: &[&str]) -> Result<Self> {
        let mut names: Vec<_> = peers.iter().map(|peer| peer.bin.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        let mut paths = BTreeMap::new();
        for (i, name) in names.iter().enumerate() {
            eprintln!("building {name} ({} of {}) in {}", i + 1, names.len(), home.display());
            let what = [&["--package", name], options].concat();
            paths.insert((*name).to_owned(), build(&home.join("Cargo.toml"), &what)?);
        }
        Ok(Self(paths))
    }

    /// One driver that is there already.
    pub fn built(name: &str, path: &Path) -> Self {
        Self(BTreeMap::from([(name.into(), path.into())]))
    }

    pub fn path(&self, name: &str) -> Result<&Path> {
        self.0.get(name).map(PathBuf::as_path).with_context(|| format!("{name} was not built"))
    }
}

/// The brokers that are not in `PATH`.
pub fn missing(config: &Config) -> Vec<Missing> {
    let absent = config.brokers.iter().filter(|(_, broker)| !installed(broker));
    absent.map(|(name, broker)| Missing { broker: name.clone(), package: broker.package.clone() }).collect()
}

fn installed(broker: &Broker) -> bool {
    let Some(program) = broker.command.first() else { return false };
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

/// Builds one binary for release, and tells where cargo put it.
fn build(manifest: &Path, what: &[&str]) -> Result<PathBuf> {
    let output = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["build", "--release", "--locked", "--message-format=json-render-diagnostics", "--manifest-path"])
        .arg(manifest)
        .args(what)
        .stderr(Stdio::inherit())
        .output()?;
    if !output.status.success() {
        bail!("cargo could not build {}", what.join(" "));
    }
    let messages = String::from_utf8(output.stdout)?;
    let mut executables = messages.lines().filter_map(executable);
    executables.next_back().with_context(|| format!("{}: no executable", what.join(" ")))
}

fn executable(message: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(message).ok()?;
    message.get("executable")?.as_str().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_executable_is_read_from_cargos_messages() {
        let rows = [
            (r#"{"reason":"compiler-artifact","executable":"/t/peer-raw"}"#, Some("/t/peer-raw")),
            (r#"{"reason":"compiler-artifact","executable":null}"#, None),
            (r#"{"reason":"build-finished","success":true}"#, None),
            ("not JSON", None),
        ];
        for (message, expected) in rows {
            assert_eq!(executable(message), expected.map(PathBuf::from), "{message}");
        }
    }
}
