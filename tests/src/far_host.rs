use std::fmt;
use std::process::Command;

/// A host of its own behind a bridge of this one, made of a Linux network namespace, whose packets can be dropped: only root
/// can make one. It is taken down with this value.
///
/// Hosts of several processes have networks of their own.
#[derive(Debug)]
pub struct FarHost {
    name: String,
    network: u32,
}

impl FarHost {
    /// Makes one.
    ///
    /// # Errors
    /// This process may not change the network, or there is no `ip` program.
    pub fn new() -> Result<Self, Unable> {
        let process = std::process::id();
        let host = Self { name: format!("cb{process}"), network: process % NETWORKS };
        let name = &host.name;
        let (here, there) = (host.here(), host.there());
        for line in [
            format!("netns add {name}"),
            // With an address of its own: else it has that of its port, which would go on taking packets without it.
            format!("link add {name}b address 02:00:00:00:00:01 type bridge"),
            format!("addr add {here}/29 dev {name}b"),
            format!("link set {name}b up"),
            format!("link add {name}o type veth peer name {name}i netns {name}"),
            format!("link set {name}o up"),
            format!("-n {name} addr add {there}/29 dev {name}i"),
            format!("-n {name} link set {name}i up"),
            format!("-n {name} link set lo up"),
        ] {
            ip(&line)?;
        }
        host.set_connected(true)?;
        Ok(host)
    }

    /// The address of this host on the bridge.
    #[must_use]
    pub fn here(&self) -> String {
        self.address(1)
    }

    /// The address of the other host.
    #[must_use]
    pub fn there(&self) -> String {
        self.address(2)
    }

    /// Another command of the same program, arguments and environment, to be run on the other host.
    #[must_use]
    pub fn inside(&self, command: &Command) -> Command {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", &self.name]).arg(command.get_program()).args(command.get_args());
        for (name, value) in command.get_envs() {
            match value {
                Some(value) => inside.env(name, value),
                None => inside.env_remove(name),
            };
        }
        inside
    }

    /// Whether packets come through. If not they are dropped: both ends are up, and nobody is told.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_connected(&self, connected: bool) -> Result<(), Unable> {
        let name = &self.name;
        ip(&if connected { format!("link set {name}o master {name}b") } else { format!("link set {name}o nomaster") })
    }

    /// Whether packets to it come through; its own do all the same.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_hears(&self, hears: bool) -> Result<(), Unable> {
        let (there, name) = (self.there(), &self.name);
        ip(&format!("neigh {} dev {name}b", who_has(&there, hears)))
    }

    /// Whether its own packets come through; those to it do all the same.
    ///
    /// # Errors
    /// The system refuses.
    pub fn set_heard(&self, heard: bool) -> Result<(), Unable> {
        let (here, name) = (self.here(), &self.name);
        ip(&format!("-n {name} neigh {} dev {name}i", who_has(&here, heard)))
    }

    /// Of the addresses that are set aside for tests of networks, 198.18.0.0/15.
    fn address(&self, host: u32) -> String {
        std::net::Ipv4Addr::from(0xC612_0000 + self.network * HOSTS + host).to_string()
    }
}

impl Drop for FarHost {
    fn drop(&mut self) {
        let _ = ip(&format!("netns del {}", self.name));
        let _ = ip(&format!("link del {}o", self.name));
        let _ = ip(&format!("link del {}b", self.name));
    }
}

/// Why something was not done to the network.
#[derive(Debug)]
pub enum Unable {
    /// This process lacks the capability `CAP_NET_ADMIN` or `CAP_SYS_ADMIN`: it is not root, or in a container without them.
    NotAllowed(String),
    /// It has them, but it did not work; why.
    Failed(String),
}

impl fmt::Display for Unable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotAllowed(why) => write!(f, "this process may not change the network: {why}"),
            Self::Failed(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for Unable {}

/// What `ip neigh` is to do so that packets to this address go where it is, or to nobody.
fn who_has(address: &str, known: bool) -> String {
    if known { format!("del {address}") } else { format!("replace {address} lladdr {NOBODY} nud permanent") }
}

fn ip(line: &str) -> Result<(), Unable> {
    let refused = |why: String| if may_change_networks() { Unable::Failed(why) } else { Unable::NotAllowed(why) };
    let output = Command::new("ip").args(line.split(' ')).output();
    let output = output.map_err(|why| refused(format!("there is no `ip` ({why}); install iproute2")))?;
    let said = || format!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
    if output.status.success() { Ok(()) } else { Err(refused(said())) }
}

/// As the kernel says.
fn may_change_networks() -> bool {
    const NET_ADMIN_AND_SYS_ADMIN: u64 = 1 << 12 | 1 << 21;
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(0);
    effective & NET_ADMIN_AND_SYS_ADMIN == NET_ADMIN_AND_SYS_ADMIN
}

const NOBODY: &str = "02:00:00:00:00:ff";
const HOSTS: u32 = 8;
/// So many networks of so many hosts fit in.
const NETWORKS: u32 = (1 << 17) / HOSTS;
