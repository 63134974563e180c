//! Processes that somebody stops before they have executed their command: nobody waits for them for ever.

use serde_json::json;

use crate::harness::bundle::{Engine, bundle, choose_cgroup, config};
use crate::harness::{Podrun, busybox, number, process};
use crate::keeper::freeze;

const STOPPED: &str = "was stopped";

#[test]
fn what_was_stopped_before_its_command_is_ended_and_that_is_told() {
    let podrun = Podrun::new();
    // Inside, before it joins the user: anybody there could do that.
    podrun.run_detached("exec", &busybox(), ["sleep", "1000"]);
    let shim = podrun.shim_pid("exec");
    let pid = shim.to_string();
    let inject =
        ["-f", "-e", "trace=setsid", "-e", "inject=setsid:signal=SIGSTOP", "-o", "trace", "-p", &pid];
    let strace = podrun.program("strace", inject).spawn();
    while process::status_field(shim, "TracerPid").as_deref() != Some(&strace.pid().to_string()) {
        std::thread::yield_now();
    }
    let exec = podrun.cmd(["exec", "exec", "--", "true"]).spawn();
    // At its gate.
    podrun.cmd(["create", "start", "--rootfs", &busybox(), "--", "true"]).prints("start\n");
    freeze(podrun.pid("start"));
    let start = podrun.cmd(["start", "start"]).spawn();
    let engine = Engine::create(&podrun, "oci", &config(&busybox(), &["true"]));
    freeze(engine.pid);
    let oci = podrun.cmd(["start", "oci"]).spawn();
    // Init itself waits, for a hook.
    let mut hooked = config(&busybox(), &["true"]);
    let stops = ["sh", "-c", "kill -STOP $$"];
    hooked["hooks"] = json!({"createContainer": [{"path": "/bin/sh", "args": stops}]});
    choose_cgroup(&podrun, "hook", &mut hooked);
    let dir = bundle(&podrun.dir().join("hooked"), &hooked);
    let hook = podrun.cmd(["create", "--bundle", dir.to_str().expect("UTF-8"), "hook"]).spawn();

    exec.finish().is_a_failure(125, STOPPED);
    strace.kill();
    let left: Vec<i32> =
        serde_json::from_str(&podrun.cmd(["ps", "exec", "--format", "json"]).ok()).expect("JSON");
    assert_eq!(left, [podrun.pid("exec")]);
    start.finish().is_a_failure(1, STOPPED);
    let state = podrun.state("start");
    assert_eq!((&state["status"], number(&state["exitCode"])), (&"stopped".into(), 125), "{state}");
    oci.finish().is_a_failure(1, STOPPED);
    assert_eq!(engine.wait().signal, Some(9));
    assert_eq!(podrun.status("oci"), "stopped");
    hook.finish().is_a_failure(1, STOPPED);
    podrun.cmd(["state", "hook"]).fails(1, "does not exist");
}
