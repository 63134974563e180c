//! `cargo +nightly fuzz run state`: see ../bodies/state.rs.
#![no_main]

#[path = "../bodies/state.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
