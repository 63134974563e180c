//! `cargo +nightly fuzz run spec`: see ../bodies/spec.rs.
#![no_main]

#[path = "../bodies/spec.rs"]
mod body;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
