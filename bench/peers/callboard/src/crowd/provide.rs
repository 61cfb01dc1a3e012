//! Providers, `--conns` of them, each on its own connection.
//!
//! --mode
//!   methods=N   N methods shared out among them, each at one host
//!   (none)      all of them the same method, each at a host of its own
//!
//! A line of input ends them all without a farewell, the end of it with one.
use std::time::Instant;

use anyhow::Result;
use callboard::Provider;
use load::{Opt, now_ns};

use crate::mode::Mode;
use crate::registry::{method_name, some_host};

/// What all provide where they share nothing out.
pub const METHOD: &str = "shared";

pub async fn run(opt: Opt) -> Result<()> {
    let begun = Instant::now();
    let (address, methods) = (super::address(&opt), Mode::of(&opt).value("methods", 0)?);
    let providers = super::make(opt.conns, |index| {
        let names = names(index, opt.conns, methods);
        let address = address.clone();
        async move { Ok(Provider::connect(address).await?.announce(names, some_host(index)?).await?) }
    });
    let providers = providers.await?;
    super::tell_ready(begun)?;
    let told = super::commands().recv().await;
    let lost = providers.iter().filter(|provider| provider.is_closed()).count();
    super::tell(&serde_json::json!({ "held": providers.len(), "lost": lost, "gone_ns": now_ns() }))?;
    if told.is_some() {
        // All connections end at once and without a farewell, as when a machine goes down.
        std::process::exit(0);
    }
    Ok(())
}

/// What the provider of this index announces.
fn names(index: usize, providers: usize, methods: usize) -> Vec<String> {
    if methods == 0 {
        return vec![METHOD.to_owned()];
    }
    (index * methods / providers..(index + 1) * methods / providers).map(method_name).collect()
}
