//! A server's methods, called in three styles.

#![expect(clippy::print_stdout, reason = "a demo tells what it sees")]

use anyhow::{Context, Result, bail, ensure};
use callboard::{CallErrorKind, Client, Method, MethodError, ResultCode, Router, Server, Type};
use serde::Deserialize;
use serde_json::json;

#[derive(Clone, Copy, Deserialize)]
struct Division {
    dividend: i64,
    divisor: i64,
}

fn divide(division: Division) -> Result<i64, MethodError> {
    let quotient = division.dividend.checked_div(division.divisor);
    quotient.ok_or_else(|| MethodError::new(1, "there is no such quotient"))
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    // What is described is checked before the handler runs.
    let method = Method::new("divide")
        .describe("The quotient of two integers, rounded towards zero")
        .param("dividend", Type::Integer)
        .param("divisor", Type::Integer)
        .returns(Type::Integer);
    let router = Router::new().method(method, divide);
    let server = Server::builder().router(router).listen("127.0.0.1:0").start().await?;
    let address = server.addresses().first().context("it listens")?.to_string();
    let client = Client::connect(address).await?;

    // Awaited.
    let seven: i64 = client.call("divide", &json!({ "dividend": 42, "divisor": 6 })).await?;
    ensure!(seven == 7);

    // Many at once over one connection: each is a handle, awaited when it suits.
    let mut calls = Vec::new();
    for divisor in 1..=10 {
        calls.push(client.start::<i64>("divide", &json!({ "dividend": 2520, "divisor": divisor })).await?);
    }
    let mut quotients = Vec::new();
    for call in calls {
        quotients.push(call.await?);
    }
    println!("2520 divided by 1 to 10: {quotients:?}");
    ensure!(quotients.last() == Some(&252));

    // A callback.
    let (sender, receiver) = tokio::sync::oneshot::channel();
    client.call_then("divide", &json!({ "dividend": 9, "divisor": 3 }), |result| drop(sender.send(result)))?;
    let three: i64 = receiver.await??;
    ensure!(three == 3);

    // An error says what happened where, and what to do.
    let nine = json!({ "dividend": "nine", "divisor": 3 });
    let Err(error) = client.call::<i64>("divide", &nine).await else { bail!("no integer, and yet a quotient") };
    println!("{error}");
    ensure!(matches!(error.kind(), CallErrorKind::Remote { code: ResultCode::InvalidParams, .. }));

    let zero = json!({ "dividend": 9, "divisor": 0 });
    let Err(error) = client.call::<i64>("divide", &zero).await else { bail!("divided by zero") };
    println!("{error}");
    ensure!(matches!(error.kind(), CallErrorKind::Remote { app_code: Some(1), .. }));

    server.shutdown().await;
    Ok(())
}
