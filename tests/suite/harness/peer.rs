//! Another OCI runtime in podrun's place: a scenario that passes with it, too, shows what a field means and not only
//! what podrun makes of it.
//!
//! ```text
//!  PODRUN_TEST_PEER=crun ──▶ Podrun::new() ── cmd, sh, Engine ──▶ DIR/peer/podrun ──▶ crun --root DIR/peer/state …
//! ```
//!
//! Only the OCI operations are asked of it. What it says of its failures is its own: `fails` and `is_a_failure` then
//! look for nothing but a failure. `crate::peers` has the list of scenarios.

use std::path::{Path, PathBuf};

use super::executable;

/// The runtime that is asked instead of podrun, where one is.
pub(crate) fn peer() -> Option<String> {
    std::env::var("PODRUN_TEST_PEER").ok()
}

/// A program named `podrun` below `dir` that is this runtime.
#[track_caller]
pub(crate) fn program(dir: &Path, peer: &str) -> PathBuf {
    let place = dir.join("peer");
    std::fs::create_dir(&place).expect("a directory for the peer");
    let program = place.join("podrun");
    // The word that ends podrun's options would be a command to it.
    let script = format!(
        r#"#!/bin/sh
count=$# ended=
while [ $count -gt 0 ]; do
    word=$1 count=$((count - 1))
    shift
    if [ "$word" = -- ] && [ -z "$ended" ]; then ended=yes; else set -- "$@" "$word"; fi
done
exec '{peer}' --root '{}' "$@"
"#,
        place.join("state").display()
    );
    executable(&program, script);
    program
}
