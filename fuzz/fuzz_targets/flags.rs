//! `cargo +nightly fuzz run flags`: see ../bodies/flags.rs.
#![no_main]

#[path = "../bodies/flags.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
