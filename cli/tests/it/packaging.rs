//! The samples in `packaging/`, as far as they can be tried without an engine: the units, and what a container does
//! with the program.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use callboard_tests::not_tested;
use tempfile::tempdir;

use crate::stage::{PATIENCE, Program, callboard, run};

const PROGRAM: &str = env!("CARGO_BIN_EXE_callboard");
const SYSTEMD: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../packaging/systemd");

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    if Command::new("systemd-analyze").arg("--version").output().is_err() {
        return println!("not tried: there is no systemd-analyze here");
    }
    let directory = tempdir().unwrap();
    let mut units = Vec::new();
    for name in ["callboard.service", "callboard.socket"] {
        let text = fs::read_to_string(Path::new(SYSTEMD).join(name)).unwrap();
        let path = directory.path().join(name);
        fs::write(&path, text.replace("/usr/local/bin/callboard", PROGRAM)).unwrap();
        units.push(path);
    }
    let verified = Command::new("systemd-analyze").arg("verify").args(units).output().unwrap();
    let told = String::from_utf8_lossy(&verified.stderr);
    // It also tells of other units of this machine.
    let ours: Vec<_> = told.lines().filter(|line| line.contains("callboard")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

/// A process with its parent.
fn child_of(parent: u32) -> Option<u32> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let mut numbers = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let is_child = format!("PPid:\t{parent}\n");
    numbers.find(|number| status(*number).is_some_and(|status| status.contains(&is_child)))
}

fn status(process: u32) -> Option<String> {
    fs::read_to_string(format!("/proc/{process}/status")).ok()
}

/// As a container runs it: the first process of its own, of a user without a name or a right.
fn contained(arguments: &[&str], program: &Path) -> Program {
    let mut command = Command::new("unshare");
    command.args(["--pid", "--fork", "--mount-proc", "--kill-child", "setpriv"]);
    command.args(["--reuid=65532", "--regid=65532", "--clear-groups", "--no-new-privs", "--bounding-set=-all"]);
    command.arg(program).args(arguments);
    for (name, _) in callboard(&[]).get_envs() {
        command.env_remove(name);
    }
    Program::spawn(command)
}

#[test]
fn as_process_1_of_nobody_it_serves_and_ends_when_it_is_asked_to() {
    if fs::metadata("/proc/self").unwrap().uid() != 0 {
        return not_tested(
            "the first process of a container",
            "only root can start a process in a namespace of its own",
        );
    }
    let directory = tempdir().unwrap();
    let program = directory.path().join("callboard");
    fs::copy(PROGRAM, &program).unwrap();
    for path in [directory.path(), &program] {
        fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
    }
    let mut center = contained(&["center", "--listen", "127.0.0.1:0"], &program);
    let center_at = center.address();
    let mut provider = contained(&["provide", "--demo", "--center", &center_at], &program);
    provider.address();
    assert_eq!(run(&["call", "add", r#"{"num1":1,"num2":2}"#, "--center", &center_at]).ok(), ["3"]);
    for part in [provider, center] {
        let first = child_of(part.id()).expect("a process in the namespace");
        let told = status(first).unwrap();
        let line = |name: &str| told.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
        assert!(line("NSpid:").ends_with("\t1"), "{told}");
        assert_eq!(line("Uid:"), "Uid:\t65532\t65532\t65532\t65532");
        assert_eq!(line("CapEff:"), "CapEff:\t0000000000000000");
        let began = Instant::now();
        assert!(Command::new("kill").args(["-TERM", &first.to_string()]).status().unwrap().success());
        let ended = part.end();
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(began.elapsed() < PATIENCE);
    }
}
