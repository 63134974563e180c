//! Limits where the host has bound their controllers to cgroup v1: as engines find and as users feel them.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::harness::bundle::{Engine, config};
use crate::harness::{Podrun, busybox, has_controllers, has_limits, number};

/// Where v1 has them, and v2 has not.
fn is_hybrid() -> bool {
    has_limits(["memory", "pids", "cpu", "cpuset", "io"]) && !has_controllers(["memory"])
}

#[track_caller]
fn holds(podrun: &Podrun, files: &[(&str, &str)]) {
    for (file, value) in files {
        assert_eq!(podrun.v1_file("c", file).as_deref(), Some(*value), "{file}");
    }
}

#[test]
fn each_limit_is_in_its_hierarchy_and_holds_for_all_inside() {
    if !is_hybrid() {
        return;
    }
    let podrun = Podrun::new();
    let line = "--memory 64m --memory-swap 96m --pids-limit 50 --cpus 0.5 --cpu-weight 200 --cpuset-cpus 0";
    podrun.sh(&format!("podrun run -d c --rootfs $BUSYBOX {line} -- sleep 1000")).prints("c\n");
    holds(
        &podrun,
        &[
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "100663296"),
            ("pids.max", "50"),
            ("pids.current", "1"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.shares", "5220"),
            ("cpuset.cpus", "0"),
        ],
    );
    // Its own place is the top of what it sees, for the processes that join, too.
    let seen = podrun.cmd(["exec", "c", "cat", "/proc/self/cgroup"]).ok();
    for controller in ["memory", "pids", "cpu", "cpuset"] {
        assert!(seen.lines().any(|line| line.ends_with(&format!(":{controller}:/"))), "{controller}: {seen}");
    }
    let stats: Value =
        serde_json::from_str(&podrun.cmd(["stats", "--no-stream", "--format", "json", "c"]).ok())
            .expect("JSON");
    assert_eq!((number(&stats[0]["memoryLimit"]), number(&stats[0]["pidsLimit"])), (64 << 20, 50), "{stats}");
    assert!(number(&stats[0]["memory"]) > 0 && number(&stats[0]["pids"]) == 1, "{stats}");
}

#[test]
fn without_a_limit_nothing_is_made_and_what_v1_lacks_is_refused() {
    if !is_hybrid() {
        return;
    }
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    for file in ["memory.limit_in_bytes", "pids.max", "cpu.shares", "cpuset.cpus"] {
        assert_eq!(podrun.v1_file("c", file), None);
    }
    for flag in ["--memory-high", "--memory-low"] {
        let output = podrun
            .cmd(["run", "other", "--rootfs", &busybox(), flag, "64m", "--", "true"])
            .fails(125, "the memory controller is bound to cgroup v1, which has nothing like it");
        assert!(output.err().contains("hint: boot with "), "{output}");
    }
    podrun.cmd(["list", "-q"]).prints("c\n");
}

#[test]
fn an_update_moves_what_runs_under_its_limits_in_whatever_order_they_have_to_change() {
    if !is_hybrid() {
        return;
    }
    let podrun = Podrun::new();
    podrun.run_script("c", "sleep 1000 & sleep 1000 & echo ready; wait");
    podrun.says("c", "ready");
    podrun.cmd(["update", "c", "--pids-limit", "40"]).exits(0);
    holds(&podrun, &[("pids.max", "40"), ("pids.current", "3")]);
    for (memory, swap) in [("64m", "64m"), ("256m", "512m"), ("32m", "32m"), ("48m", "-1")] {
        podrun.cmd(["update", "c", "--memory", memory, "--memory-swap", swap]).exits(0);
        let bytes = format!("{}", memory.trim_end_matches('m').parse::<u64>().expect("a number") << 20);
        holds(&podrun, &[("memory.limit_in_bytes", &bytes)]);
    }
    podrun.cmd(["restart", "c", "-t", "0"]).prints("c\n");
    podrun.says("c", "ready");
    holds(&podrun, &[("pids.max", "40"), ("memory.limit_in_bytes", "50331648"), ("pids.current", "3")]);
}

#[test]
fn a_bundles_resources_are_its_own_fields() {
    if !is_hybrid() {
        return;
    }
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["sleep", "1000"]);
    config["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "swap": 128 << 20, "reservation": 8 << 20, "swappiness": 7,
                   "disableOOMKiller": true},
        "cpu": {"shares": 1000, "quota": 20000, "period": 50000, "cpus": "0"},
        "pids": {"limit": 7}, "blockIO": {"weight": 300},
    });
    let engine = Engine::create(&podrun, "c", &config);
    podrun.cmd(["start", "c"]).exits(0);
    holds(
        &podrun,
        &[
            ("memory.limit_in_bytes", "67108864"),
            ("memory.memsw.limit_in_bytes", "134217728"),
            ("memory.soft_limit_in_bytes", "8388608"),
            ("memory.swappiness", "7"),
            ("cpu.shares", "1000"),
            ("cpu.cfs_quota_us", "20000"),
            ("cpu.cfs_period_us", "50000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "7"),
            ("pids.current", "1"),
        ],
    );
    assert!(podrun.v1_file("c", "memory.oom_control").expect("a file").starts_with("oom_kill_disable 1"));
    // Without a limit of its own, this is where an engine looks for what it has used.
    assert!(podrun.v1_file("c", "cpuacct.usage").is_some());
    podrun.cmd(["exec", "c", "true"]).exits(0);
    podrun.cmd(["update", "c", "--pids-limit", "9"]).exits(0);
    holds(&podrun, &[("pids.max", "9")]);
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    assert_eq!(engine.wait().signal, Some(9));
}

#[test]
fn nothing_is_left_of_it_where_everybody_was_killed() {
    if !is_hybrid() {
        return;
    }
    let podrun = Podrun::new();
    let args =
        ["run", "-d", "c", "--rootfs", &busybox(), "-m", "64m", "--pids-limit", "9", "--", "sleep", "1000"];
    podrun.cmd(args).prints("c\n");
    let init = podrun.pid("c");
    for pid in podrun.supervisors().into_iter().chain([init]) {
        let _ = kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL);
    }
    podrun.settle();
    // The scenario's end looks for what is left.
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
}
