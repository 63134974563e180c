//! A container of which a process cannot be ended for a while, as one that waits for a disk which does not answer.

use nix::sys::ptrace::{self, Options};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use rustix::process::Signal;
use serde_json::Value;

use crate::harness::{Podrun, busybox, in_guest, process};

/// A process in a container's cgroup that hears SIGKILL, but does not end before this is dropped.
struct Held(Pid);

impl Held {
    #[track_caller]
    #[expect(clippy::zombie_processes, reason = "it is waited for as a tracee")]
    fn inside(podrun: &Podrun, id: &str) -> Self {
        let child = std::process::Command::new("sleep").arg("100000").spawn().expect("run sleep");
        let pid = Pid::from_raw(child.id().cast_signed());
        // Whoever is traced so stops once more on the way out.
        ptrace::seize(pid, Options::PTRACE_O_TRACEEXIT).expect("trace a child");
        let cgroup = podrun.state(id)["cgroupPath"].as_str().expect("a path").to_owned();
        std::fs::write(cgroup + "/cgroup.procs", pid.to_string()).expect("move a process");
        Self(pid)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        if std::thread::panicking() {
            return; // the end of this thread lets it go, too
        }
        let killed = waitpid(self.0, Some(WaitPidFlag::__WALL));
        assert!(matches!(killed, Ok(WaitStatus::PtraceEvent(..))), "{killed:?}");
        ptrace::cont(self.0, None).expect("let it go on");
        waitpid(self.0, Some(WaitPidFlag::__WALL)).expect("it ends");
    }
}

#[test]
fn a_delete_that_leaves_a_process_fails_and_the_next_one_removes_the_container() {
    if in_guest() {
        return; // an older kernel lets a second SIGKILL end what is held
    }
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "100000"]);
    let held = Held::inside(&podrun, "c");
    podrun.cmd(["delete", "-f", "c"]).fails(1, &format!("processes still run in it: {}", held.0));
    let state = podrun.state("c");
    assert_eq!((&state["status"], &state["exitCode"]), (&"stopped".into(), &137.into()));
    drop(held);
    podrun.cmd(["delete", "c"]).prints("c\n");
}

#[test]
fn what_has_ended_since_does_not_make_a_later_delete_fail() {
    if in_guest() {
        return; // an older kernel lets a second SIGKILL end what is held
    }
    let podrun = Podrun::new();
    podrun.counted("c", "always", "sleep 100000");
    podrun.says("c", "run 1");
    // As one that has failed so often that its next run is a minute away.
    podrun.lose("c");
    let path = podrun.container_dir("c").join("state.json");
    let mut state: Value = serde_json::from_slice(&std::fs::read(&path).expect("a state")).expect("JSON");
    state["restarts"]["inARow"] = 20.into();
    std::fs::write(&path, state.to_string()).expect("write a state");
    podrun.cmd(["recover", "c"]).prints("c\n");
    let held = Held::inside(&podrun, "c");
    process::send(podrun.pid("c"), Signal::KILL);
    podrun.state_until("c", crate::restart::is_pending);
    // Its shim answers again once it has given up.
    podrun.cmd(["exec", "c", "true"]).run().expect(125);
    drop(held);
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
}
