//! Notices: `--subs` watchers, each on its own connection, and a provider that comes and goes `--rate` times a second.
//! The latency is from before the announcement to each watcher's stream of notices.
//!
//! A notice carries a method and a host and no more, so the host's 16 bytes hold what the meter reads.
use std::net::{IpAddr, Ipv6Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use callboard::{Client, Discovery, Host, Notice, Provider};
use futures::StreamExt;
use load::{Opt, Publisher, SubShared};

use crate::address;

const METHOD: &str = "watched";

pub async fn watch(opt: Opt) -> Result<()> {
    let shared = SubShared::new(&opt);
    let mut watchers = Vec::new();
    for _ in 0..opt.subs {
        let discovery = Discovery::new(&Client::connect(&address(&opt)).await?);
        let notices = discovery.notices();
        discovery.hosts(METHOD).await?;
        watchers.push((discovery, notices));
    }
    load::ready();
    for (discovery, mut notices) in watchers {
        let mut meter = shared.meter();
        tokio::spawn(async move {
            while let Some(notice) = notices.next().await {
                if let Some(payload) = payload(&notice) {
                    meter.on(&payload);
                }
            }
            meter.flush();
            drop(discovery);
        });
    }
    shared.finish(&opt).await
}

pub async fn announce(opt: Opt) -> Result<()> {
    let client = Client::connect(&address(&opt)).await?;
    let stay = if opt.rate == 0 { Duration::ZERO } else { Duration::from_secs(1).div_f64(2.0 * opt.rate as f64) };
    load::publish(&opt, &mut Comer { client, stay }).await
}

/// Comes, stays for half of the time until it comes again, and goes: so the two notices do not meet.
struct Comer {
    client: Client,
    stay: Duration,
}

impl Publisher for Comer {
    async fn send(&mut self, msg: &[u8]) -> Result<()> {
        let provider = Provider::new(self.client.clone()).announce([METHOD], host(msg)?).await?;
        let stay = self.stay;
        tokio::spawn(async move {
            tokio::time::sleep(stay).await;
            drop(provider);
        });
        Ok(())
    }

    async fn flush(&mut self) -> Result<()> {
        Ok(self.client.flush().await?)
    }
}

/// `fd`, then the 7 low bytes of the time, the 7 low bytes of the sequence and the phase, as `load::fill` has them.
fn host(msg: &[u8]) -> Result<Host> {
    let mut ip = [0; 16];
    ip[0] = 0xfd;
    ip[1..8].copy_from_slice(msg.get(0..7).context("no time")?);
    ip[8..15].copy_from_slice(msg.get(16..23).context("no sequence")?);
    ip[15] = msg[8];
    Ok(Host::new(IpAddr::V6(Ipv6Addr::from(ip)), 1)?)
}

/// What [`host`] hid in the host of a provider that came; nothing of one that went.
fn payload(notice: &Notice) -> Option<[u8; 24]> {
    let IpAddr::V6(ip) = notice.host.ip() else { return None };
    let ip = ip.octets();
    let mut msg = [0; 24];
    msg[0..7].copy_from_slice(&ip[1..8]);
    msg[8] = ip[15];
    msg[16..23].copy_from_slice(&ip[8..15]);
    notice.online.then_some(msg)
}
