//! What the fuzz targets in `fuzz/` once found worth keeping, replayed: `cargo +nightly fuzz run TARGET`
//! looks for more. The corpus of `log_repair` is replayed by the shim's own unit tests.

#[path = "../../fuzz/bodies/flags.rs"]
mod flags;
#[path = "../../fuzz/bodies/frames.rs"]
mod frames;
#[path = "../../fuzz/bodies/log_read.rs"]
mod log_read;
#[path = "../../fuzz/bodies/spec.rs"]
mod spec;
#[path = "../../fuzz/bodies/state.rs"]
mod state;

fn replay(target: &str, check: fn(&[u8])) {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut count = 0;
    for entry in std::fs::read_dir(&dir).expect("a corpus") {
        let path = entry.expect("an entry").path();
        eprintln!("{}", path.display());
        check(&std::fs::read(path).expect("an input"));
        count += 1;
    }
    assert!(count > 1, "{} is empty", dir.display());
}

#[test]
fn frames_from_anybody_are_messages_or_an_error() {
    replay("frames", frames::check);
}

#[test]
fn state_files_from_anybody_are_read_or_refused() {
    replay("state", state::check);
}

#[test]
fn logs_from_anybody_are_read_to_their_end() {
    replay("log_read", log_read::check);
}

#[test]
fn configurations_from_anybody_are_planned_or_refused() {
    replay("spec", spec::check);
}

#[test]
fn values_of_flags_are_read_or_refused() {
    replay("flags", flags::check);
}
