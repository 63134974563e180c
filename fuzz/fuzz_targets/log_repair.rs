//! `cargo +nightly fuzz run log_repair`: see ../bodies/log_repair.rs.
#![no_main]
// Of these modules only the repair is wanted here.
#![allow(dead_code)]

#[path = "../bodies/log_repair.rs"]
mod body;
#[path = "../../supervisor/src/log/file.rs"]
mod file;
#[path = "../../supervisor/src/log/journal.rs"]
mod journal;
#[path = "../../supervisor/src/log/rotate.rs"]
mod rotate;

libfuzzer_sys::fuzz_target!(|data: &[u8]| body::check(data));
