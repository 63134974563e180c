//! A process on its way into a container.

use super::image;
use crate::harness::{Podrun, rounds};

/// CVE-2016-9962: a process inside, root with the usual capabilities, waits for each one that joins and,
/// until that executes, tries to read its program, root and descriptors, and to trace it.
#[test]
fn a_joining_process_cannot_be_looked_into_campaign() {
    let podrun = Podrun::new();
    let image = image(&podrun, &["joiner"]);
    podrun.run_detached("c", image.to_str().expect("a path in UTF-8"), ["/joiner"]);
    podrun.says("c", "ready");
    for _ in 0..rounds(1000) {
        podrun.cmd(["exec", "c", "--", "true"]).exits(0);
    }
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("137\n");
    let said = podrun.cmd(["logs", "c"]).ok();
    assert!(said.contains("seen "), "it saw nobody");
    assert!(!said.contains("HIT"), "{said}");
}
