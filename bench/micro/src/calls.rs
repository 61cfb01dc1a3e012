//! A call's way, in parts and as a whole.

use std::hint::black_box;

use callboard::client::Requestor;
use callboard::common::{Connection, Dispatcher, Handler, Recorder, RpcAnswer};
use callboard::{Client, Router, Server};
use tokio::runtime::{Builder, Runtime};

use crate::{CALL, ID, Operation, PAIR, Pair, Run};

pub(crate) const OPERATIONS: &[Operation] = &[
    Operation::new("dispatch: a call to its method, and the answer", 5000, dispatch),
    Operation::new("dispatch: of that the recorder", 5000, recorder),
    Operation::new("requestor: begin and complete", 10_000, requestor),
    Operation::new("whole: a call over a socket, both sides", 1000, one_call),
    Operation::new("whole: 64 calls over a socket, both sides", 50, many_calls),
];

fn router() -> Router {
    Router::new().method("add", |pair: Pair| Ok(pair.num1 + pair.num2))
}

fn dispatch() -> Run {
    let (dispatcher, conn) = (Dispatcher::new().on_rpc(router()), Recorder::new(1));
    let call = conn.message(0, ID, CALL);
    Box::new(move || {
        dispatcher.handle(&conn, call.clone());
        black_box(conn.take());
    })
}

fn recorder() -> Run {
    let conn = Recorder::new(1);
    Box::new(move || {
        conn.answer(ID, &RpcAnswer { result: &3, v1: true }).unwrap();
        black_box(conn.take());
    })
}

fn requestor() -> Run {
    let mut requestor = Requestor::new(65_536);
    Box::new(move || {
        let id = requestor.begin(black_box(7_u64)).unwrap();
        black_box(requestor.complete(&id.to_wire()).unwrap());
    })
}

/// A server on a loop of its own, and a client on this thread.
struct Pairing {
    client: Client,
    _server: Server,
    runtime: Runtime,
}

impl Pairing {
    fn new() -> Self {
        let runtime = runtime();
        let starting = Server::builder().router(router()).listen("127.0.0.1:0").loops(1).start();
        let server = runtime.block_on(starting).unwrap();
        let client = runtime.block_on(Client::connect(server.addresses().first().unwrap().to_string())).unwrap();
        Self { client, _server: server, runtime }
    }
}

fn one_call() -> Run {
    let pairing = Pairing::new();
    Box::new(move || {
        let Pairing { client, runtime, _server: _ } = &pairing;
        black_box(runtime.block_on(client.call::<i64>("add", &PAIR)).unwrap());
    })
}

fn many_calls() -> Run {
    let pairing = Pairing::new();
    Box::new(move || {
        let Pairing { client, runtime, _server: _ } = &pairing;
        runtime.block_on(async {
            let mut calls = Vec::with_capacity(64);
            for _ in 0..64 {
                calls.push(client.start::<i64>("add", &PAIR).await.unwrap());
            }
            for call in calls {
                black_box(call.await.unwrap());
            }
        });
    })
}

pub(crate) fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}
