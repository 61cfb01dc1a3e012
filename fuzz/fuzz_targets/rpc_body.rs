#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| callboard_checks::check_rpc_body(data));
