//! `--timeout`: a command that runs for too long is killed, whatever became of the shims meanwhile.

use serde_json::Value;

use crate::harness::{Podrun, busybox};

fn assert_timed_out(podrun: &Podrun, id: &str) {
    let record: Value = serde_json::from_str(&podrun.cmd(["wait", "--json", id]).ok()).expect("JSON");
    assert_eq!((&record["exitCode"], &record["exitSignal"]), (&137.into(), &9.into()), "{record}");
    assert_eq!(record["oomKilled"], false);
    let reason = "killed: it had run for its --timeout of 1 s";
    assert_eq!(record["reason"], reason);
    podrun.settle();
    let state = podrun.state(id);
    assert_eq!((&state["status"], &state["reason"]), (&"stopped".into(), &reason.into()));
}

#[test]
fn a_command_that_runs_for_too_long_is_killed_and_the_record_says_why() {
    let podrun = Podrun::new();
    // The one that only sleeps hears nothing, the other one everything.
    let deaf = podrun.cmd(["run", "deaf", "--timeout", "1", "--rootfs", &busybox(), "--", "sleep", "1000"]);
    let script = "trap '' TERM; echo ready; while :; do sleep 0.1; done";
    let args = ["run", "c", "--timeout", "1", "--rootfs", &busybox(), "--", "sh", "-c", script];
    let (deaf, ran) = (deaf.spawn(), podrun.cmd(args).run());
    assert_eq!((ran.code, ran.out().as_str()), (Some(137), "ready\n"), "{ran}");
    assert_eq!(deaf.finish().code, Some(137));
    assert_timed_out(&podrun, "c");
    assert_timed_out(&podrun, "deaf");
}

#[test]
fn the_time_counts_on_across_shims_and_while_it_is_paused() {
    let podrun = Podrun::new();
    for id in ["shim", "both", "paused"] {
        let args = ["run", id, "-d", "--timeout", "1", "--rootfs", &busybox(), "--", "sleep", "1000"];
        podrun.cmd(args).prints(&format!("{id}\n"));
    }
    podrun.cmd(["pause", "paused"]).prints("paused\n");
    podrun.kill_shim("shim");
    podrun.kill_shim("paused");
    podrun.lose("both");
    for id in ["shim", "both", "paused"] {
        assert_timed_out(&podrun, id);
    }
}

#[test]
fn a_command_that_ends_in_time_is_none_of_its_business() {
    let podrun = Podrun::new();
    let args = ["run", "c", "--timeout", "1000", "--rootfs", &busybox(), "--", "sh", "-c", "exit 3"];
    podrun.cmd(args).exits(3);
    assert_eq!(podrun.state("c")["reason"], Value::Null);
    podrun.cmd(["run", "d", "--timeout", "-1", "--rootfs", &busybox(), "--", "true"]).run().expect(125);
}
