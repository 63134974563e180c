//! `cargo +nightly fuzz run frames`: see ../bodies/frames.rs.
#![no_main]

#[path = "../bodies/frames.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
