//! Keeper and shim may both die: the container notices nothing, and the next command adopts it.

use rustix::process::Signal;
use serde_json::Value;

use crate::harness::process::{self, is_alive, wait_for_end};
use crate::harness::{Podrun, busybox, number};

impl Podrun {
    /// Kills keeper and shim as `kill -9` does, the keeper first, and waits until they are gone.
    #[track_caller]
    pub(crate) fn lose(&self, id: &str) {
        let both = [self.keeper_pid(id), self.shim_pid(id)];
        for pid in both {
            process::send(pid, Signal::KILL);
        }
        both.into_iter().for_each(wait_for_end);
    }

    #[track_caller]
    fn listed(&self, id: &str) -> String {
        let table = self.cmd(["list"]).ok();
        let row =
            table.lines().find(|line| line.split_whitespace().next() == Some(id)).expect("it is listed");
        row.split_whitespace().nth(1).expect("a status").to_owned()
    }

    #[track_caller]
    fn record(&self, id: &str) -> Value {
        serde_json::from_str(&self.cmd(["wait", "--json", id]).run().out()).expect("a record")
    }
}

const TALKER: &str = "trap 'echo heard; exit 7' USR1; echo ready; i=0; while :; do sleep 0.02; done";

#[test]
fn a_lost_container_is_listed_as_such_until_a_command_needs_its_shim() {
    let podrun = Podrun::new();
    podrun.run_script("c", TALKER);
    let pid = podrun.pid("c");
    podrun.lose("c");
    assert_eq!(podrun.listed("c"), "lost");
    let state = podrun.state("c");
    assert_eq!((&state["status"], &state["shim"]["alive"]), (&"running".into(), &false.into()));
    assert_eq!(podrun.listed("c"), "lost", "a command that only looks adopts nothing");
    podrun.cmd(["exec", "c", "--", "echo", "hello"]).prints("hello\n");
    assert_eq!(podrun.listed("c"), "running");
    let state = podrun.state("c");
    assert_eq!((number(&state["pid"]), number(&state["shim"]["adoptions"])), (pid, 1));
    assert!(is_alive(podrun.keeper_pid("c")));
    // Its output still comes, and its end is seen.
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("7\n");
    podrun.cmd(["logs", "c"]).prints("ready\nheard\n");
    podrun.settle();
}

#[test]
fn every_command_that_needs_the_shim_adopts() {
    let podrun = Podrun::new();
    podrun.run_script("c", TALKER);
    podrun.lose("c");
    podrun.cmd(["kill", "c", "WINCH"]).exits(0);
    assert_eq!(podrun.listed("c"), "running");
    podrun.lose("c");
    podrun.cmd(["recover", "c"]).prints("c\n");
    podrun.cmd(["recover", "c"]).prints("");
    podrun.lose("c");
    podrun.cmd(["recover", "--all"]).prints("c\n");
    podrun.cmd(["recover", "--all"]).prints("");
    podrun.lose("c");
    podrun.says("c", "ready");
    assert_eq!(podrun.listed("c"), "running");
    podrun.lose("c");
    podrun.cmd(["start", "c"]).fails(1, "already running");
    podrun.lose("c");
    podrun.cmd(["stop", "-t", "0", "c"]).prints("c\n");
    podrun.cmd(["recover", "nosuch"]).fails(1, "does not exist");
}

#[test]
fn a_shim_that_is_still_dying_is_lost_already() {
    let podrun = Podrun::new();
    podrun.run_script("c", TALKER);
    podrun.lose("c");
    // A killed process has its lock until it is dead, which may take a while.
    let lock = podrun::state::lock::Lock::take(&podrun.run_root().join("locks/c")).unwrap();
    let recover = podrun.cmd(["recover", "c"]).spawn();
    let waits = || {
        let place = std::fs::read_to_string(format!("/proc/{}/wchan", recover.pid())).unwrap_or_default();
        place.contains("nanosleep")
    };
    while !waits() && is_alive(recover.pid()) {
        std::thread::yield_now();
    }
    drop(lock);
    let recover = recover.finish();
    assert_eq!((recover.out().as_str(), recover.err().as_str()), ("c\n", ""), "{recover}");
    assert_eq!(podrun.listed("c"), "running");
}

#[test]
fn what_was_waiting_goes_on_with_the_next_shim() {
    let podrun = Podrun::new();
    podrun.run_script("c", TALKER);
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    let mut follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    follower.until("ready");
    let inside = podrun
        .cmd(["exec", "-i", "c", "--", "sh", "-c", "echo in; read x; echo got $x; exit 9"])
        .open_stdin();
    let mut inside = inside.spawn();
    inside.until("in");
    for round in 0..4 {
        // One half of the times only the shim.
        if round % 2 == 0 {
            podrun.kill_shim("c")
        } else {
            podrun.lose("c")
        }
        podrun.answered("c");
    }
    inside.write(b"it\n");
    let inside = inside.finish();
    assert_eq!((inside.out().as_str(), inside.err().as_str()), ("in\ngot it\n", ""), "{inside}");
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    let follower = follower.finish();
    assert_eq!((follower.out().as_str(), follower.code), ("ready\nheard\n", Some(0)), "{follower}");
    let waiter = waiter.finish();
    assert_eq!(waiter.out(), "7\n", "{waiter}");
    assert_eq!(inside.code, Some(9), "{inside}");
}

#[test]
fn an_end_that_nobody_saw_is_recorded_as_well_as_can_be() {
    let podrun = Podrun::new();
    podrun.run_script("c", TALKER);
    let pid = podrun.pid("c");
    podrun.lose("c");
    process::send(pid, Signal::USR1);
    wait_for_end(pid);
    let record = podrun.record("c");
    // Who took it in has its status, unless it never looked.
    assert!(record["exitCode"] == 7 || record["exitCode"].is_null(), "{record}");
    assert!(record["reason"].as_str().expect("a reason").contains("keeper"), "{record}");
    assert_eq!(record["logsDrained"], false);
    assert_eq!(podrun.status("c"), "stopped");
    assert_eq!(podrun.record("c"), record, "it stays so");
    // And it can run again.
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
}

#[test]
fn a_created_container_that_is_lost_can_be_started() {
    let podrun = Podrun::new();
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "sh", "-c", "echo hello; exit 3"]).prints("c\n");
    podrun.lose("c");
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("3\n");
    podrun.cmd(["logs", "c"]).prints("hello\n");
}

#[test]
fn of_many_adopters_one_wins_and_all_are_served() {
    let podrun = Podrun::new();
    podrun.run_script("c", TALKER);
    podrun.lose("c");
    let clients: Vec<_> = (0..16).map(|_| podrun.cmd(["exec", "c", "--", "echo", "x"]).spawn()).collect();
    for client in clients {
        let output = client.finish();
        assert_eq!((output.out().as_str(), output.err().as_str()), ("x\n", ""), "{output}");
    }
    assert_eq!(podrun.supervisors().len(), 2);
    assert_eq!(number(&podrun.state("c")["shim"]["adoptions"]), 1);
}

#[test]
fn a_pipe_is_found_wherever_the_container_put_it_and_a_planted_one_is_not_taken() {
    let podrun = Podrun::new();
    // Init gives its output to a file, keeps the pipe at another number, and holds a FIFO that would
    // block whoever opened it.
    let script = "mkfifo /tmp/f; exec 7>&1 8<>/tmp/f >/dev/null 2>&1; rm /tmp/f; echo ready >&7;
                  trap 'echo heard >&7; exit 0' USR1; while :; do sleep 0.02; done";
    let args = ["run", "c", "-d", "--rootfs", &busybox(), "--tmpfs", "/tmp", "--", "sh", "-c", script];
    podrun.cmd(args).prints("c\n");
    podrun.says("c", "ready");
    podrun.lose("c");
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("0\n");
    podrun.cmd(["logs", "c"]).prints("ready\nheard\n");
}

#[test]
fn a_recycled_pid_is_not_adopted() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let pid = podrun.pid("c");
    podrun.lose("c");
    process::send(pid, Signal::KILL);
    wait_for_end(pid);
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().expect("run sleep");
    let path = podrun.container_dir("c").join("state.json");
    let mut state: Value = serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    state["init"]["pid"] = stranger.id().into();
    std::fs::write(&path, state.to_string()).unwrap();
    let record = podrun.record("c");
    assert!(record["exitCode"].is_null(), "{record}");
    podrun.cmd(["kill", "c"]).fails(1, "not running");
    assert!(stranger.try_wait().unwrap().is_none(), "it lives");
    stranger.kill().and_then(|()| stranger.wait()).unwrap();
}

#[test]
fn the_tail_of_a_lost_containers_removal_is_complete() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    podrun.lose("c");
    podrun.cmd(["delete", "c"]).fails(1, "is running");
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
    podrun.cmd(["list", "-q"]).prints("");
}
