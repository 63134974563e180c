//! Where a container's cgroup is, and a container that has none.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::bundle::{Engine, config};
use crate::harness::leaks::cgroup2_mount;
use crate::harness::{Podrun, busybox, process};

#[test]
fn a_parent_of_ones_own_holds_the_container_and_nothing_of_podrun_is_left_in_it() {
    let podrun = Podrun::new();
    let name = podrun.cgroup().file_name().expect("a name").to_str().expect("UTF-8").to_owned();
    let parent = format!("/parent-of-{name}");
    let top = cgroup2_mount().join(&parent[1..]);
    for created in [&["run", "-d"][..], &["create"]] {
        let args = ["c", "--rootfs", &busybox(), "--cgroup-parent", &parent, "--", "sleep", "1000"];
        podrun.cmd(created.iter().chain(&args)).prints("c\n");
        let place = top.join(&name).join("ctr-c");
        assert_eq!(podrun.state("c")["cgroupPath"], json!(place));
        assert_eq!(process::cgroup(podrun.pid("c")), format!("{parent}/{name}/ctr-c"));
        // A start of the same container is in the same place.
        podrun.cmd(["restart", "c", "-t", "0"]).prints("c\n");
        assert_eq!(process::cgroup(podrun.pid("c")), format!("{parent}/{name}/ctr-c"));
        podrun.cmd(["delete", "-f", "c"]).prints("c\n");
        assert!(top.exists() && !top.join(&name).exists());
    }
    std::fs::remove_dir(&top).expect("nothing is in it");
    for wrong in ["", "/a/../b"] {
        let args = ["run", "c", "--rootfs", &busybox(), "--cgroup-parent", wrong, "--", "true"];
        podrun.cmd(args).fails(125, "--cgroup-parent");
    }
}

#[test]
fn without_a_cgroup_all_ends_with_init_and_what_needs_one_is_refused() {
    let podrun = Podrun::new();
    let disabled = ["--cgroup-manager", "disabled"];
    let run = |args: &[&str]| podrun.cmd(disabled.iter().chain(args));
    let script = "trap 'exit 4' TERM; sleep 1000 & echo ready; while :; do sleep 0.01; done";
    run(&["run", "-d", "c", "--rootfs", &busybox(), "--", "sh", "-c", script]).prints("c\n");
    podrun.says("c", "ready");
    assert_eq!(podrun.state("c")["cgroupPath"], "");
    assert!(!podrun.cgroup().join("ctr-c").exists());
    podrun.cmd(["exec", "c", "sh", "-c", "echo in; exit 3"]).run().expect(3);
    podrun.cmd(["exec", "-d", "c", "sleep", "1000"]).exits(0);
    for refused in [
        &["pause", "c"][..],
        &["update", "c", "--pids-limit", "5"],
        &["kill", "--all", "c", "USR1"],
        &["ps", "c"],
        &["stats", "--no-stream", "c"],
    ] {
        podrun.cmd(refused).fails(1, "no cgroup");
    }
    podrun.cmd(["stop", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("4\n");
    // It stays one without, whoever starts it again.
    podrun.cmd(["start", "c"]).prints("c\n");
    assert!(!podrun.cgroup().join("ctr-c").exists());
    podrun.cmd(["kill", "--all", "c", "KILL"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("137\n");
    let limited = ["run", "d", "--rootfs", &busybox(), "--pids-limit", "5", "--", "true"];
    run(&limited).fails(125, "the limit pids.max needs a cgroup");
    let shared = ["run", "d", "--rootfs", &busybox(), "--pid", "host", "--", "true"];
    run(&shared).fails(125, "without a pid namespace of its own");
}

#[test]
fn an_engine_may_have_a_container_without_a_cgroup() {
    let podrun = Podrun::new();
    let script = r#"exec podrun --cgroup-manager disabled "$@""#;
    let engine = Engine::create_by(&podrun, "c", &config(&busybox(), &["sleep", "1000"]), script);
    podrun.cmd(["start", "c"]).exits(0);
    assert!(!podrun.cgroup().join("ctr-c").exists());
    podrun.cmd(["exec", "c", "echo", "in"]).prints("in\n");
    podrun.cmd(["kill", "--all", "c", "KILL"]).exits(0);
    assert_eq!(engine.wait().signal, Some(9));
}

#[test]
fn a_container_starts_in_a_cgroup_that_has_its_device_program_already() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "100000"]);
    let (program, path) = (device_program(&podrun, "c"), podrun.state("c")["cgroupPath"].clone());
    // It dies with all who could have removed its cgroup, and was one of another boot.
    podrun.reboot(&["c"]);
    assert!(Path::new(path.as_str().expect("a path")).exists());
    podrun.cmd(["start", "c"]).prints("c\n");
    assert_eq!((device_program(&podrun, "c"), &podrun.state("c")["cgroupPath"]), (program, &path));
    podrun.cmd(["exec", "c", "sh", "-c", "echo in >/dev/null && echo in"]).prints("in\n");
}

#[test]
fn however_many_cgroups_are_below_it_a_container_is_signalled_with_few_descriptors() {
    let podrun = Podrun::new();
    let script = "trap \"wait; exit 6\" USR1; sleep 100000 & echo ready; wait";
    let run = format!("ulimit -S -n 70; podrun run -d c --rootfs {} -- sh -c '{script}'", busybox());
    podrun.sh(&run).prints("c\n");
    podrun.says("c", "ready");
    let top = PathBuf::from(podrun.state("c")["cgroupPath"].as_str().expect("a path"));
    let procs = podrun.cgroup_file("c", "cgroup.procs").expect("a list");
    let init = podrun.pid("c").to_string();
    let child = procs.lines().find(|pid| *pid != init).expect("a child");
    for number in 0..100 {
        std::fs::create_dir(top.join(format!("beside-{number}"))).expect("make a cgroup");
    }
    let deepest = (0..100).fold(top, |above, _| {
        std::fs::create_dir(above.join("below")).expect("make a cgroup");
        above.join("below")
    });
    std::fs::write(deepest.join("cgroup.procs"), child).expect("move a process");
    // The trap is over once the child has got the signal as well.
    podrun.cmd(["kill", "--all", "c", "USR1"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("6\n");
    podrun.cmd(["delete", "c"]).prints("c\n");
}

/// The kernel's number of the device program that a cgroup has.
fn device_program(podrun: &Podrun, id: &str) -> Option<u32> {
    let path = podrun.state(id)["cgroupPath"].as_str().expect("a path").to_owned();
    let cgroup = std::fs::File::open(path).expect("the cgroup");
    let program = podrun::sys::bpf::device_program(cgroup.as_fd()).expect("ask").expect("a program");
    podrun::sys::bpf::program_id(program.as_fd())
}

#[test]
fn containers_with_the_usual_devices_share_one_program_and_an_update_parts_them() {
    let podrun = Podrun::new();
    for id in ["a", "b"] {
        podrun.run_detached(id, &busybox(), ["sleep", "1000"]);
    }
    let args = ["run", "c", "-d", "--device", "/dev/null:/dev/other", "--rootfs", &busybox(), "--"];
    podrun.cmd(args.into_iter().chain(["sleep", "1000"])).prints("c\n");
    let shared = device_program(&podrun, "a");
    assert!(shared.is_some());
    assert_eq!(device_program(&podrun, "b"), shared);
    assert_ne!(device_program(&podrun, "c"), shared);
    // It outlives those who have it.
    for id in ["a", "c"] {
        podrun.cmd(["delete", "-f", id]).prints(&format!("{id}\n"));
    }
    podrun.cmd(["create", "d", "--rootfs", &busybox(), "--", "sleep", "1000"]).prints("d\n");
    assert_eq!(device_program(&podrun, "d"), shared);
    let every = json!({"devices": [{"allow": true, "access": "rwm"}]}).to_string();
    podrun.cmd(["update", "d", "--resources", "-"]).stdin(every).exits(0);
    assert_ne!(device_program(&podrun, "d"), shared);
    assert_eq!(device_program(&podrun, "b"), shared);
}
