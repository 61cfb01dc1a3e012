//! What was measured on, and with which versions.
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::available_parallelism;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::config::Config;

/// The machine, as far as it matters to a speed.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub memory_gib: u64,
    pub kernel: String,
}

impl Machine {
    pub fn of_this_process() -> Self {
        let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".into());
        let memory_kb = field("/proc/meminfo", "MemTotal").and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            cpu,
            cores: available_parallelism().map_or(0, Into::into),
            memory_gib: memory_kb.unwrap_or(0).div_ceil(1 << 20),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().into(),
        }
    }
}

/// The versions of the libraries, of the brokers and of the compiler.
pub fn versions(home: &Path, config: &Config) -> Result<BTreeMap<String, String>> {
    let lock = fs::read_to_string(home.join("Cargo.lock")).context("Cargo.lock")?;
    let mut versions = locked(&lock, &config.crates)?;
    versions.insert("rustc".into(), told(&["rustc".into(), "--version".into()]));
    for (name, broker) in &config.brokers {
        versions.insert(format!("{name} (server)"), told(&broker.version));
    }
    versions.retain(|_, version| !version.is_empty());
    Ok(versions)
}

/// The commit that is measured, and whether the work tree differs from it.
pub fn commit(home: &Path) -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").arg("-C").arg(home).args(arguments).output().ok();
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
    };
    // Results lie in the repository too, and are no part of what is measured.
    let changed = git(&["status", "--porcelain", "--untracked-files=no", "--", ":/", ":!results", ":!../docs"]);
    git(&["rev-parse", "--short=10", "HEAD"]) + if changed.is_empty() { "" } else { " with changes" }
}

fn locked(text: &str, names: &[String]) -> Result<BTreeMap<String, String>> {
    #[derive(Deserialize)]
    struct Lock {
        package: Vec<Package>,
    }
    #[derive(Deserialize)]
    struct Package {
        name: String,
        version: String,
    }
    let lock: Lock = toml::from_str(text)?;
    let chosen = lock.package.into_iter().filter(|package| names.contains(&package.name));
    Ok(chosen.map(|package| (package.name, package.version)).collect())
}

/// The first version that a program tells; nothing if it does not run.
fn told(command: &[String]) -> String {
    let Some((program, arguments)) = command.split_first() else { return String::new() };
    let output = Command::new(program).args(arguments).output().ok();
    output.map(|output| version_in(&String::from_utf8_lossy(&output.stdout))).unwrap_or_default()
}

fn version_in(text: &str) -> String {
    let words = text.split(|c: char| c.is_whitespace() || matches!(c, '=' | ','));
    let mut trimmed = words.map(|word| word.trim_start_matches('v'));
    let is_version = |word: &&str| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit());
    trimmed.find(is_version).unwrap_or_default().into()
}

fn field(path: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_found_in_what_programs_say() {
        let rows = [
            ("nats-server: v2.10.9\n", "2.10.9"),
            ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc-5.3.0", "7.0.15"),
            ("mosquitto version 2.0.18\n\nmosquitto is an MQTT v5.0 broker", "2.0.18"),
            ("etcd Version: 3.4.30\nGit SHA: x", "3.4.30"),
            ("rustc 1.95.0 (59807616e 2026-04-14)", "1.95.0"),
            ("no such thing", ""),
        ];
        for (text, expected) in rows {
            assert_eq!(version_in(text), expected, "{text}");
        }
    }

    #[test]
    fn versions_are_read_from_the_lock_file() {
        let lock =
            "[[package]]\nname = \"tonic\"\nversion = \"0.14.1\"\n[[package]]\nname = \"x\"\nversion = \"1.0.0\"\n";
        let versions = locked(lock, &["tonic".into(), "absent".into()]).unwrap();
        assert_eq!(versions, BTreeMap::from([("tonic".into(), "0.14.1".into())]));
    }

    #[test]
    fn this_machine_is_described() {
        let machine = Machine::of_this_process();
        assert!(machine.cores > 0 && machine.memory_gib > 0 && !machine.kernel.is_empty());
    }
}
