//! A network whose packets are dropped, made of network namespaces: only root can do that.

use std::fmt;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::faults::{Watcher, center_with};
use crate::stage::{Program, callboard, provider};

/// A host of its own behind a bridge; taken down with the test.
struct Net {
    name: String,
}

impl Net {
    fn new() -> Result<Self, Unable> {
        is_able()?;
        let net = Self { name: format!("cb{}", std::process::id()) };
        let name = &net.name;
        for line in [
            format!("netns add {name}"),
            // With an address of its own: else it has that of its port, which would go on taking packets without it.
            format!("link add {name}b address 02:00:00:00:00:01 type bridge"),
            format!("addr add {BRIDGE}/29 dev {name}b"),
            format!("link set {name}b up"),
            format!("link add {name}o type veth peer name {name}i netns {name}"),
            format!("link set {name}o master {name}b"),
            format!("link set {name}o up"),
            format!("-n {name} addr add {INSIDE}/29 dev {name}i"),
            format!("-n {name} link set {name}i up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&line)?;
        }
        Ok(net)
    }

    /// Runs a command on the host inside.
    fn inside(&self, arguments: &[&str]) -> Command {
        let program = callboard(arguments);
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]).arg(program.get_program()).args(program.get_args());
        for (name, _) in program.get_envs() {
            command.env_remove(name);
        }
        command
    }

    /// Whether packets come through. If not they are dropped: both ends are up, and nobody is told.
    fn set_connected(&self, connected: bool) {
        let name = &self.name;
        let master = if connected { format!("master {name}b") } else { "nomaster".to_owned() };
        if let Err(why) = ip(&format!("link set {name}o {master}")) {
            panic!("{why}");
        }
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
        let _ = ip(&format!("link del {}o", self.name));
        let _ = ip(&format!("link del {}b", self.name));
    }
}

/// Why something was not done to the network.
enum Unable {
    /// There is no `ip` here.
    NoProgram(std::io::Error),
    /// What it said.
    Refused(String),
}

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoProgram(why) => write!(f, "there is no `ip` ({why}); install iproute2"),
            Self::Refused(said) => f.write_str(said),
        }
    }
}

fn ip(line: &str) -> Result<(), Unable> {
    let output = Command::new("ip").args(line.split(' ')).output().map_err(Unable::NoProgram)?;
    let said = || format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(Unable::Refused(said())) }
}

fn is_able() -> Result<(), Unable> {
    let name = format!("cbtry{}", std::process::id());
    ip(&format!("netns add {name}"))?;
    let bridge = ip(&format!("link add {name} type bridge"));
    let _ = ip(&format!("link del {name}"));
    ip(&format!("netns del {name}"))?;
    bridge
}

fn is_root() -> bool {
    let id = Command::new("id").arg("-u").output().map(|output| output.stdout);
    id.is_ok_and(|id| id.trim_ascii() == b"0")
}

// Addresses that are set aside for tests of networks.
const BRIDGE: &str = "198.18.213.1";
const INSIDE: &str = "198.18.213.2";

#[test]
fn a_provider_behind_a_dropped_network_is_told_offline_and_online_again_when_it_is_back() {
    let net = match Net::new() {
        Ok(net) => net,
        Err(why) => {
            let checks_all = std::env::var_os("CI").is_some() && is_root();
            assert!(!(checks_all && matches!(why, Unable::NoProgram(_))), "a dropped network was not tested: {why}");
            println!("A dropped network was NOT tested: {why}");
            return;
        }
    };
    let (_center, center) = center_with(&format!("{BRIDGE}:0"), &[]);
    let listen = format!("{INSIDE}:0");
    let mut inside = Program::spawn(net.inside(&["provide", "--demo", "--listen", &listen, "--center", &center]));
    let at = inside.address();
    let (_other, _) = provider(&center);
    let mut watcher = Watcher::new(&center);
    watcher.calls(4);

    net.set_connected(false);
    let began = Instant::now();
    assert_eq!(watcher.change(), (at.clone(), false));
    println!("told offline after {:?}", began.elapsed());
    assert!(began.elapsed() > Duration::from_secs(1), "nobody could know it sooner");
    watcher.calls(20);

    net.set_connected(true);
    assert_eq!(watcher.change(), (at, true));
    watcher.calls(20);
}
