//! Limits: in the kernel's files, felt inside, not felt outside; and what is refused.

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::harness::bundle::{Engine, config};
use crate::harness::{Podrun, busybox, has_controllers, has_limits, number, process, rounds};

#[test]
fn each_limit_is_in_the_kernels_file() {
    if !has_controllers(["memory", "pids", "cpu", "io"]) {
        return;
    }
    let podrun = Podrun::new();
    let line = "--memory 64m --memory-high 48m --memory-low 16m --memory-swap 96m --pids-limit 50 --cpus 0.5 \
                --cpu-weight 200";
    podrun.sh(&format!("podrun run -d c --rootfs $BUSYBOX {line} -- sleep 1000")).prints("c\n");
    let holds =
        |file: &str, value: &str| assert_eq!(podrun.cgroup_file("c", file).as_deref(), Some(value), "{file}");
    holds("memory.max", "67108864");
    holds("memory.high", "50331648");
    holds("memory.low", "16777216");
    holds("pids.max", "50");
    holds("cpu.max", "50000 100000");
    holds("cpu.weight", "200");
    // Where the kernel was built without swap there is nothing to limit.
    if let Some(swap) = podrun.cgroup_file("c", "memory.swap.max") {
        assert_eq!(swap, "33554432");
    }
    // The processes that join are under the same limits.
    podrun.cmd(["exec", "c", "cat", "/proc/self/cgroup"]).prints("0::/\n");
    assert_eq!(podrun.cgroup_file("c", "pids.current").as_deref(), Some("1"));
}

#[test]
fn an_engine_gets_what_a_container_uses_in_its_own_form() {
    if !has_limits(["memory", "pids"]) {
        return;
    }
    let podrun = Podrun::new();
    let line = "podrun run -d c --rootfs $BUSYBOX --memory 64m --pids-limit 50 -- sleep 1000";
    podrun.sh(line).prints("c\n");
    let stats: serde_json::Value =
        serde_json::from_str(&podrun.cmd(["events", "--stats", "c"]).ok()).expect("JSON");
    assert_eq!((&stats["type"], &stats["id"]), (&json!("stats"), &json!("c")));
    let data = &stats["data"];
    assert_eq!(data["memory"]["usage"]["limit"], 67_108_864);
    assert!(data["memory"]["usage"]["usage"].as_u64().is_some_and(|bytes| bytes > 0), "{stats}");
    assert_eq!(data["pids"], json!({"current": 1, "limit": 50}));
    assert!(data["cpu"]["usage"]["total"].as_u64().is_some_and(|nanos| nanos % 1000 == 0), "{stats}");
    podrun.cmd(["events", "--stats"]).fails(2, "--stats");
    podrun.cmd(["events", "--stats", "--interval", "0", "c"]).fails(2, "is no number of seconds");
    // Every second, until its end.
    let mut again = podrun.cmd(["events", "--stats", "--interval", "1s", "c"]).spawn();
    for _ in 0..2 {
        assert!(again.line().expect("a line").contains("\"stats\""));
    }
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    again.finish().expect(0);
    podrun.cmd(["events", "--stats", "c"]).fails(1, "container not running");
}

#[test]
fn a_limit_of_io_or_cpus_holds_or_is_refused_with_the_reason() {
    let podrun = Podrun::new();
    for (flag, value, file, controller) in
        [("--io-weight", "50", "io.weight", "io"), ("--cpuset-cpus", "0", "cpuset.cpus", "cpuset")]
    {
        let output =
            podrun.cmd(["run", "-d", "c", "--rootfs", &busybox(), flag, value, "--", "sleep", "9"]).run();
        if output.code == Some(0) {
            // As v1 they are looked at elsewhere.
            if has_controllers([controller]) {
                let held = podrun.cgroup_file("c", file).expect("the file is there");
                assert_eq!(held.trim_start_matches("default "), value);
            }
            podrun.cmd(["delete", "-f", "c"]).prints("c\n");
        } else {
            output.is_a_failure(125, file);
            assert!(output.err().contains("\nhint: "), "{output}");
        }
    }
}

#[test]
fn a_cpu_that_is_not_there_is_named() {
    if !has_limits(["cpuset"]) {
        return;
    }
    let podrun = Podrun::new();
    let args = ["run", "c", "--rootfs", &busybox(), "--cpuset-cpus", "99999", "--", "true"];
    let failed = podrun.cmd(args).fails(125, "cpuset.cpus \"99999\": names a CPU that is not there");
    assert!(failed.err().contains("hint: this host has the CPUs 0"), "{failed}");
}

#[test]
fn a_limit_that_makes_no_sense_leaves_nothing() {
    let podrun = Podrun::new();
    for (flag, value) in [
        ("--memory", "1k"),
        ("-m", "lots"),
        ("--memory", "-5"),
        ("--memory-high", "1x"),
        ("--memory-low", ""),
        ("--memory-swap", "64m"),
        ("--pids-limit", "-5"),
        ("--pids-limit", "0"),
        ("--cpus", "0"),
        ("--cpus", "0.001"),
        ("--cpus", "-1"),
        ("--cpu-weight", "0"),
        ("--cpu-weight", "10001"),
        ("--cpuset-cpus", "a"),
        ("--io-weight", "0"),
    ] {
        for command in ["create", "run"] {
            let args = [command, "c", "--rootfs", &busybox(), flag, value, "--", "true"];
            podrun.cmd(args).fails(125, &format!("{value:?}"));
        }
    }
    podrun.cmd(["list", "-q"]).prints("");
    assert!(podrun.supervisors().is_empty());
}

#[test]
fn the_resources_of_a_bundle_are_converted_from_cgroup_v1() {
    if !has_controllers(["memory", "pids", "cpu"]) {
        return;
    }
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["sleep", "1000"]);
    config["linux"]["resources"] = json!({
        "memory": {"limit": 64 << 20, "reservation": 8 << 20, "disableOOMKiller": false},
        "cpu": {"shares": 1024, "quota": 20000, "period": 50000},
        "pids": {"limit": 7},
        "unified": {"memory.high": "40000000\n", "cgroup.max.descendants": "3"},
    });
    let engine = Engine::create(&podrun, "c", &config);
    podrun.cmd(["start", "c"]).exits(0);
    for (file, value) in [
        ("memory.max", "67108864"),
        ("memory.low", "8388608"),
        ("memory.high", "39997440"),
        ("cpu.weight", "39"),
        ("cpu.max", "20000 50000"),
        ("pids.max", "7"),
        ("cgroup.max.descendants", "3"),
    ] {
        assert_eq!(podrun.cgroup_file("c", file).as_deref(), Some(value), "{file}");
    }
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    assert_eq!(engine.wait().signal, Some(9));
}

/// Opens character device 77:77 and disk 8:0 from inside. No driver has the former: where opening is
/// allowed the kernel says so.
const OPEN: &str = "mknod /dev/a c 77 77; mknod /dev/disk b 8 0; cat /dev/a /dev/disk; \
                    head -c 1 /dev/zero >/dev/null && echo usual";

fn opened(devices: serde_json::Value) -> (String, String) {
    let podrun = Podrun::new();
    let mut config = config(&busybox(), &["sh", "-c", OPEN]);
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set].as_array_mut().expect("a list").push(json!("CAP_MKNOD"));
    }
    config["linux"]["resources"] = json!({ "devices": devices });
    let engine = Engine::create(&podrun, "c", &config);
    podrun.cmd(["start", "c"]).exits(0);
    let output = engine.wait();
    (output.out(), output.err())
}

#[test]
fn a_device_can_be_made_but_not_opened_unless_it_is_allowed() {
    let (out, err) = opened(json!([{"allow": false, "access": "rwm"}]));
    assert_eq!(out, "usual\n");
    assert_eq!(err.matches("Operation not permitted").count(), 2, "{err}");
    let rule = json!({"allow": true, "type": "c", "major": 77, "minor": 77, "access": "r"});
    let (out, err) = opened(json!([{"allow": false, "access": "rwm"}, rule]));
    assert_eq!(out, "usual\n");
    assert!(err.contains("/dev/a': No such device or address"), "{err}");
    assert!(err.contains("/dev/disk': Operation not permitted"), "{err}");
}

#[test]
fn without_rules_the_usual_devices_are_all_there_are() {
    let (out, err) = opened(json!(null));
    assert_eq!((out.as_str(), err.matches("Operation not permitted").count()), ("usual\n", 2), "{err}");
    // Everything, as privileged containers have it.
    let (_, err) = opened(json!([{"allow": true, "access": "rwm"}]));
    assert!(err.contains("/dev/a': No such device or address"), "{err}");
}

/// The shim, a second container and the end of the first one are as they are without it.
#[track_caller]
fn nobody_notices(podrun: &Podrun, bomb: &str) {
    podrun.run_detached("other", &busybox(), ["sleep", "1000"]);
    assert_eq!(podrun.status(bomb), "running");
    podrun.cmd(["exec", "other", "echo", "here"]).prints("here\n");
    podrun.cmd(["run", "third", "--rm", "--rootfs", &busybox(), "--", "echo", "too"]).prints("too\n");
    podrun.cmd(["kill", bomb, "KILL"]).exits(0);
    podrun.cmd(["wait", bomb]).prints("137\n");
    assert_eq!(podrun.state(bomb)["oomKilled"], false, "podrun ended it");
    podrun.cmd(["delete", bomb]).prints(&format!("{bomb}\n"));
}

#[test]
fn a_fork_bomb_stays_inside() {
    if !has_limits(["pids"]) {
        return;
    }
    let podrun = Podrun::new();
    // It ends by being full: each shell ends when it cannot fork, what it has forked stays asleep.
    let bomb =
        "boom() { while :; do sleep 1000 & boom & done; }; echo ready; boom 2>/dev/null & exec sleep 1000";
    let args = ["run", "-d", "bomb", "--rootfs", &busybox(), "--pids-limit", "50", "--", "sh", "-c", bomb];
    podrun.cmd(args).prints("bomb\n");
    podrun.says("bomb", "ready");
    let file = |name| podrun.cgroup_file("bomb", name).or_else(|| podrun.v1_file("bomb", name)).expect(name);
    while file("pids.events") == "max 0" {
        std::thread::yield_now();
    }
    let count: u64 = file("pids.current").parse().expect("a number");
    assert!(count <= 50, "{count}");
    // A process more is told so, or finds a place that has just become free.
    let exec = podrun.cmd(["exec", "bomb", "echo", "in"]).run();
    assert!(exec.code == Some(0) || exec.err().contains("hint: it has as many processes"), "{exec}");
    nobody_notices(&podrun, "bomb");
}

#[test]
fn a_memory_bomb_stays_inside() {
    if !has_limits(["memory"]) {
        return;
    }
    let podrun = Podrun::new();
    // Its children are killed again and again, itself never.
    let bomb = "echo ready; while :; do tail /dev/zero; done";
    let args = ["run", "-d", "bomb", "--rootfs", &busybox(), "--memory", "64m", "--", "sh", "-c", bomb];
    podrun.cmd(args).prints("bomb\n");
    podrun.says("bomb", "ready");
    while podrun.oom_kills("bomb").expect("a count") == 0 {
        std::thread::yield_now();
    }
    podrun.cmd(["exec", "bomb", "echo", "in"]).prints("in\n");
    nobody_notices(&podrun, "bomb");
}

#[test]
fn an_oom_kill_is_told_from_every_other_kill_campaign() {
    if !has_limits(["memory"]) {
        return;
    }
    let podrun = Podrun::new();
    let memory = ["--memory", "16m", "--memory-swap", "16m"];
    for round in 0..rounds(100) {
        let (id, other) = (format!("oom{round}"), format!("kill{round}"));
        // Half of them under an init of podrun's own, which tells how its child ended.
        let init = if round % 2 == 0 { &["--init"][..] } else { &[] };
        let args = ["run", &id, "--rootfs", &busybox()];
        let output =
            podrun.cmd(args.iter().chain(&memory).chain(init).chain(&["--", "tail", "/dev/zero"])).run();
        output.expect(137);
        let state = podrun.state(&id);
        assert_eq!((&state["oomKilled"], number(&state["exitSignal"])), (&json!(true), 9), "{state}");

        let args = ["run", "-d", &other, "--rootfs", &busybox()];
        podrun.cmd(args.iter().chain(&memory).chain(&["--", "sleep", "1000"])).prints(&format!("{other}\n"));
        let pid = podrun.pid(&other);
        kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL).expect("kill init");
        podrun.cmd(["wait", &other]).prints("137\n");
        assert_eq!(podrun.state(&other)["oomKilled"], false);
        podrun.cmd(["delete", &id, &other]).prints(&format!("{id}\n{other}\n"));
    }
}

#[test]
fn an_oom_kill_of_a_child_is_counted_and_is_not_the_containers_end() {
    if !has_limits(["memory"]) {
        return;
    }
    let podrun = Podrun::new();
    let script = "tail /dev/zero; echo $?; exit 3";
    let args = ["run", "c", "--rootfs", &busybox(), "-m", "16m", "--", "sh", "-c", script];
    let output = podrun.cmd(args).run();
    assert_eq!((output.code, output.out().as_str()), (Some(3), "137\n"), "{output}");
    let record: serde_json::Value =
        serde_json::from_str(&podrun.cmd(["wait", "--json", "c"]).ok()).expect("JSON");
    assert_eq!((&record["oomKilled"], number(&record["oomKills"])), (&json!(false), 1), "{record}");
    assert!(record["memoryPeak"].is_null() || number(&record["memoryPeak"]) <= 16 << 20, "{record}");
}

#[test]
fn cgroups_that_the_container_made_go_with_it() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sh", "-c", "sleep 1000 & sleep 1000 & wait"]);
    let path = std::path::PathBuf::from(podrun.state("c")["cgroupPath"].as_str().expect("a path"));
    let deep = path.join("a/b/c");
    std::fs::create_dir_all(&deep).expect("make cgroups");
    std::fs::create_dir(path.join("threaded")).expect("make a cgroup");
    let ps = || -> Vec<i32> {
        serde_json::from_str(&podrun.cmd(["ps", "c", "--format", "json"]).ok()).expect("JSON")
    };
    let moved = loop {
        match ps().into_iter().find(|pid| process::parent(*pid) == podrun.pid("c")) {
            Some(child) => break child,
            None => std::thread::yield_now(),
        }
    };
    std::fs::write(deep.join("cgroup.procs"), moved.to_string()).expect("move a process");
    assert!(ps().contains(&moved));
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
    assert!(!path.exists());
}
