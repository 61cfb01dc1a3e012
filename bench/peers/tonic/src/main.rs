//! gRPC with tonic, default settings. --transport tcp | unix
use anyhow::Result;
use load::Opt;
use tonic::transport::{Channel, Endpoint, Server, Uri};
use tonic::{Request, Response, Status};

#[allow(warnings, clippy::all, clippy::pedantic, clippy::restriction, reason = "generated")]
mod pb {
    tonic::include_proto!("calc");
}
use pb::calc_client::CalcClient;
use pb::calc_server::{Calc, CalcServer};

#[derive(Default)]
struct Svc;

#[tonic::async_trait]
impl Calc for Svc {
    async fn add(&self, r: Request<pb::AddRequest>) -> Result<Response<pb::AddReply>, Status> {
        let r = r.into_inner();
        Ok(Response::new(pb::AddReply { sum: r.num1 + r.num2 }))
    }
    async fn echo(&self, r: Request<pb::EchoRequest>) -> Result<Response<pb::EchoReply>, Status> {
        Ok(Response::new(pb::EchoReply { text: r.into_inner().text }))
    }
}

fn main() {
    load::main_with(server, client);
}

async fn server(opt: Opt) -> Result<()> {
    let s = Server::builder().tcp_nodelay(true).add_service(CalcServer::new(Svc));
    if opt.transport == "unix" {
        let _ = std::fs::remove_file(&opt.addr);
        let l = tokio::net::UnixListener::bind(&opt.addr)?;
        load::ready();
        s.serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(l)).await?;
    } else {
        let inc = tonic::transport::server::TcpIncoming::bind(opt.addr.parse()?)
            .map_err(|e| anyhow::anyhow!("{e}"))?
            .with_nodelay(Some(true));
        load::ready();
        s.serve_with_incoming(inc).await?;
    }
    Ok(())
}

async fn connect(opt: &Opt) -> Result<CalcClient<Channel>> {
    let ch = if opt.transport == "unix" {
        let path = opt.addr.clone();
        Endpoint::try_from("http://[::]:50051")?
            .connect_with_connector(tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move {
                    let s = tokio::net::UnixStream::connect(path).await?;
                    Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(s))
                }
            }))
            .await?
    } else {
        Endpoint::try_from(format!("http://{}", opt.addr))?.tcp_nodelay(true).connect().await?
    };
    Ok(CalcClient::new(ch))
}

async fn client(opt: Opt) -> Result<()> {
    if opt.job == "idle" {
        // HTTP/2 preface and an empty SETTINGS frame
        let mut hello = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        hello.extend_from_slice(&[0, 0, 0, 4, 0, 0, 0, 0, 0]);
        return load::idle(&opt, hello, true).await;
    }
    let mut clients = Vec::new();
    for _ in 0..opt.conns {
        let mut c = connect(&opt).await?;
        c.add(pb::AddRequest { num1: 1, num2: 2 }).await?;
        clients.push(c);
    }
    load::chains!(&opt, clients, tokio::spawn, add, echo)
}

async fn add(client: &mut CalcClient<Channel>, num1: i64, num2: i64) -> Result<()> {
    let reply = client.add(pb::AddRequest { num1, num2 }).await?.into_inner();
    load::check(reply.sum == num1 + num2)
}

async fn echo(client: &mut CalcClient<Channel>, text: &str) -> Result<()> {
    let reply = client.echo(pb::EchoRequest { text: text.to_owned() }).await?.into_inner();
    load::check(reply.text.len() == text.len())
}
