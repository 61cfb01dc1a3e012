//! `--conns` connections that hold a session, `--mode from=ADDRESS` from an address of this machine.
use std::time::Instant;

use anyhow::Result;
use load::Opt;

use crate::idle;
use crate::mode::Mode;

pub async fn run(opt: Opt) -> Result<()> {
    let begun = Instant::now();
    let held = idle::open_from(&opt, opt.conns, Mode::of(&opt).text("from").unwrap_or("127.0.0.1")).await?;
    super::tell_ready(begun)?;
    super::told_to_end().await;
    super::tell(&serde_json::json!({ "held": held.len(), "lost": idle::lost(&held) }))
}
