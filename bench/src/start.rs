//! How long the center takes from exec to serving, how large its binary is, and how long a fresh build takes.
use std::ffi::OsString;
use std::fs;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::process::Process;
use crate::results::Sample;
use crate::site::free_port;
use crate::stats::median;

/// Starts the center some times, until it takes connections.
pub fn start(center: &Path) -> Result<Sample> {
    let times = (0..STARTS).map(|_| once(center)).collect::<Result<Vec<_>>>()?;
    let start_ms = median(times).context("not started")?;
    #[expect(clippy::cast_precision_loss, reason = "a binary is far smaller than 2^52 bytes")]
    let binary_mb = fs::metadata(center)?.len() as f64 / 1e6;
    Ok(figures([("start_ms", start_ms), ("binary_mb", binary_mb)]))
}

/// Builds the product as a fresh checkout would be.
pub fn build(home: &Path) -> Result<Sample> {
    let directory = std::env::temp_dir().join(format!("arena-build-{}", std::process::id()));
    let began = Instant::now();
    let status = Command::new("cargo")
        .args(["build", "--release", "--locked", "--quiet", "--manifest-path"])
        .arg(home.parent().context("no directory above")?.join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&directory)
        .stdout(Stdio::null())
        .status()?;
    let took = began.elapsed().as_secs_f64();
    let _ = fs::remove_dir_all(&directory);
    ensure!(status.success(), "cargo could not build the product");
    Ok(figures([("build_s", took)]))
}

fn once(center: &Path) -> Result<f64> {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
    let listen: [OsString; 4] = [center.into(), "center".into(), "--listen".into(), address.to_string().into()];
    let began = Instant::now();
    let _center = Process::start(&listen, &std::env::temp_dir())?;
    while TcpStream::connect(address).is_err() {
        if began.elapsed() > Duration::from_secs(5) {
            bail!("the center takes no connection");
        }
        sleep(Duration::from_micros(100));
    }
    Ok(began.elapsed().as_secs_f64() * 1e3)
}

fn figures<const N: usize>(figures: [(&str, f64); N]) -> Sample {
    Sample { figures: figures.map(|(name, value)| (name.to_owned(), value)).into(), ..Sample::default() }
}

const STARTS: usize = 10;
