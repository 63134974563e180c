//! The exit status: recorded once, told to everyone, never guessed.

use std::process::Stdio;
use std::time::Duration;

use nix::libc;
use nix::sys::ptrace;

use crate::harness::process::Pidfd;
use crate::harness::{Cmd, Podrun, busybox, in_guest, number, rounds};

#[test]
fn a_hundred_waiters_are_all_told() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sh", "-c", "trap 'exit 42' TERM; echo ready; sleep 1000 & wait"]);
    podrun.says("c", "ready");
    let count = if in_guest() { 20 } else { 100 };
    let waiters: Vec<_> = (0..count).map(|_| podrun.cmd(["wait", "c"]).spawn()).collect();
    podrun.cmd(["kill", "c"]).exits(0);
    for waiter in waiters {
        let output = waiter.finish();
        assert_eq!((output.code, output.out(), output.err()), (Some(0), "42\n".into(), String::new()));
    }
}

#[test]
fn wait_on_a_stopped_container_answers_at_once() {
    let podrun = Podrun::new();
    podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "sh", "-c", "exit 7"]).exits(7);
    podrun.cmd(["wait", "c"]).prints("7\n");
    podrun.cmd(["wait", "c", "c"]).prints("7\n7\n");
    let record: serde_json::Value =
        serde_json::from_str(&podrun.cmd(["wait", "--json", "c"]).ok()).expect("JSON");
    assert_eq!(record["exitCode"], 7);
    assert_eq!(record["oomKilled"], false);
    assert_eq!(record["logsDrained"], true);
}

#[test]
fn a_signal_is_told_as_such() {
    let podrun = Podrun::new();
    podrun
        .cmd(["run", "c", "--rootfs", &busybox(), "--", "sh", "-c", "kill -9 $$; kill -9 -1; exit 5"])
        .run();
    // PID 1 cannot kill itself: the shell goes on to its last word.
    podrun.cmd(["wait", "c"]).prints("5\n");
    podrun.run_detached("d", &busybox(), ["sleep", "1000"]);
    podrun.cmd(["kill", "d", "KILL"]).exits(0);
    podrun.cmd(["wait", "d"]).prints("137\n");
    let state = podrun.state("d");
    assert_eq!((number(&state["exitSignal"]), number(&state["exitCode"])), (9, 137));
    assert_eq!(state["oomKilled"], false, "{state}");
}

/// As under `strace -f`: the kernel tells a tracer of an end before it tells the parent.
#[test]
fn a_tracer_that_has_not_looked_yet_hides_no_exit_code() {
    let podrun = Podrun::new();
    Cmd::new("mkfifo", [podrun.dir().join("fifo")]).exits(0);
    let volume = format!("{}:/mnt", podrun.dir().display());
    let args = ["run", "-d", "c", "--rootfs", &busybox(), "-v", &volume, "--"];
    podrun.cmd(args.into_iter().chain(["sh", "-c", "read x </mnt/fifo; exit 42"])).prints("c\n");
    let init = nix::unistd::Pid::from_raw(podrun.pid("c"));
    ptrace::seize(init, ptrace::Options::empty()).expect("trace init");
    std::fs::write(podrun.dir().join("fifo"), "go\n").expect("let it go");
    podrun.cmd(["wait", "c"]).prints("42\n");
    let ending = nix::sys::wait::waitpid(init, None).expect("look");
    assert_eq!(ending, nix::sys::wait::WaitStatus::Exited(init, 42));
    podrun.cmd(["wait", "c"]).prints("42\n");
}

#[test]
fn every_one_of_many_exits_is_42_campaign() {
    let podrun = Podrun::new();
    for round in 0..rounds(1000) {
        // Ended before anyone looks, with a waiter, and with one that comes in between.
        podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "sh", "-c", "exit 42"]).prints("c\n");
        let early = (round % 3 == 1).then(|| podrun.cmd(["wait", "c"]).spawn());
        podrun.cmd(["start", "c"]).prints("c\n");
        podrun.cmd(["wait", "c"]).prints("42\n");
        if let Some(waiter) = early {
            assert_eq!(waiter.finish().out(), "42\n");
        }
        assert_eq!(number(&podrun.state("c")["exitCode"]), 42);
        podrun.cmd(["delete", "c"]).prints("c\n");
    }
}

#[test]
fn a_grandchild_that_holds_stdout_does_not_hold_up_the_end() {
    let podrun = Podrun::new();
    podrun.run_script("c", "setsid sleep 1000 & echo ready; exit 3");
    podrun.cmd(["wait", "c"]).prints("3\n");
    podrun.settle();
}

#[test]
fn waiters_of_a_container_that_is_deleted_by_force_are_told() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let waiters: Vec<_> = (0..5).map(|_| podrun.cmd(["wait", "c"]).spawn()).collect();
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
    for waiter in waiters {
        let output = waiter.finish();
        let told = output.code == Some(0) && output.out() == "137\n";
        let late = output.code == Some(1) && output.err().contains("does not exist");
        assert!(told || late, "{output}");
    }
}

/// The system calls that `pid` and its threads make while nothing happens for `window`.
fn system_calls_while_idle(podrun: &Podrun, pid: i32, window: Duration) -> String {
    let trace = podrun.dir().join(format!("trace-{pid}"));
    let mut strace = std::process::Command::new("strace")
        .args(["-f", "-o"])
        .arg(&trace)
        .args(["-p", &pid.to_string()])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("run strace");
    // It says so once it is attached.
    let mut line = String::new();
    let stderr = strace.stderr.take().expect("a pipe");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(stderr), &mut line).expect("read");
    assert!(line.contains("attached"), "{line}");
    // This is the one place where time itself is what the scenario is about.
    let strace_pid = strace.id().cast_signed();
    let ended = Pidfd::open(strace_pid).expect("it runs").wait(std::time::Instant::now() + window);
    assert!(!ended, "strace ended by itself");
    crate::harness::process::send(strace_pid, rustix::process::Signal::INT);
    strace.wait().expect("strace ends");
    std::fs::read_to_string(trace).unwrap_or_default()
}

/// Waits until process `pid` sleeps in a call that has no deadline.
fn until_no_timer(pid: i32) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let text = std::fs::read_to_string(format!("/proc/{pid}/syscall")).expect("it runs");
        let fields: Vec<&str> = text.split_whitespace().collect();
        // epoll_wait's fourth argument is -1 then, and ppoll's third no pointer.
        let endless = match fields[0].parse() {
            Ok(libc::SYS_ppoll) => fields[3] == "0x0",
            Ok(_) => fields.get(4).is_some_and(|timeout| timeout.ends_with("ffffffff")),
            Err(_) => false,
        };
        if endless {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{pid} keeps a timer: {text}");
        std::thread::yield_now();
    }
}

fn idle_processes_make_no_system_call(window: Duration) {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "100000"]);
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    // Until the waiter waits: the shim holds its connection, so `exec` behind it is served later. What
    // the first one leaves to do behind its answer is done when the second one is answered.
    for _ in 0..2 {
        podrun.cmd(["exec", "c", "--", "true"]).exits(0);
    }
    let mut subjects = podrun.supervisors();
    assert!(!subjects.is_empty(), "a running container has a shim");
    // A moment after the last request they give memory back, once.
    subjects.iter().for_each(|pid| until_no_timer(*pid));
    subjects.push(waiter.pid());
    let traces: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = subjects
            .iter()
            .map(|pid| scope.spawn(|| system_calls_while_idle(&podrun, *pid, window)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("strace")).collect()
    });
    for (pid, trace) in subjects.iter().zip(traces) {
        // What it was still busy with when it was attached, then one call that does not return before
        // the detaching: a wake-up is a blocking call that returned.
        let calls: Vec<_> = trace.lines().filter(|line| !line.contains("restart_syscall")).collect();
        let blocked = |line: &&&str| {
            ["epoll_", "poll(", "ppoll(", "recv", "read(", "wait"].iter().any(|call| line.contains(call))
        };
        let waits: Vec<_> = calls.iter().filter(blocked).collect();
        let at_last = calls.last().is_none_or(|last| last.contains("detached") || blocked(&last));
        assert!(waits.len() <= 1 && at_last, "{pid} woke up:\n{trace}");
        // Blocked without a deadline: no timer is armed.
        let timeless = calls.iter().all(|line| !line.contains("tv_sec") && !line.contains("{tv"));
        assert!(timeless, "{pid} has a timer:\n{trace}");
    }
    drop(waiter);
}

#[test]
fn an_idle_shim_and_a_waiter_never_wake_up() {
    if in_guest() {
        return; // ptrace in the guest is the host's ptrace: its timing says nothing
    }
    idle_processes_make_no_system_call(Duration::from_secs(3));
}

#[test]
fn an_idle_shim_and_a_waiter_never_wake_up_in_a_minute_campaign() {
    if rounds(1) * 20 < rounds(20) {
        return;
    }
    let seconds = rounds(60).max(3);
    idle_processes_make_no_system_call(Duration::from_secs(seconds as u64));
}
