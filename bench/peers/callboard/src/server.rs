//! The serving side: a `Server`, a `Center` with methods, or a `Center` with a provider beside it.
use std::borrow::Cow;

use anyhow::Result;
use callboard::{AvailabilityPolicy, Center, Provider, Router, Server};
use load::Opt;
use serde::{Deserialize, Serialize};

use crate::address;
use crate::mode::Mode;

#[derive(Serialize, Deserialize)]
pub struct Add {
    pub num1: i64,
    pub num2: i64,
}

#[derive(Serialize, Deserialize)]
pub struct Echo<'a> {
    pub text: Cow<'a, str>,
}

/// The name of the `index`th method that adds.
pub fn add_name(index: usize) -> String {
    if index == 0 { "add".to_owned() } else { format!("add-{index}") }
}

pub async fn run(opt: Opt) -> Result<()> {
    let mode = Mode::of(&opt);
    let loops = mode.value("loops", opt.mode.parse().unwrap_or(0))?;
    let router = router(mode.value("methods", 1)?, mode.has("async"));
    if mode.has("caller") {
        let _center = Center::builder().loops(loops).listen(address(&opt)).start().await?;
        let server = Server::builder().router(router.clone()).loops(loops).listen("127.0.0.1:0").start().await?;
        let provider = Provider::connect(address(&opt)).await?;
        let _provider = provider.announce(router.names(), server.addresses()).await?;
        serve().await
    } else if mode.has("center") {
        let center = Center::builder().router(router).loops(loops).availability(at_their_word());
        let _center = center.listen(address(&opt)).start().await?;
        serve().await
    } else {
        let _server = Server::builder().router(router).loops(loops).listen(address(&opt)).start().await?;
        serve().await
    }
}

/// The arena's providers are at hosts where nobody listens, and come and go all the time.
fn at_their_word() -> AvailabilityPolicy {
    AvailabilityPolicy { probe: false, flap_changes: usize::MAX, ..AvailabilityPolicy::default() }
}

fn router(methods: usize, is_async: bool) -> Router {
    let router = Router::new().method("echo", |echo: Echo<'static>| Ok(echo.text));
    (0..methods.max(1)).fold(router, |router, index| {
        if is_async {
            router.method_async(add_name(index), |pair: Add| async move {
                tokio::task::yield_now().await;
                Ok(pair.num1 + pair.num2)
            })
        } else {
            router.method(add_name(index), |pair: Add| Ok(pair.num1 + pair.num2))
        }
    })
}

async fn serve() -> Result<()> {
    load::ready();
    std::future::pending().await
}
