//! Every job that `etc/peers.toml` gives this driver, over every transport that it names.
use std::path::Path;

#[test]
fn every_job_is_done_over_every_transport() {
    let driver = Path::new(env!("CARGO_BIN_EXE_peer-raw"));
    let failed = callboard_bench::trial("peer-raw", driver).unwrap();
    assert!(failed.is_empty(), "{failed:#?}");
}
