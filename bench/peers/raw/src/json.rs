//! JSON-RPC 2.0 by `serde_json`, as an ordinary program would write it.
use std::borrow::Cow;
use std::collections::HashMap;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::frames::body;

#[derive(Deserialize, Serialize)]
pub struct Add {
    pub num1: i64,
    pub num2: i64,
}

#[derive(Deserialize, Serialize)]
pub struct Echo<'a> {
    #[serde(borrow)]
    pub text: Cow<'a, str>,
}

/// A request as the client writes it.
#[derive(Serialize)]
pub struct Request<'a, P> {
    pub jsonrpc: &'static str,
    pub id: u64,
    pub method: &'a str,
    pub params: P,
}

/// An answer as the client reads it.
#[derive(Deserialize)]
pub struct Answer<'a> {
    pub id: u64,
    #[serde(borrow)]
    pub result: &'a RawValue,
}

#[derive(Deserialize)]
struct Asked<'a> {
    #[serde(borrow)]
    jsonrpc: &'a str,
    id: u64,
    #[serde(borrow)]
    method: Cow<'a, str>,
    #[serde(borrow)]
    params: &'a RawValue,
}

#[derive(Serialize)]
struct Answered<R> {
    jsonrpc: &'static str,
    id: u64,
    result: R,
}

type Method = Box<dyn Fn(u64, &str, &mut Vec<u8>) -> Result<()> + Send + Sync>;

/// The methods by name.
pub struct Methods(HashMap<&'static str, Method>);

impl Methods {
    pub fn new() -> Self {
        let add: Method = Box::new(|id, params, out| {
            let Add { num1, num2 } = serde_json::from_str(params)?;
            Ok(serde_json::to_writer(out, &Answered { jsonrpc: VERSION, id, result: num1 + num2 })?)
        });
        let echo: Method = Box::new(|id, params, out| {
            let Echo { text } = serde_json::from_str(params)?;
            Ok(serde_json::to_writer(out, &Answered { jsonrpc: VERSION, id, result: text })?)
        });
        Self(HashMap::from([("add", add), ("echo", echo)]))
    }

    /// Appends the answer to the request in a frame.
    pub fn answer(&self, frame: &[u8], out: &mut Vec<u8>) -> Result<()> {
        let asked: Asked<'_> = serde_json::from_slice(body(frame))?;
        if asked.jsonrpc != VERSION {
            bail!("not {VERSION}");
        }
        let method = self.0.get(asked.method.as_ref()).context("no such method")?;
        method(asked.id, asked.params.get(), out)
    }
}

pub const VERSION: &str = "2.0";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_answered() {
        let mut out = Vec::new();
        let frame = br#"....{"jsonrpc":"2.0","id":7,"method":"add","params":{"num1":1,"num2":2}}"#;
        Methods::new().answer(frame, &mut out).unwrap();
        assert_eq!(out, br#"{"jsonrpc":"2.0","id":7,"result":3}"#);
    }
}
