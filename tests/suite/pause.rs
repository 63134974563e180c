//! Pausing, changed limits, and what is used: against the kernel's own files.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::bundle::{Engine, config};
use crate::harness::{Podrun, busybox, has_controllers, process};

/// A container that counts in its log as fast as it can.
fn counting(podrun: &Podrun, id: &str) {
    podrun.run_script(id, "trap 'echo asked; exit 5' TERM; echo ready; while :; do :; done");
}

fn frozen(podrun: &Podrun, id: &str) -> bool {
    podrun.cgroup_file(id, "cgroup.events").expect("cgroup.events").contains("frozen 1")
}

#[test]
fn a_paused_container_stands_still_until_it_is_resumed() {
    let podrun = Podrun::new();
    counting(&podrun, "c");
    podrun.cmd(["pause", "c"]).prints("c\n");
    assert_eq!((podrun.status("c").as_str(), frozen(&podrun, "c")), ("paused", true));
    podrun.cmd(["pause", "c"]).prints("c\n");
    let used = || podrun.cgroup_file("c", "cpu.stat").expect("cpu.stat");
    assert_eq!(used(), used(), "CPU time passes while it is paused");
    let exec = podrun.cmd(["exec", "c", "true"]).fails(125, "is paused");
    assert!(exec.err().contains("hint: `podrun resume c` first"), "{exec}");
    podrun.cmd(["delete", "c"]).fails(1, "is running");
    podrun.cmd(["resume", "c"]).prints("c\n");
    assert_eq!((podrun.status("c").as_str(), frozen(&podrun, "c")), ("running", false));
    podrun.cmd(["exec", "c", "echo", "in"]).prints("in\n");
    podrun.cmd(["unpause", "c"]).fails(1, "is not paused");
}

#[test]
fn a_paused_container_can_be_killed_stopped_and_deleted() {
    let podrun = Podrun::new();
    for id in ["killed", "stopped", "deleted"] {
        counting(&podrun, id);
        podrun.cmd(["pause", id]).prints(&format!("{id}\n"));
    }
    podrun.cmd(["kill", "killed", "KILL"]).exits(0);
    podrun.cmd(["wait", "killed"]).prints("137\n");
    // It goes on, to hear what it is asked.
    podrun.cmd(["stop", "stopped"]).prints("stopped\n");
    podrun.cmd(["wait", "stopped"]).prints("5\n");
    podrun.cmd(["delete", "-f", "deleted"]).prints("deleted\n");
    podrun.cmd(["pause", "killed"]).fails(1, "container not running");
    podrun.cmd(["pause", "nobody"]).fails(1, "does not exist");
}

#[test]
fn a_shim_that_takes_over_finds_the_container_paused() {
    let podrun = Podrun::new();
    counting(&podrun, "c");
    podrun.cmd(["pause", "c"]).prints("c\n");
    let shim = podrun.shim_pid("c");
    kill_process(Pid::from_raw(shim).expect("a pid"), Signal::KILL).expect("kill the shim");
    podrun.cmd(["exec", "c", "true"]).fails(125, "is paused");
    assert!(frozen(&podrun, "c"));
    // Nor does it matter where nobody is left.
    for pid in podrun.supervisors() {
        process::send(pid, Signal::KILL);
    }
    podrun.settle();
    assert!(frozen(&podrun, "c"));
    podrun.cmd(["resume", "c"]).prints("c\n");
    podrun.cmd(["exec", "c", "echo", "in"]).prints("in\n");
}

#[test]
fn a_container_without_a_shim_is_paused_too() {
    let podrun = Podrun::new();
    let engine = Engine::create(&podrun, "c", &config(&busybox(), &["sleep", "1000"]));
    podrun.cmd(["start", "c"]).exits(0);
    podrun.cmd(["pause", "c"]).prints("c\n");
    assert_eq!((podrun.status("c").as_str(), frozen(&podrun, "c")), ("paused", true));
    podrun.cmd(["resume", "c"]).prints("c\n");
    assert_eq!((podrun.status("c").as_str(), frozen(&podrun, "c")), ("running", false));
    podrun.cmd(["pause", "c"]).prints("c\n");
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    assert_eq!(engine.wait().signal, Some(9));
}

#[test]
fn an_update_takes_effect_and_outlives_a_restart() {
    if !has_controllers(["memory", "pids", "cpu"]) {
        return;
    }
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let holds =
        |file: &str, value: &str| assert_eq!(podrun.cgroup_file("c", file).as_deref(), Some(value), "{file}");
    holds("pids.max", "max");
    podrun.cmd(["update", "c", "--pids-limit", "40", "--memory", "64m"]).exits(0);
    holds("pids.max", "40");
    holds("memory.max", "67108864");
    let more = json!({"cpu": {"quota": 30000}, "pids": {"limit": 41}}).to_string();
    podrun.cmd(["update", "c", "--resources", "-"]).stdin(more).exits(0);
    podrun.cmd(["restart", "c"]).prints("c\n");
    holds("cpu.max", "30000 100000");
    holds("pids.max", "41");
    holds("memory.max", "67108864");
}

#[test]
fn an_update_that_fails_half_way_is_taken_back() {
    if !has_controllers(["memory", "pids", "cpu"]) {
        return;
    }
    let podrun = Podrun::new();
    let args = ["run", "-d", "c", "--pids-limit", "30", "--cpus", "0.5", "--rootfs", &busybox()];
    podrun.cmd(args.into_iter().chain(["--", "sleep", "1000"])).prints("c\n");
    let spec = || std::fs::read(podrun.container_dir("c").join("spec.json")).expect("read spec.json");
    let before = spec();
    // Everything before the last one is something that the kernel takes.
    let more = json!({
        "memory": {"limit": 64 << 20}, "pids": {"limit": 41}, "cpu": {"quota": 30000, "shares": 512},
        "unified": {"memory.high": "no number"},
    });
    let update = podrun.cmd(["update", "c", "--resources", "-"]).stdin(more.to_string());
    update.fails(1, "memory.high");
    let holds =
        |file: &str, value: &str| assert_eq!(podrun.cgroup_file("c", file).as_deref(), Some(value), "{file}");
    holds("memory.max", "max");
    holds("pids.max", "30");
    holds("cpu.max", "50000 100000");
    holds("cpu.weight", "100");
    assert_eq!(spec(), before);
}

#[test]
fn an_update_that_cannot_be_is_refused_and_changes_nothing() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let spec = || std::fs::read(podrun.container_dir("c").join("spec.json")).expect("read spec.json");
    let before = spec();
    podrun.cmd(["update", "c"]).run().expect(2);
    podrun.cmd(["update", "c", "--memory", "1k"]).fails(2, "is less than a container can begin in");
    podrun.cmd(["update", "c", "--resources", "-"]).stdin("{").fails(2, "read -");
    podrun.cmd(["update", "c", "--resources", "/nowhere"]).fails(1, "no such file or directory");
    podrun.cmd(["update", "nobody", "--pids-limit", "5"]).fails(1, "does not exist");
    if !has_controllers(["memory"]) {
        podrun.cmd(["update", "c", "--memory-high", "64m"]).fails(1, "bound to cgroup v1");
    }
    assert_eq!(spec(), before);
}

#[test]
fn stats_agree_with_the_kernels_files() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    // What stands still changes nothing between two looks.
    podrun.cmd(["pause", "c"]).prints("c\n");
    let stats: Value =
        serde_json::from_str(&podrun.cmd(["stats", "--no-stream", "--format", "json", "c"]).ok())
            .expect("JSON");
    let file = |name: &str| podrun.cgroup_file("c", name).and_then(|text| text.parse::<u64>().ok());
    assert_eq!(stats[0]["id"], "c");
    assert_eq!(stats[0]["memory"], json!(file("memory.current")));
    assert_eq!(stats[0]["memoryLimit"], json!(file("memory.max")));
    assert_eq!(stats[0]["pids"], json!(file("pids.current")));
    let cpu = podrun.cgroup_file("c", "cpu.stat").expect("cpu.stat");
    assert!(cpu.contains(&format!("usage_usec {}\n", stats[0]["cpuUsec"])), "{cpu} {stats}");
    let table = podrun.cmd(["stats", "--no-stream"]).ok();
    assert!(table.starts_with("ID   CPU %") && table.lines().count() == 2, "{table}");
    podrun.cmd(["stats", "--no-stream", "nobody"]).fails(1, "does not exist");
    podrun.cmd(["stats", "nobody"]).fails(1, "does not exist");
    // What cannot be shown hides nothing of the rest.
    podrun.cmd(["run", "d", "--rootfs", &busybox(), "--", "true"]).exits(0);
    let output = podrun.cmd(["stats", "--no-stream", "d", "c", "nobody"]).run();
    output.expect(1);
    assert!(output.out().lines().count() == 2 && output.out().contains("\nc "), "{output}");
    assert!(
        output.err().starts_with("podrun: stats of d: container not running: it is stopped\n"),
        "{output}"
    );
    assert!(output.err().contains("podrun: container nobody: does not exist\n"), "{output}");
    podrun.cmd(["delete", "d"]).prints("d\n");
    podrun.cmd(["create", "d", "--rootfs", &busybox(), "--", "true"]).prints("d\n");
    std::fs::write(podrun.container_dir("d").join("state.json"), "{").expect("damage it");
    let output = podrun.cmd(["stats", "--no-stream"]).run();
    output.expect(1);
    assert!(output.out().contains("\nc ") && output.err().contains("containers/d/state.json"), "{output}");
    // A live one ends with its container.
    let mut live = podrun.cmd(["stats", "c"]).spawn();
    assert!(live.line().is_some_and(|line| line.starts_with("ID ")));
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
    live.finish().expect(0);
}

/// Not only podrun freezes: a container that may write its cgroup's files does, and the host.
#[test]
fn a_container_that_others_froze_is_paused_for_podrun_as_well() {
    let podrun = Podrun::new();
    counting(&podrun, "c");
    let freeze = || {
        let cgroup = podrun.state("c")["cgroupPath"].as_str().expect("a path").to_owned();
        std::fs::write(format!("{cgroup}/cgroup.freeze"), "1").expect("freeze");
        while !frozen(&podrun, "c") {
            std::thread::yield_now();
        }
    };
    freeze();
    let exec = podrun.cmd(["exec", "c", "true"]).fails(125, "is paused");
    assert!(exec.err().contains("hint: `podrun resume c` first"), "{exec}");
    podrun.cmd(["resume", "c"]).prints("c\n");
    podrun.cmd(["exec", "c", "echo", "in"]).prints("in\n");
    freeze();
    podrun.cmd(["resume", "c"]).prints("c\n");
    assert_eq!((podrun.status("c").as_str(), frozen(&podrun, "c")), ("running", false));
    freeze();
    podrun.cmd(["stop", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("5\n");
}

/// Until the process runs, there is nobody to pass a signal on to.
#[test]
fn an_exec_that_has_not_begun_ends_by_a_signal() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "100000"]);
    let shim = podrun.shim_pid("c");
    process::send(shim, Signal::STOP);
    for terminal in ["-i", "-t"] {
        let script = format!("exec podrun exec {terminal} c -- sleep 100000 </dev/null >/dev/null 2>&1");
        let exec = podrun.sh(&script).spawn();
        // From then on it catches them.
        let catches = |mask: String| u64::from_str_radix(&mask, 16).is_ok_and(|mask| mask & 1 << 14 != 0);
        while !process::status_field(exec.pid(), "SigCgt").is_some_and(catches) {
            std::thread::yield_now();
        }
        exec.signal(Signal::TERM);
        exec.finish().expect(143);
    }
    process::send(shim, Signal::CONT);
    podrun.cmd(["exec", "c", "true"]).exits(0);
    // What had been asked for was withdrawn.
    let ps = podrun.cmd(["ps", "c"]).ok();
    assert_eq!(ps.lines().count(), 2, "{ps}");
}
