//! A shim may die: its keeper makes another one, and nobody notices.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::harness::process::{self, Pidfd, is_alive, parent, wait_for_end};
use crate::harness::{Podrun, busybox, hang_limit, has_limits, in_guest, number};

impl Podrun {
    /// Kills the container's shim as `kill -9` does, and waits until it is gone.
    #[track_caller]
    pub(crate) fn kill_shim(&self, id: &str) {
        // Between two runs there is a moment in which the end is told and the restart is not.
        let shim = number(&self.state_until(id, |state| state["shim"]["pid"] != 0)["shim"]["pid"]);
        process::send(shim, Signal::KILL);
        wait_for_end(shim);
    }

    /// The pid of the container's keeper.
    #[track_caller]
    pub(crate) fn keeper_pid(&self, id: &str) -> i32 {
        number(&self.state(id)["shim"]["keeper"])
    }

    /// Waits until the shim of the day answers.
    #[track_caller]
    pub(crate) fn answered(&self, id: &str) {
        self.cmd(["exec", id, "--", "true"]).exits(0);
    }
}

fn stopped(pid: i32) -> bool {
    process::status_field(pid, "State").is_some_and(|state| state.starts_with('T'))
}

/// Stops a process, and waits until it is: a signal acts when its receiver next runs.
#[track_caller]
pub(crate) fn freeze(pid: i32) {
    process::send(pid, Signal::STOP);
    let deadline = Instant::now() + hang_limit();
    while !stopped(pid) {
        assert!(Instant::now() < deadline, "{} does not stop", process::describe(pid));
        std::thread::yield_now();
    }
}

#[test]
fn a_killed_shim_is_replaced_and_the_container_goes_on() {
    let podrun = Podrun::new();
    podrun.run_script("c", "trap 'echo heard; exit 7' USR1; echo ready; while :; do sleep 0.02; done");
    let (pid, keeper, first) = (podrun.pid("c"), podrun.keeper_pid("c"), podrun.shim_pid("c"));
    assert_eq!(parent(first), keeper);
    assert_eq!(podrun.supervisors().len(), 2);
    podrun.kill_shim("c");
    podrun.answered("c");
    let second = podrun.shim_pid("c");
    assert_ne!(second, first);
    assert_eq!((parent(second), podrun.keeper_pid("c")), (keeper, keeper));
    let state = podrun.state("c");
    assert_eq!((number(&state["pid"]), &state["status"]), (pid, &"running".into()));
    assert_eq!(number(&state["shim"]["adoptions"]), 1);
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("7\n");
    podrun.cmd(["logs", "c"]).prints("ready\nheard\n");
    podrun.settle();
    assert!(podrun.supervisors().is_empty());
}

#[test]
fn an_end_between_two_shims_is_known_as_it_was() {
    let podrun = Podrun::new();
    let cases = [
        (&["sh", "-c", "echo ready; read x; exit 42"][..], "42\n"),
        (&["sh", "-c", "echo ready; kill -9 $$; read x"], "137\n"),
    ];
    for (number, (_, code)) in cases.iter().enumerate() {
        let id = &format!("c{number}");
        // Only a handler lets PID 1 end by a signal of its own choice; the other one is ended below.
        let script = "trap 'exit 42' USR1; echo ready; while :; do sleep 0.02; done";
        podrun.run_script(id, script);
        let (init, keeper) = (podrun.pid(id), podrun.keeper_pid(id));
        freeze(keeper);
        podrun.kill_shim_under(id, keeper);
        process::send(init, if number == 0 { Signal::USR1 } else { Signal::KILL });
        Pidfd::open(init).map(|init| init.wait(Instant::now() + hang_limit()));
        process::send(keeper, Signal::CONT);
        podrun.cmd(["wait", id]).prints(code);
        let record: serde_json::Value =
            serde_json::from_str(&podrun.cmd(["wait", "--json", id]).ok()).expect("JSON");
        assert_eq!(record["logsDrained"], true, "{record}");
        podrun.cmd(["logs", id]).prints("ready\n");
    }
}

impl Podrun {
    /// Kills the shim of a keeper that is stopped: its zombie stays.
    #[track_caller]
    fn kill_shim_under(&self, id: &str, keeper: i32) {
        assert!(stopped(keeper));
        self.kill_shim(id);
    }
}

#[test]
fn a_created_container_waits_for_its_start_across_shims() {
    let podrun = Podrun::new();
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "sh", "-c", "echo hello; exit 3"]).prints("c\n");
    podrun.kill_shim("c");
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("3\n");
    podrun.cmd(["logs", "c"]).prints("hello\n");
}

#[test]
fn what_podrun_did_to_init_is_remembered_across_shims() {
    let podrun = Podrun::new();
    // Deaf to TERM: it is ended in the name of TERM, and that is what the next shim must tell.
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let keeper = podrun.keeper_pid("c");
    freeze(keeper);
    let shim = podrun.shim_pid("c");
    // It dies as it publishes the exit record: init was ended by podrun's hand, and nothing is written.
    let inject = ["-e", "trace=/^rename", "-e", "inject=/^rename:signal=SIGKILL:when=1"];
    let pid = shim.to_string();
    let strace = podrun.program("strace", inject.into_iter().chain(["-o", "trace", "-p", &pid])).spawn();
    while process::status_field(shim, "TracerPid").as_deref() != Some(&strace.pid().to_string()) {
        std::thread::yield_now();
    }
    let _kill = podrun.cmd(["kill", "c"]).spawn();
    wait_for_end(shim);
    strace.finish();
    process::send(keeper, Signal::CONT);
    podrun.cmd(["wait", "c"]).prints("143\n");
}

#[test]
fn what_a_container_is_reaches_the_disk_once_nobody_asks_for_anything() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let shim = podrun.shim_pid("c");
    let pid = shim.to_string();
    let options = ["-qq", "-f", "-y", "-e", "trace=fsync,unlink", "-o", "/dev/stdout", "-p", &pid];
    let mut strace = podrun.program("strace", options).spawn();
    while process::status_field(shim, "TracerPid").as_deref() != Some(&strace.pid().to_string()) {
        std::thread::yield_now();
    }
    podrun.cmd(["pause", "c"]).prints("c\n");
    podrun.cmd(["resume", "c"]).prints("c\n");
    let mut until = |name: &str, end: &str| {
        let end = format!("{}{end}", podrun.container_dir("c").join(name).display());
        while !strace.line().expect("strace goes on").trim_end().ends_with(&end) {}
    };
    until("spec.json", ">) = 0");
    until("state.json", ">) = 0");
    if has_limits(["pids"]) {
        podrun.cmd(["update", "c", "--pids-limit", "40"]).exits(0);
        until("spec.json", ">) = 0");
        // What it was before is kept until then.
        until("spec.json.kept", "\") = 0");
    }
    strace.kill();
}

#[test]
fn a_last_word_that_a_slow_disk_holds_up_does_not_outlive_its_shim() {
    if in_guest() {
        return; // system calls are not held up there
    }
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let (keeper, shim) = (podrun.keeper_pid("c"), podrun.shim_pid("c"));
    let deadline = Instant::now() + hang_limit();
    // Whoever sees that onto the disk is not to be taken for the other one.
    while podrun.container_dir("c").join("state.json.kept").exists() {
        assert!(Instant::now() < deadline, "its state does not reach the disk");
        std::thread::yield_now();
    }
    let hold = ["-qq", "-f", "-e", "trace=fsync", "-e", "inject=fsync:delay_enter=1000000000"];
    let pid = shim.to_string();
    let strace = podrun.program("strace", hold.into_iter().chain(["-o", "trace", "-p", &pid])).spawn();
    while process::status_field(shim, "TracerPid").as_deref() != Some(&strace.pid().to_string()) {
        std::thread::yield_now();
    }
    podrun.cmd(["kill", "c"]).exits(0);
    let scribe = loop {
        match podrun.supervisors().into_iter().find(|pid| ![keeper, shim].contains(pid)) {
            Some(pid) => break Pidfd::open(pid).expect("it is held up"),
            None => assert!(Instant::now() < deadline, "nobody writes its last word"),
        }
        std::thread::yield_now();
    };
    process::send(shim, Signal::KILL);
    assert!(scribe.wait(Instant::now() + hang_limit()), "it goes with its shim");
    strace.finish();
    podrun.cmd(["wait", "c"]).prints("143\n");
    podrun.settle();
    let text = std::fs::read_to_string(podrun.container_dir("c").join("state.json")).unwrap();
    assert!(text.contains(r#""status": "stopped""#), "{text}");
}

#[test]
fn a_lost_keeper_is_made_known_and_the_shim_goes_on() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sh", "-c", "sleep 1000; exit 5"]);
    let (keeper, shim) = (podrun.keeper_pid("c"), podrun.shim_pid("c"));
    process::send(keeper, Signal::KILL);
    wait_for_end(keeper);
    podrun.answered("c");
    let state = podrun.state("c");
    assert_eq!((number(&state["shim"]["pid"]), &state["shim"]["keeper"]), (shim, &0.into()));
    assert!(state["reason"].as_str().is_some_and(|reason| reason.contains("keeper is gone")), "{state}");
    assert!(
        std::fs::read_to_string(podrun.run_root().join("c/shim.log")).unwrap().contains("keeper is gone")
    );
    // Ended by its own deed, if init is faster.
    podrun.cmd(["exec", "c", "--", "killall", "sleep"]).run();
    podrun.cmd(["wait", "c"]).prints("5\n");
}

#[test]
fn a_lost_keeper_takes_no_exit_status_with_it() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sh", "-c", "sleep 1000; exit 5"]);
    // Init is the keeper's child now.
    podrun.kill_shim("c");
    podrun.answered("c");
    let keeper = podrun.keeper_pid("c");
    process::send(keeper, Signal::KILL);
    wait_for_end(keeper);
    podrun.answered("c");
    // Ended by its own deed, if init is faster.
    podrun.cmd(["exec", "c", "--", "killall", "sleep"]).run();
    let waited = podrun.cmd(["wait", "c"]).run();
    // Whoever adopted it may reap it first, and before Linux 6.15 that is the end of it.
    if waited.out() != "5\n" {
        assert_eq!((waited.out().as_str(), waited.code), ("unknown\n", Some(1)), "{waited}");
        assert!(kernel_before(6, 15), "{waited}");
    }
}

fn kernel_before(major: u32, minor: u32) -> bool {
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) < (major, minor)
}

#[test]
fn shims_that_die_again_and_again_are_replaced_with_pauses_that_are_told() {
    if in_guest() {
        return; // so slow that none of them dies young
    }
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let mut told = false;
    for _ in 0..6 {
        podrun.kill_shim("c");
        podrun.answered("c");
        let reason = podrun.state("c")["reason"].take();
        told |= reason.as_str().is_some_and(|reason| {
            reason.starts_with("its shims die one after the other: ") && reason.contains("signal 9")
        });
    }
    assert!(told);
    assert_eq!(number(&podrun.state("c")["shim"]["adoptions"]), 6);
    let log = std::fs::read_to_string(podrun.run_root().join("c/shim.log")).unwrap();
    assert!(log.contains("ended by signal 9") && log.contains("6th in a row"), "{log}");
    assert!(is_alive(podrun.pid("c")));
    // One that lives is no news.
    podrun.state_until("c", |state| state["reason"].is_null());
}

#[test]
fn a_command_that_is_slow_to_come_back_still_gets_the_last_output() {
    let podrun = Podrun::new();
    let script = "trap 'echo last; exit 3' USR1; echo ready; while :; do sleep 0.02; done";
    let mut command =
        podrun.cmd(["run", "c", "--rm", "--rootfs", &busybox(), "--", "sh", "-c", script]).spawn();
    command.until("ready");
    let (init, keeper, shim) = (podrun.pid("c"), podrun.keeper_pid("c"), podrun.shim_pid("c"));
    freeze(keeper);
    podrun.kill_shim_under("c", keeper);
    freeze(command.pid());
    process::send(init, Signal::USR1);
    Pidfd::open(init).map(|init| init.wait(Instant::now() + hang_limit()));
    process::send(keeper, Signal::CONT);
    // The next one would delete the container, if it did not wait for whoever was there.
    let deadline = Instant::now() + hang_limit();
    let next = loop {
        // Until it has its name and its place in the cgroup it is none of those that are found.
        match podrun.supervisors().into_iter().find(|pid| ![keeper, shim].contains(pid)) {
            Some(pid) => break Pidfd::open(pid).expect("a shim"),
            None => assert!(Instant::now() < deadline, "no shim comes"),
        }
        std::thread::yield_now();
    };
    assert!(!next.wait(Instant::now() + Duration::from_secs(2)), "it waits");
    command.signal(Signal::CONT);
    let output = command.finish();
    assert_eq!((output.out().as_str(), output.err().as_str()), ("ready\nlast\n", ""));
    output.expect(3);
    assert!(next.wait(Instant::now() + hang_limit()));
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn a_keeper_that_was_stopped_goes_with_its_container() {
    let podrun = Podrun::new();
    for id in ["deleted", "ended"] {
        podrun.run_detached(id, &busybox(), ["sleep", "1000"]);
    }
    let keepers = ["deleted", "ended"].map(|id| podrun.keeper_pid(id));
    keepers.into_iter().for_each(freeze);
    podrun.cmd(["delete", "-f", "deleted"]).prints("deleted\n");
    podrun.cmd(["kill", "ended"]).exits(0);
    podrun.cmd(["wait", "ended"]).prints("143\n");
    keepers.into_iter().for_each(wait_for_end);
    // It had a copy of the lock.
    podrun.cmd(["start", "ended"]).prints("ended\n");
}

#[test]
fn a_deletion_by_force_ends_a_keeper_that_does_not_let_go() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let (init, keeper) = (podrun.pid("c"), podrun.keeper_pid("c"));
    freeze(keeper);
    podrun.kill_shim_under("c", keeper);
    // As where the shim had been about to leave.
    std::fs::remove_file(podrun.run_root().join("c/shim.sock")).expect("remove the socket");
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
    wait_for_end(keeper);
    assert!(!is_alive(init));
}
