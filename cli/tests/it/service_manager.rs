//! The center under a service manager, as systemd is one.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::{Command, Stdio};

use socket2::{Domain, SockAddr, Socket, Type};
use tempfile::tempdir;

use crate::stage::{PATIENCE, Program, callboard, run, v1};

/// What the service manager hears.
struct Ear(UnixDatagram);

impl Ear {
    fn at(path: &Path) -> Self {
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(socket)
    }

    fn next(&self) -> String {
        let mut bytes = [0; 256];
        let length = self.0.recv(&mut bytes).expect("the service manager hears nothing");
        String::from_utf8_lossy(&bytes[..length]).trim_end().to_owned()
    }
}

#[test]
fn it_hears_that_the_center_listens_and_is_well_and_stops() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("notify");
    let ear = Ear::at(&path);
    let mut command = callboard(&["center", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000").env_remove("WATCHDOG_PID");
    let mut center = Program::spawn(command);
    assert_eq!(ear.next(), "READY=1");
    v1(&center.address());
    for _ in 0..5 {
        assert_eq!(ear.next(), "WATCHDOG=1");
    }
    center.signal("TERM");
    while ear.next() != "STOPPING=1" {}
    assert_eq!(center.end().code, Some(0));
    ear.0.set_nonblocking(true).unwrap();
    assert!(ear.0.recv(&mut [0; 8]).is_err(), "nothing comes after that");
}

#[test]
fn without_a_watchdog_it_hears_of_none_and_a_deaf_one_does_no_harm() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("notify");
    let ear = Ear::at(&path);
    let mut command = callboard(&["center", "--listen", "127.0.0.1:0"]);
    command.env("NOTIFY_SOCKET", &path).env_remove("WATCHDOG_USEC");
    let center = Program::spawn(command);
    assert_eq!(ear.next(), "READY=1");
    drop(ear);
    center.signal("TERM");
    assert_eq!(center.end().code, Some(0));
}

/// A center that is started with one listening socket, as its descriptor 3, and told to listen elsewhere too.
fn activated(socket: impl Into<OwnedFd>) -> Program {
    let center = callboard(&["center", "--listen", "127.0.0.1:0"]);
    let mut command = Command::new("sh");
    // The number of the process is that of the shell: it becomes the center.
    command.args(["-c", r#"export LISTEN_PID=$$ LISTEN_FDS=1; exec "$@" 3<&0 </dev/null"#, "sh"]);
    command.arg(center.get_program()).args(center.get_args());
    for (name, value) in center.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    Program::spawn_with_input(command, Stdio::from(socket.into()))
}

#[test]
fn sockets_are_handed_over_and_outlive_the_center() {
    let directory = tempdir().unwrap();
    let path = directory.path().join("center.sock");
    let unix = UnixListener::bind(&path).unwrap();
    for listen in ["127.0.0.1:0", "[::1]:0"] {
        let tcp = TcpListener::bind(listen).unwrap();
        let address = format!("tcp://{}", tcp.local_addr().unwrap());
        serves_over_a_restart(&address, || tcp.try_clone().unwrap().into());
    }
    serves_over_a_restart(&format!("unix://{}", path.display()), || unix.try_clone().unwrap().into());
}

fn serves_over_a_restart(address: &str, socket: impl Fn() -> OwnedFd) {
    let healthy = ["health", "--timeout", "20s", "--center", address];
    let mut center = activated(socket());
    assert_eq!(center.address(), address, "it counts in place of --listen");
    assert_eq!(run(&healthy).ok(), [format!("{address} is well")]);
    center.signal("TERM");
    assert_eq!(center.end().code, Some(0));
    // Nobody is refused meanwhile: who connects waits.
    let early = Program::start(&healthy);
    let mut center = activated(socket());
    assert_eq!(center.address(), address);
    assert_eq!(early.end().ok(), [format!("{address} is well")]);
}

#[test]
fn what_is_no_listening_socket_is_an_error() {
    let datagrams = UnixDatagram::pair().unwrap();
    let told = activated(datagrams.0).end().failed(1);
    assert!(told.contains("LISTEN_FDS"), "{told}");
    let directory = tempdir().unwrap();
    let bound = |domain, address: SockAddr| {
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        socket.bind(&address).unwrap();
        OwnedFd::from(socket)
    };
    let any = |text: &str| text.parse::<SocketAddr>().unwrap().into();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let _connection = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let rows: [(&str, OwnedFd); 5] = [
        ("bound, IPv4", bound(Domain::IPV4, any("127.0.0.1:0"))),
        ("bound, IPv6", bound(Domain::IPV6, any("[::1]:0"))),
        ("bound, Unix", bound(Domain::UNIX, SockAddr::unix(directory.path().join("s")).unwrap())),
        ("connected, TCP", listener.accept().unwrap().0.into()),
        ("connected, Unix", UnixStream::pair().unwrap().0.into()),
    ];
    for (name, socket) in rows {
        let told = activated(socket).end().failed(1);
        assert!(told.contains("LISTEN_FDS") && told.contains("does not listen"), "{name}: {told}");
    }
}

#[test]
fn a_health_check_fails_where_nobody_answers() {
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let told = run(&["health", "--timeout", "300ms", "--center", &address]).failed(1);
    assert!(told.contains(&address), "{told}");
    drop(silent);
    let told = run(&["health", "--center", &address]).failed(1);
    assert!(told.contains("refused"), "{told}");
}
