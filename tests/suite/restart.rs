//! `--restart`: a container that has ended runs again, until somebody stops it.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::process::{self, Pidfd, descriptors, wait_for_end};
use crate::harness::screen::Screen;
use crate::harness::{Podrun, busybox, debian, hang_limit, in_guest, number, overlay, rounds, seeded};

/// Says which run it is, by a file that the overlay keeps.
const COUNT: &str = "n=$(($(cat /n 2>/dev/null || echo 0) + 1)); echo $n >/n; echo run $n; ";

/// What it says in its first `count` runs.
fn runs(count: usize) -> String {
    (1..=count).map(|run| format!("run {run}\n")).collect()
}

impl Podrun {
    /// A container with a restart policy, whose every run is counted before it does `script`.
    #[track_caller]
    pub(crate) fn counted(&self, id: &str, policy: &str, script: &str) {
        let (rootfs, script) = (overlay(busybox()), COUNT.to_owned() + script);
        let args = ["run", id, "-d", "--restart", policy, "--rootfs", &rootfs, "--", "sh", "-c", &script];
        self.cmd(args).prints(&format!("{id}\n"));
    }

    /// Waits until the container's state is as wanted.
    #[track_caller]
    pub(crate) fn state_until(&self, id: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + hang_limit();
        loop {
            let state = self.state(id);
            if wanted(&state) {
                return state;
            }
            assert!(Instant::now() < deadline, "it never comes: {state}");
            std::thread::yield_now();
        }
    }

    #[track_caller]
    fn listed_until(&self, row: &str) {
        let deadline = Instant::now() + hang_limit();
        while !self.cmd(["list"]).ok().contains(row) {
            assert!(Instant::now() < deadline, "no row with {row:?}");
        }
    }

    /// What a reboot leaves: files of another boot, and nothing else.
    #[track_caller]
    pub(crate) fn reboot(&self, ids: &[&str]) {
        for id in ids {
            let state = self.state(id);
            if state["shim"]["alive"] == true {
                self.lose(id);
            }
            if number(&state["pid"]) != 0 {
                process::send(number(&state["pid"]), Signal::KILL);
                wait_for_end(number(&state["pid"]));
            }
            // The version before too, where it was kept.
            for name in ["state.json", "state.json.kept"] {
                let path = self.container_dir(id).join(name);
                let Ok(text) = std::fs::read_to_string(&path) else { continue };
                let mut state: Value = serde_json::from_str(&text).expect("JSON");
                state["bootId"] = "another".into();
                std::fs::write(&path, state.to_string()).expect("write a state");
            }
        }
        std::fs::remove_dir_all(self.run_root()).expect("remove the run root");
    }
}

pub(crate) fn is_pending(state: &Value) -> bool {
    state["reason"].as_str().is_some_and(|reason| reason.starts_with("restart pending"))
}

#[test]
fn a_failing_container_runs_so_often_and_whoever_waits_or_follows_sees_it_all() {
    let podrun = Podrun::new();
    let rootfs = overlay(busybox());
    let script = COUNT.to_owned() + "sleep 0.05; exit $((n + 4))";
    let args = ["run", "c", "--restart", "on-failure:2", "--rootfs", &rootfs, "--", "sh", "-c", &script];
    let mut run = podrun.cmd(args).spawn();
    run.until("run 1");
    let others = [&["wait", "c"][..], &["logs", "-f", "c"]].map(|args| podrun.cmd(args).spawn());
    let run = run.finish();
    assert_eq!((run.out(), run.err(), run.code), (runs(3), String::new(), Some(7)), "{run}");
    let [waiter, follower] = others.map(|other| other.finish().out());
    assert_eq!((waiter.as_str(), follower), ("7\n", runs(3)));
    podrun.settle();
    let state = podrun.state("c");
    assert_eq!((&state["status"], &state["restartCount"]), (&"stopped".into(), &2.into()));
    assert_eq!(
        (&state["exitCode"], &state["reason"], &state["restartDue"]),
        (&7.into(), &Value::Null, &Value::Null)
    );
    assert!(podrun.container_dir("c").join("exit.json.1").exists());
    // Cut short, a restart would have been owed.
    let written = std::fs::read_to_string(podrun.container_dir("c").join("state.json")).expect("a state");
    assert!(written.contains("\"again\": true"), "{written}");
    // By hand it starts anew.
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("10\n");
    podrun.cmd(["logs", "c"]).prints(&runs(6));
}

#[test]
fn success_is_no_failure_and_no_policy_is_no_restart() {
    let podrun = Podrun::new();
    podrun.counted("good", "on-failure", "exit 0");
    podrun.counted("bad", "no", "exit 1");
    podrun.cmd(["wait", "good", "bad"]).prints("0\n1\n");
    for id in ["good", "bad"] {
        podrun.cmd(["logs", id]).prints("run 1\n");
        assert_eq!(podrun.state(id)["restartCount"], 0);
    }
}

#[test]
fn between_two_runs_it_says_so_and_a_stop_is_the_end_at_once() {
    let podrun = Podrun::new();
    podrun.counted("c", "always", "exit 3");
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    podrun.listed_until("restarting");
    let pending = podrun.state_until("c", |state| is_pending(state) && number(&state["restartCount"]) > 3);
    assert_eq!((&pending["status"], &pending["shim"]["alive"]), (&"stopped".into(), &true.into()));
    assert_eq!((&pending["exitCode"], &pending["pid"]), (&3.into(), &0.into()));
    assert!(pending["restartDue"].is_string(), "{pending}");
    // Another run may have begun meanwhile.
    let listed =
        || serde_json::from_str::<Value>(&podrun.cmd(["list", "--format", "json"]).ok()).expect("JSON");
    let deadline = Instant::now() + hang_limit();
    let one = loop {
        let one = listed()[0].take();
        if is_pending(&one) || Instant::now() > deadline {
            break one;
        }
    };
    let reason = one["reason"].as_str().unwrap_or_default();
    assert!(one["exitCode"] == 3 && reason.ends_with("after exit code 3"), "{one}");
    podrun.cmd(["delete", "c"]).run().expect(1);
    podrun.cmd(["exec", "c", "true"]).run().expect(125);
    podrun.cmd(["stop", "c"]).prints("c\n");
    assert_eq!(waiter.finish().out(), "3\n");
    podrun.settle();
    let state = podrun.state("c");
    assert_eq!((&state["status"], &state["reason"]), (&"stopped".into(), &Value::Null));
    podrun.cmd(["recover", "--all"]).prints("");
}

#[test]
fn a_kill_between_two_runs_is_the_end_and_a_start_is_the_next_run() {
    let podrun = Podrun::new();
    for id in ["killed", "started", "deleted"] {
        podrun.counted(id, "unless-stopped", "exit 3");
    }
    podrun.state_until("killed", |state| number(&state["restartCount"]) > 3 && is_pending(state));
    podrun.cmd(["kill", "killed"]).exits(0);
    podrun.cmd(["wait", "killed"]).prints("3\n");
    podrun.state_until("started", |state| number(&state["restartCount"]) > 3 && is_pending(state));
    podrun.cmd(["restart", "started"]).prints("started\n");
    podrun.state_until("deleted", |state| number(&state["restartCount"]) > 3 && is_pending(state));
    podrun.cmd(["delete", "-f", "deleted"]).prints("deleted\n");
    podrun.cmd(["delete", "-f", "started"]).prints("started\n");
}

#[test]
fn a_user_who_ends_it_ends_it_for_good_and_another_signal_does_not() {
    let podrun = Podrun::new();
    let script = "trap 'exit 4' USR1; trap 'exit 5' TERM INT; echo ready $n; while :; do sleep 0.02; done";
    for (id, end) in [("stopped", ["stop", "stopped"]), ("killed", ["kill", "killed"])] {
        podrun.counted(id, "always", script);
        podrun.says(id, "ready 1");
        podrun.cmd(["kill", id, "USR1"]).exits(0);
        podrun.says(id, "ready 2");
        podrun.cmd(end).run().expect(0);
        podrun.cmd(["wait", id]).prints("5\n");
        assert_eq!(podrun.state(id)["restartCount"], 1);
    }
    podrun.counted("timed", "always", "sleep 1000; exit 1");
    podrun.says("timed", "run 1");
    // Ended from inside is not ended by its user.
    podrun.cmd(["exec", "timed", "--", "killall", "sleep"]).run();
    podrun.says("timed", "run 2");
}

#[test]
fn what_a_dead_shim_had_to_restart_the_next_one_restarts() {
    let podrun = Podrun::new();
    // Its first runs are short: their shims die between two of them, and at the beginning of one.
    podrun.counted(
        "c",
        "always",
        "trap 'exit 9' TERM; echo ready $n; test $n -lt 5 || while :; do sleep 0.02; done",
    );
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    for run in 1..=5 {
        podrun.says("c", &format!("ready {run}"));
        podrun.kill_shim("c");
    }
    podrun.answered("c");
    let state = podrun.state("c");
    assert_eq!((&state["status"], &state["restartCount"]), (&"running".into(), &4.into()), "{state}");
    podrun.cmd(["stop", "c"]).prints("c\n");
    assert_eq!(waiter.finish().out(), "9\n");
    let expected: String = (1..=5).map(|run| format!("run {run}\nready {run}\n")).collect();
    podrun.cmd(["logs", "c"]).prints(&expected);
}

#[test]
fn a_crash_loop_grows_neither_descriptors_nor_log_nor_records() {
    let podrun = Podrun::new();
    let script = "yes 0123456789 | head -c 100000; exit 1";
    let (rootfs, script) = (overlay(busybox()), COUNT.to_owned() + script);
    let args = ["run", "c", "-d", "--restart", "on-failure:5", "--log-opt", "max-size=128k,max-file=2"];
    let args = args.into_iter().chain(["--rootfs", &rootfs, "--", "sh", "-c", &script]);
    podrun.cmd(args).prints("c\n");
    // What is handed from one run to the next is held for a moment of each rest; what leaks, for all of it.
    let held = || {
        let mut least = [usize::MAX; 2];
        let mut state = podrun.state_until("c", is_pending);
        while is_pending(&state) {
            for (least, who) in least.iter_mut().zip(["keeper", "pid"]) {
                *least = descriptors(number(&state["shim"][who])).len().min(*least);
            }
            state = podrun.state("c");
        }
        least
    };
    let before = held();
    podrun.state_until("c", |state| number(&state["restartCount"]) > 3);
    let after = held();
    assert!(after.iter().zip(&before).all(|(now, then)| now <= then), "{after:?}, {before:?} before");
    podrun.cmd(["wait", "c"]).prints("1\n");
    podrun.settle();
    let sizes = std::fs::read_dir(podrun.container_dir("c").join("log")).unwrap();
    let sizes: Vec<u64> = sizes.flatten().map(|file| file.metadata().unwrap().len()).collect();
    assert!(sizes.len() == 2 && sizes.iter().all(|size| *size <= 128 << 10), "{sizes:?}");
    let names = std::fs::read_dir(podrun.container_dir("c")).unwrap().flatten();
    let records = names.filter(|name| name.file_name().to_string_lossy().starts_with("exit.json")).count();
    assert_eq!(records, 2);
}

#[test]
fn a_terminal_and_a_minimal_init_are_made_anew() {
    let podrun = Podrun::new();
    let rootfs = overlay(busybox());
    let args = ["run", "t", "-d", "-t", "--init", "--restart", "on-failure:1", "--rootfs", &rootfs];
    podrun.cmd(args.into_iter().chain(["--", "sh", "-c", "tty; exit 6"])).prints("t\n");
    podrun.cmd(["wait", "t"]).prints("6\n");
    podrun.cmd(["logs", "t"]).prints("/dev/pts/0\r\n/dev/pts/0\r\n");
}

#[test]
fn whoever_sits_at_its_terminal_sits_at_the_next_one_too() {
    let podrun = Podrun::new();
    let rootfs = overlay(busybox());
    let args =
        ["run", "c", "-it", "--restart", "always", "-e", "PS1=ready>", "--rootfs", &rootfs, "--", "sh"];
    let mut screen = Screen::new(&podrun, args);
    screen.until("ready>");
    screen.types("echo $((40+2)); exit 3\r");
    screen.until("42");
    screen.until("ready>");
    screen.types("stty size; echo $((50+3))\r");
    screen.until("40 100");
    screen.until("53");
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    assert_eq!(screen.finish(), Some(137));
}

#[test]
fn shims_killed_at_any_moment_lose_no_run_and_double_none_campaign() {
    let podrun = Podrun::new();
    let mut random = seeded("shims_killed_at_any_moment_lose_no_run_and_double_none_campaign");
    for round in 0..rounds(100) {
        let id = format!("c{round}");
        podrun.counted(&id, "on-failure:3", "exit 3");
        let waiter = podrun.cmd(["wait", &id]).spawn();
        for _ in 0..4 {
            let shim = podrun.shim_pid(&id);
            let moment = Instant::now() + Duration::from_millis(random.u64(..150));
            // It may have ended with its container.
            if let Some(process) = Pidfd::open(shim).filter(|_| shim > 0) {
                process.wait(moment);
                let _ = rustix::process::pidfd_send_signal(&process, Signal::KILL);
            }
        }
        assert_eq!(waiter.finish().out(), "3\n");
        podrun.cmd(["logs", &id]).prints(&runs(4));
        podrun.cmd(["delete", "-f", &id]).prints(&format!("{id}\n"));
    }
}

#[test]
fn a_shim_that_dies_at_any_system_call_of_a_restart_loses_none_campaign() {
    if in_guest() {
        return; // system calls are not injected there
    }
    let podrun = Podrun::new();
    let mut random = seeded("a_shim_that_dies_at_any_system_call_of_a_restart_loses_none_campaign");
    let mut total = 600;
    for round in 0..=rounds(160) {
        let id = format!("c{round}");
        podrun.counted(&id, "on-failure:1", "while ! test -e /go$n; do sleep 0.01; done; exit 3");
        podrun.says(&id, "run 1");
        let shim = podrun.shim_pid(&id);
        let (trace, pid) = (podrun.dir().join("trace"), shim.to_string());
        let inject = format!("--inject=all:signal=SIGKILL:when={}", random.usize(1..=total));
        // The first round counts them.
        let inject = if round == 0 { "-qq" } else { &inject };
        let output = trace.to_str().expect("UTF-8");
        let strace = podrun.program("strace", ["-qq", "-o", output, inject, "-p", &pid]).spawn();
        while process::status_field(shim, "TracerPid").as_deref() == Some("0") {
            std::thread::yield_now();
        }
        // Whether it lives to tell is a matter of when the container ends.
        podrun.cmd(["exec", &id, "touch", "/go1"]).run();
        podrun.says(&id, "run 2");
        if round == 0 {
            strace.kill();
            total = std::fs::read_to_string(&trace).unwrap().lines().count();
            eprintln!("{total} system calls");
        } else {
            drop(strace);
        }
        podrun.cmd(["exec", &id, "touch", "/go2"]).run();
        podrun.cmd(["wait", &id]).prints("3\n");
        podrun.cmd(["logs", &id]).prints(&runs(2));
        podrun.cmd(["delete", "-f", &id]).prints(&format!("{id}\n"));
    }
}

#[test]
fn what_is_missing_at_a_restart_may_come_back() {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let podrun = Podrun::new();
    let rootfs = dir.path().join("root");
    let copy = format!("cp -a {} {}", busybox(), rootfs.display());
    podrun.program("/bin/sh", ["-c", &copy]).run().expect(0);
    let path = rootfs.to_str().expect("UTF-8");
    let script = "echo ran; while ! test -e /go; do sleep 0.02; done; rm /go; exit 1";
    podrun
        .cmd(["run", "c", "-d", "--restart", "always", "--rootfs", path, "--", "/bin/sh", "-c", script])
        .ok();
    podrun.says("c", "ran");
    let (shell, away) = (rootfs.join("bin/sh"), rootfs.join("bin/away"));
    std::fs::rename(&shell, &away).unwrap();
    std::fs::write(rootfs.join("go"), "").unwrap();
    let pending = podrun.state_until("c", |state| is_pending(state) && state["exitCode"] == 127);
    assert!(pending["reason"].as_str().unwrap().contains("no such file"), "{pending}");
    std::fs::rename(&away, &shell).unwrap();
    let state = podrun.state_until("c", |state| state["status"] == "running");
    assert!(number(&state["restartCount"]) >= 2, "{state}");
    // What was missing at the first start is for its user to see.
    podrun.cmd(["run", "d", "-d", "--restart", "always", "--rootfs", path, "--", "nosuch"]).run().expect(127);
    podrun.cmd(["state", "d"]).fails(1, "does not exist");
}

#[test]
fn after_a_reboot_runs_what_should_run() {
    let podrun = Podrun::new();
    let ids = ["always", "failure", "none", "stopped", "unless"];
    for (id, policy) in
        ids.into_iter().zip(["always", "on-failure", "no", "unless-stopped", "unless-stopped"])
    {
        podrun.counted(id, policy, "exec sleep 1000");
        podrun.says(id, "run 1");
    }
    podrun.cmd(["stop", "stopped"]).prints("stopped\n");
    podrun.reboot(&ids);
    assert_eq!(podrun.state("always")["reason"], "the host was restarted");
    podrun.cmd(["recover", "--all"]).prints("always\nfailure\nunless\n");
    for id in ["always", "failure", "unless"] {
        podrun.says(id, "run 2");
    }
    podrun.cmd(["recover", "--all"]).prints("");
    // Always is always.
    podrun.cmd(["stop", "always", "failure", "unless"]).prints("always\nfailure\nunless\n");
    podrun.settle();
    podrun.reboot(&ids);
    podrun.cmd(["recover", "--all"]).prints("always\n");
}

#[test]
fn what_a_power_cut_took_the_files_of_is_stopped_and_says_so_and_goes() {
    let podrun = Podrun::new();
    podrun.counted("kept", "always", "exec sleep 1000");
    podrun.says("kept", "run 1");
    podrun
        .cmd(["create", "new", "--restart", "always", "--rootfs", &busybox(), "--", "true"])
        .prints("new\n");
    podrun.cmd(["create", "older", "--rootfs", &busybox(), "--", "true"]).prints("older\n");
    podrun.reboot(&["kept", "new", "older"]);
    // Their names had reached the disk, before this boot.
    let lose = |id: &str, name: &str| {
        let file = std::fs::File::create(podrun.container_dir(id).join(name)).unwrap();
        file.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    };
    ["state.json", "state.json.kept", "spec.json"].iter().for_each(|name| lose("new", name));
    lose("older", "state.json");
    let state = podrun.state("older");
    assert_eq!((&state["status"], &state["reason"]), (&"stopped".into(), &"the host was restarted".into()));
    podrun.cmd(["delete", "older"]).prints("older\n");
    let state = podrun.state("new");
    assert_eq!(state["status"], "stopped");
    assert_eq!(state["reason"], "the host went down before its files were on the disk");
    assert!(state["exitCode"].is_null(), "{state}");
    podrun.cmd(["list", "-q"]).prints("kept\nnew\n");
    podrun.cmd(["inspect", "new"]).ok();
    podrun.cmd(["start", "new"]).fails(1, "a power cut took what it said");
    podrun.cmd(["recover", "--all"]).prints("kept\n");
    podrun.cmd(["delete", "new"]).prints("new\n");
}

#[test]
fn what_lost_everything_with_its_command_is_recovered_by_its_policy() {
    let podrun = Podrun::new();
    for (id, policy) in [("again", "on-failure"), ("not", "no")] {
        podrun.counted(id, policy, "exec sleep 1000");
        podrun.says(id, "run 1");
        let pid = podrun.pid(id);
        podrun.lose(id);
        process::send(pid, Signal::KILL);
        wait_for_end(pid);
        podrun.cmd(["wait", id]).run();
    }
    let state = podrun.state("again");
    assert!(state["reason"].as_str().unwrap().contains("`podrun recover again`"), "{state}");
    podrun.cmd(["recover", "--all"]).prints("again\n");
    podrun.says("again", "run 2");
    // SIGTERM to the shim is the host going down.
    podrun.counted("down", "unless-stopped", "exec sleep 1000");
    process::send(podrun.shim_pid("down"), Signal::TERM);
    podrun.cmd(["wait", "down"]).prints("143\n");
    podrun.settle_one("down");
    podrun.cmd(["recover", "down"]).prints("down\n");
}

impl Podrun {
    /// Waits until the container has no shim any more.
    #[track_caller]
    fn settle_one(&self, id: &str) {
        self.state_until(id, |state| state["shim"]["alive"] == false);
    }
}

#[test]
fn an_owed_restart_without_a_shim_is_called_off_by_stop() {
    let podrun = Podrun::new();
    podrun.counted("c", "always", "exec sleep 1000");
    podrun.says("c", "run 1");
    let pid = podrun.pid("c");
    podrun.lose("c");
    process::send(pid, Signal::KILL);
    wait_for_end(pid);
    podrun.cmd(["stop", "c"]).prints("c\n");
    podrun.cmd(["recover", "--all"]).prints("");
}

#[test]
fn a_start_that_was_cut_short_is_owed_until_it_is_called_off() {
    let podrun = Podrun::new();
    podrun.counted("c", "always", "exec sleep 1000");
    podrun.says("c", "run 1");
    let path = podrun.container_dir("c").join("state.json");
    let cut_short = || {
        podrun.cmd(["stop", "c"]).prints("c\n");
        podrun.settle();
        let text = std::fs::read_to_string(&path).expect("a state");
        let mut state: Value = serde_json::from_str(&text).expect("JSON");
        (state["status"], state["again"], state["stoppedBy"]) = ("creating".into(), true.into(), Value::Null);
        std::fs::write(&path, state.to_string()).expect("write a state");
    };
    cut_short();
    podrun.cmd(["recover", "--all"]).prints("c\n");
    podrun.says("c", "run 2");
    cut_short();
    podrun.cmd(["stop", "c"]).prints("c\n");
    podrun.cmd(["recover", "--all"]).prints("");
}

#[test]
fn policies_that_are_none_are_refused() {
    let podrun = Podrun::new();
    for policy in ["", "sometimes", "on-failure:x", "always:3"] {
        let rootfs = debian();
        let args = ["run", "c", "--restart", policy, "--rootfs", &rootfs, "--", "true"];
        podrun.cmd(args).fails(125, "is none that podrun knows");
    }
    let args = ["run", "c", "--rm", "--restart", "always", "--rootfs", &busybox(), "--", "true"];
    podrun.cmd(args).fails(125, "cannot be combined with --restart always");
    podrun.cmd(["list", "-q"]).prints("");
}
