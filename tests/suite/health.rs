//! `--health-cmd`: whether a container does its work, and what is done where it does not.

use serde_json::Value;

use crate::harness::process::status_field;
use crate::harness::{Podrun, busybox, hang_limit, in_guest, number, overlay};

impl Podrun {
    /// A container that sleeps until it is told to stop, and whose health is checked ten times a second.
    #[track_caller]
    fn checked(&self, id: &str, check: &str, options: &[&str]) {
        let rootfs = overlay(busybox());
        let run = ["run", id, "-d", "--health-cmd", check, "--health-interval", "100ms", "--rootfs", &rootfs];
        let script = "echo run; trap 'exit 5' TERM; while :; do sleep 0.05; done";
        let command = ["--", "sh", "-c", script];
        self.cmd(run.iter().chain(options).chain(&command)).prints(&format!("{id}\n"));
    }

    /// Waits until that is known of its health.
    #[track_caller]
    fn health_until(&self, id: &str, status: &str) -> Value {
        self.state_until(id, |state| state["health"]["status"] == status)["health"].take()
    }

    #[track_caller]
    fn inside(&self, id: &str, script: &str) {
        self.cmd(["exec", id, "--", "sh", "-c", script]).exits(0);
    }
}

#[test]
fn its_health_is_what_its_checks_say_wherever_it_is_shown() {
    let podrun = Podrun::new();
    podrun.checked("c", "echo out; echo err >&2; test -e /ok", &["--health-retries", "2"]);
    let starting = podrun.state("c");
    assert_eq!(starting["status"], "running");
    assert_eq!(starting["health"]["status"], "starting");
    podrun.inside("c", "touch /ok");
    let healthy = podrun.health_until("c", "healthy");
    assert_eq!((&healthy["failingStreak"], &healthy["last"]["exitCode"]), (&0.into(), &0.into()));
    assert_eq!(healthy["last"]["output"], "out\nerr\n");
    assert!(podrun.cmd(["list"]).ok().contains("running(healthy)"));
    podrun.inside("c", "rm /ok");
    let unhealthy = podrun.health_until("c", "unhealthy");
    assert!(number(&unhealthy["failingStreak"]) >= 2, "{unhealthy}");
    assert_eq!(unhealthy["last"]["exitCode"], 1);
    let listed: Value = serde_json::from_str(&podrun.cmd(["list", "--format", "json"]).ok()).unwrap();
    assert_eq!(
        (&listed[0]["status"], &listed[0]["health"]["status"]),
        (&"running".into(), &"unhealthy".into())
    );
    let inspected: Value = serde_json::from_str(&podrun.cmd(["inspect", "c"]).ok()).unwrap();
    assert_eq!(inspected[0]["state"]["health"]["status"], "unhealthy");
    // Nothing was to be done about it, and it may get well again.
    podrun.inside("c", "touch /ok");
    podrun.health_until("c", "healthy");
    podrun.cmd(["stop", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("5\n");
    assert_eq!(podrun.state("c")["health"], Value::Null);
}

#[test]
fn an_unhealthy_container_is_stopped_killed_or_run_again_as_it_was_asked() {
    let podrun = Podrun::new();
    let options = |action| ["--health-retries", "1", "--health-on-failure", action];
    podrun.checked("stop", "false", &[&options("stop")[..], &["--restart", "always"]].concat());
    podrun.checked("kill", "false", &options("kill"));
    podrun.checked("policy", "false", &[&options("kill")[..], &["--restart", "on-failure:1"]].concat());
    // Sick for its first run only.
    let at_once = [&options("restart")[..], &["--stop-timeout", "0"]].concat();
    podrun.checked("restart", "test -e /well || { touch /well; false; }", &at_once);
    podrun.cmd(["wait", "stop", "kill", "policy"]).prints("5\n137\n137\n");
    podrun.settle_but("restart");
    let reason = |id| podrun.state(id)["reason"].clone();
    assert_eq!(reason("stop"), "stopped: it was unhealthy");
    assert_eq!(reason("kill"), "killed: it was unhealthy");
    podrun.cmd(["logs", "stop"]).prints("run\n");
    podrun.cmd(["logs", "policy"]).prints("run\nrun\n");
    podrun.state_until("restart", |state| state["restartCount"] == 1 && state["status"] == "running");
    podrun.health_until("restart", "healthy");
    podrun.says("restart", "run");
    podrun.cmd(["logs", "restart"]).prints("run\nrun\n");
    // What ended the first run is over: the next shim has nothing of it.
    let init = podrun.pid("restart");
    podrun.kill_shim("restart");
    podrun.answered("restart");
    podrun.cmd(["upgrade", "restart"]).prints("restart\n");
    podrun.answered("restart");
    assert_eq!(podrun.pid("restart"), init);
}

impl Podrun {
    /// Waits until only this container has a shim.
    #[track_caller]
    fn settle_but(&self, id: &str) {
        let left: Vec<Value> =
            serde_json::from_str(&self.cmd(["list", "--format", "json"]).ok()).expect("JSON");
        for container in left.iter().filter_map(|container| container["id"].as_str()).filter(|it| *it != id) {
            self.state_until(container, |state| state["shim"]["alive"] == false);
        }
    }
}

#[test]
fn a_check_that_hangs_is_killed_with_all_it_started() {
    let podrun = Podrun::new();
    let timeout = if in_guest() { "10s" } else { "300ms" };
    let options = ["--health-retries", "1", "--health-timeout", timeout];
    podrun.checked("c", "echo begun; sleep 54321; true", &options);
    podrun.health_until("c", "unhealthy");
    // One that was slow to begin has written nothing.
    podrun.state_until("c", |state| {
        let last = &state["health"]["last"];
        last["exitCode"].is_null() && last["output"] == "begun\n"
    });
    // At most the one that is under way now.
    let hanging =
        || podrun.cmd(["exec", "c", "--", "ps", "-o", "args"]).ok().matches("sleep 54321\n").count();
    assert!(hanging() <= 1);
    // What a dead shim left is ended by the next one.
    for _ in 0..3 {
        podrun.kill_shim("c");
        podrun.answered("c");
    }
    let streak = number(&podrun.state("c")["health"]["failingStreak"]);
    podrun.state_until("c", |state| number(&state["health"]["failingStreak"]) > streak + 1);
    assert!(hanging() <= 1);
}

#[test]
fn what_a_check_writes_is_kept_in_bounds() {
    let podrun = Podrun::new();
    podrun.checked("c", "yes | head -c 3000000; exit 3", &["--health-retries", "1"]);
    let shim = podrun.shim_pid("c");
    let health = podrun.health_until("c", "unhealthy");
    assert_eq!(health["last"]["exitCode"], 3);
    assert_eq!(health["last"]["output"].as_str().map(str::len), Some(4096));
    let sizes = || ["VmData", "VmPeak"].map(|size| status_field(shim, size).expect("a size"));
    let after = |checks| {
        podrun.state_until("c", |state| number(&state["health"]["failingStreak"]) > checks);
    };
    // What the beginning took is given back by then, and what a check takes is there.
    after(15);
    let before = sizes();
    after(30);
    assert_eq!(sizes(), before);
}

#[test]
fn a_check_that_cannot_be_executed_says_why() {
    let podrun = Podrun::new();
    podrun.checked("c", "true", &["--health-retries", "1"]);
    podrun.health_until("c", "healthy");
    podrun.inside("c", "rm /bin/sh");
    let health = podrun.health_until("c", "unhealthy");
    assert_eq!(health["last"]["exitCode"], 127);
    assert!(health["last"]["output"].as_str().unwrap().contains("/bin/sh"), "{health}");
}

#[test]
fn failures_in_the_start_period_do_not_count_and_no_check_is_made_while_it_is_paused() {
    let podrun = Podrun::new();
    let check = "echo x >>/checks; test -e /ok";
    podrun.checked("c", check, &["--health-retries", "1", "--health-start-period", "1h"]);
    let failed = podrun.state_until("c", |state| state["health"]["last"]["exitCode"] == 1);
    assert_eq!(
        (&failed["health"]["status"], &failed["health"]["failingStreak"]),
        (&"starting".into(), &0.into())
    );
    podrun.cmd(["pause", "c"]).prints("c\n");
    assert_eq!(podrun.status("c"), "paused");
    // Two checks of another container are longer than the interval of this one's.
    podrun.checked("other", "echo x >>/checks", &[]);
    let checks = |id: &str| {
        let root = format!("/proc/{}/root/checks", podrun.pid(id));
        std::fs::read_to_string(root).unwrap_or_default().lines().count()
    };
    let (paused, last) = (checks("c"), podrun.state("c")["health"]["last"].clone());
    let deadline = std::time::Instant::now() + hang_limit();
    while checks("other") < 3 {
        assert!(std::time::Instant::now() < deadline, "the other one is not checked");
        std::thread::yield_now();
    }
    assert_eq!((checks("c"), &podrun.state("c")["health"]["last"]), (paused, &last));
    podrun.cmd(["resume", "c"]).prints("c\n");
    podrun.inside("c", "touch /ok");
    podrun.health_until("c", "healthy");
    podrun.inside("c", "rm /ok");
    podrun.health_until("c", "unhealthy");
}

#[test]
fn checks_that_cannot_be_made_are_refused() {
    let podrun = Podrun::new();
    for (options, why) in [
        (["--health-cmd", "", "--health-retries", "1"], "is missing or empty"),
        (["--health-cmd", "true", "--health-retries", "0"], "must be at least 1"),
        (["--health-cmd", "true", "--health-interval", "1ms"], "is shorter than 100 ms"),
    ] {
        let rootfs = busybox();
        let args = ["run", "c"].into_iter().chain(options).chain(["--rootfs", &rootfs, "--", "true"]);
        podrun.cmd(args).fails(125, why);
    }
    let args = ["run", "c", "--health-retries", "1", "--rootfs", &busybox(), "--", "true"];
    podrun.cmd(args).run().expect(125);
}
