//! A process on its way into a container.

use super::image;
use crate::harness::{Podrun, busybox, process, rounds};

/// CVE-2016-9962: a process inside, root with the usual capabilities, waits for each one that joins and,
/// until that executes, tries to read its program, root and descriptors, and to trace it.
#[test]
fn a_joining_process_cannot_be_looked_into_campaign() {
    joined_under_the_eyes_of(&[], &["/joiner"]);
}

/// The same with CAP_SYS_PTRACE, to which a process that is not dumpable is no secret: then nobody may be there
/// to be seen before he is what he will be, and traced he gives away no right beyond the tracer's own.
#[test]
fn nor_by_who_may_trace_everybody_campaign() {
    joined_under_the_eyes_of(&["--cap-add", "SYS_PTRACE"], &["/joiner", "may trace"]);
}

#[track_caller]
fn joined_under_the_eyes_of(options: &[&str], joiner: &[&str]) {
    let podrun = Podrun::new();
    let image = image(&podrun, &["joiner"]);
    let args = ["run", "-d", "c", "--rootfs", image.to_str().expect("a path in UTF-8")];
    podrun.cmd(args.iter().chain(options).chain(&["--"]).chain(joiner)).prints("c\n");
    podrun.says("c", "ready");
    for round in 0..rounds(1000) {
        match round % 4 {
            0 => podrun.cmd(["exec", "-t", "c", "--", "true"]).exits(0),
            1 => podrun.cmd(["exec", "-u", "1000", "c", "--", "true"]).exits(0),
            _ => podrun.cmd(["exec", "c", "--", "true"]).exits(0),
        }
    }
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("137\n");
    let said = podrun.cmd(["logs", "c"]).ok();
    assert!(said.contains("seen "), "it saw nobody");
    assert!(!said.contains("HIT"), "{said}");
}

/// The same from another container of a shared pid namespace, of which the one that is joined knows nothing.
#[test]
fn nor_by_who_may_trace_in_a_shared_pid_namespace_campaign() {
    let podrun = Podrun::new();
    podrun.run_detached("pod", &busybox(), ["sleep", "100000"]);
    let shared = format!("ns:/proc/{}/ns/pid", podrun.pid("pod"));
    // One root for all: the container's own files are no news to who may trace it.
    let image = image(&podrun, &["joiner"]);
    let image = image.to_str().expect("a path in UTF-8");
    let joined = ["--pid", &shared, "--rootfs", image, "--", "sleep", "100000"];
    podrun.cmd(["run", "-d", "c"].into_iter().chain(joined)).prints("c\n");
    // One that waits to be started has what its command will have.
    podrun.cmd(["create", "later"].into_iter().chain(joined)).prints("later\n");
    let status = |field: &str| process::status_field(podrun.pid("later"), field);
    assert_eq!(status("Seccomp").as_deref(), Some("2"));
    assert_eq!(status("CapEff"), process::status_field(podrun.pid("c"), "CapEff"));
    podrun.cmd(["start", "later"]).prints("later\n");
    let attacker =
        ["--pid", &shared, "--cap-add", "SYS_PTRACE", "--rootfs", image, "--", "/joiner", "may trace"];
    podrun.cmd(["run", "-d", "attacker"].into_iter().chain(attacker)).prints("attacker\n");
    podrun.says("attacker", "ready");
    for round in 0..rounds(600) {
        match round % 3 {
            0 => podrun.cmd(["exec", "-t", "c", "--", "true"]).exits(0),
            1 => podrun.cmd(["exec", "-u", "1000", "c", "--", "true"]).exits(0),
            _ => podrun.cmd(["exec", "c", "--", "true"]).exits(0),
        }
    }
    podrun.cmd(["kill", "attacker", "KILL"]).exits(0);
    podrun.cmd(["wait", "attacker"]).prints("137\n");
    let said = podrun.cmd(["logs", "attacker"]).ok();
    assert!(said.contains("seen "), "it saw nobody");
    assert!(!said.contains("HIT"), "{said}");
}
