//! Every job that `etc/peers.toml` gives this driver, over every transport that it names.
use std::path::Path;

#[test]
fn every_job_is_done_over_every_transport() {
    let driver = Path::new(env!("CARGO_BIN_EXE_peer-callboard"));
    let failed = callboard_bench::trial("peer-callboard", driver).unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}
