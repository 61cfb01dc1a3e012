//! mosquitto with rumqttc, `QoS` 0. client --job sub | pub | idle
use anyhow::{Result, bail};
use load::{Opt, Publisher, SubShared};
use rumqttc::{AsyncClient, Event, EventLoop, MqttOptions, NetworkOptions, Packet, QoS};
use std::time::Duration;

fn main() {
    load::main_with(|_| async { bail!("start mosquitto itself") }, client);
}

fn open(opt: &Opt, id: String) -> Result<(AsyncClient, EventLoop)> {
    let Some((host, port)) = opt.addr.rsplit_once(':') else { bail!("address") };
    let id_is_publisher = id == "publisher";
    let mut o = MqttOptions::new(id, host, port.parse()?);
    o.set_keep_alive(Duration::from_mins(1));
    let (c, mut e) = AsyncClient::new(o, 256);
    let mut n = NetworkOptions::new();
    n.set_tcp_nodelay(true);
    // also the limit for one flush; a slow broker must not end the run
    n.set_connection_timeout(60);
    if id_is_publisher {
        // else kernel buffers hold minutes of the broker's work for 100 subscribers
        n.set_tcp_send_buffer_size(32 * 1024);
    }
    e.set_network_options(n);
    Ok((c, e))
}

async fn client(opt: Opt) -> Result<()> {
    match opt.job.as_str() {
        "sub" => sub(opt).await,
        "pub" => {
            let (c, mut e) = open(&opt, "publisher".into())?;
            loop {
                if let Event::Incoming(Packet::ConnAck(_)) = e.poll().await? {
                    break;
                }
            }
            tokio::spawn(async move {
                loop {
                    if let Err(err) = e.poll().await {
                        eprintln!("publisher: {err:?}");
                        break;
                    }
                }
            });
            load::publish(&opt, &mut MqttPub(c)).await
        }
        "idle" => {
            // CONNECT, clean session, empty client id, keep alive 600 s
            let hello = vec![0x10, 12, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 2, 88, 0, 0];
            load::idle(&opt, hello, true).await
        }
        _ => bail!("no such job"),
    }
}

async fn sub(opt: Opt) -> Result<()> {
    let sh = SubShared::new(&opt);
    let mut v = Vec::new();
    for i in 0..opt.subs {
        let (c, mut e) = open(&opt, format!("sub{i}"))?;
        c.subscribe("bench/topic", QoS::AtMostOnce).await?;
        loop {
            if let Event::Incoming(Packet::SubAck(_)) = e.poll().await? {
                break;
            }
        }
        v.push((c, e));
    }
    load::ready();
    for (c, mut e) in v {
        let mut m = sh.meter();
        tokio::spawn(async move {
            loop {
                match e.poll().await {
                    Ok(Event::Incoming(Packet::Publish(p))) => {
                        m.on(&p.payload);
                    }
                    Ok(_) => {}
                    Err(err) => {
                        eprintln!("subscriber: {err}");
                        break;
                    }
                }
            }
            m.flush();
            drop(c);
        });
    }
    sh.finish(&opt).await
}

struct MqttPub(AsyncClient);

impl Publisher for MqttPub {
    async fn send(&mut self, msg: &[u8]) -> Result<()> {
        self.0.publish("bench/topic", QoS::AtMostOnce, false, msg).await?;
        Ok(())
    }
    async fn flush(&mut self) -> Result<()> {
        // QoS 0 has no acknowledgement to wait for; the channel holds 256
        Ok(())
    }
}
