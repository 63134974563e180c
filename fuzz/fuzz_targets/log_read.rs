//! `cargo +nightly fuzz run log_read`: see ../bodies/log_read.rs.
#![no_main]

#[path = "../bodies/log_read.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
