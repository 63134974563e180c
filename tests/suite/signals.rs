//! Signals act on a container as on any process, PID 1 or not.

use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};

use crate::harness::process::{is_alive, status_field};
use crate::harness::{Podrun, busybox, debian, in_guest, number};

#[test]
fn a_process_without_a_handler_ends_by_the_signal_it_was_sent() {
    let podrun = Podrun::new();
    for (name, number_of_it) in [("TERM", 15), ("SIGINT", 2), ("1", 1), ("USR1", 10)] {
        podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
        podrun.cmd(["kill", "c", name]).exits(0);
        // The record is there when `kill` returns.
        let state = podrun.state("c");
        assert_eq!(state["status"], "stopped");
        assert_eq!(number(&state["exitSignal"]), number_of_it);
        podrun.cmd(["wait", "c"]).prints(&format!("{}\n", 128 + number_of_it));
        podrun.cmd(["delete", "c"]).prints("c\n");
    }
}

#[test]
fn kill_then_delete_never_races() {
    let podrun = Podrun::new();
    for _ in 0..10 {
        podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
        podrun.sh("podrun kill c; podrun delete c").prints("c\n");
    }
}

#[test]
fn a_trap_runs() {
    let podrun = Podrun::new();
    podrun.run_script("c", "trap 'echo trapped; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    podrun.cmd(["kill", "c"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("5\n");
    podrun.cmd(["logs", "c"]).prints("ready\ntrapped\n");
    assert!(podrun.state("c")["exitSignal"].is_null());
}

#[test]
fn each_spelling_names_its_signal() {
    let podrun = Podrun::new();
    for spelling in [&["c", "USR1"][..], &["c", "SIGUSR1"], &["-s", "usr1", "c"], &["c", "10"]] {
        podrun.run_script("c", "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done");
        podrun.cmd(["kill"].into_iter().chain(spelling.iter().copied())).exits(0);
        podrun.cmd(["wait", "c"]).prints("9\n");
        podrun.cmd(["delete", "c"]).prints("c\n");
    }
}

#[test]
fn an_ignored_signal_is_ignored() {
    let podrun = Podrun::new();
    podrun.run_script("c", "trap '' TERM; echo ready; exec sleep 1000");
    podrun.cmd(["kill", "c"]).exits(0);
    assert_eq!(podrun.status("c"), "running");
    // Signals whose default is to do nothing end nobody.
    podrun.cmd(["kill", "c", "WINCH"]).exits(0);
    podrun.cmd(["kill", "c", "CHLD"]).exits(0);
    assert_eq!(podrun.status("c"), "running");
    podrun.cmd(["kill", "c", "INT"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("130\n");
}

#[test]
fn kill_is_the_end_of_whatever_ignores_everything() {
    let podrun = Podrun::new();
    podrun.run_script("c", "trap '' TERM INT HUP QUIT; echo ready; exec sleep 1000");
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("137\n");
    assert_eq!(number(&podrun.state("c")["exitSignal"]), 9);
}

/// Runs Python that blocks SIGTERM, says `ready`, and waits for it in `sigwait`.
fn python_in_sigwait(podrun: &Podrun) {
    let script = "import signal, sys\n\
                  signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n\
                  print('ready', flush=True)\n\
                  print(signal.sigwait([signal.SIGTERM]).name, flush=True)\n\
                  sys.exit(4)";
    podrun.cmd(["run", "c", "-d", "--rootfs", &debian(), "--", "python3", "-c", script]).prints("c\n");
    podrun.says("c", "ready");
}

#[test]
fn a_process_that_blocks_a_signal_to_wait_for_it_hears_it() {
    if in_guest() {
        return; // a kernel without /proc/PID/syscall does not tell who waits for a signal
    }
    let podrun = Podrun::new();
    python_in_sigwait(&podrun);
    podrun.cmd(["kill", "c"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("4\n");
    podrun.cmd(["logs", "c"]).prints("ready\nSIGTERM\n");
}

#[test]
fn a_process_inside_sigwait_hears_it_though_it_seems_to_block_nothing() {
    if in_guest() {
        return; // a kernel without /proc/PID/syscall does not tell who waits for a signal
    }
    let podrun = Podrun::new();
    python_in_sigwait(&podrun);
    let pid = podrun.pid("c");
    // Inside rt_sigtimedwait the kernel shows the signal as not blocked; getting there is no event
    // that one could block on from outside.
    let deadline = Instant::now() + crate::harness::hang_limit();
    while status_field(pid, "SigBlk").as_deref() != Some("0000000000000000") {
        assert!(Instant::now() < deadline, "never inside sigwait");
        std::thread::yield_now();
    }
    podrun.cmd(["kill", "c"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("4\n");
    podrun.cmd(["logs", "c"]).prints("ready\nSIGTERM\n");
}

#[test]
fn stop_is_immediate_where_nobody_listens() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let begin = Instant::now();
    podrun.cmd(["stop", "-t", "300", "c"]).prints("c\n");
    assert!(begin.elapsed() < Duration::from_secs(150), "it waited for a process that cannot hear");
    podrun.cmd(["wait", "c"]).prints("143\n");
    podrun.cmd(["stop", "c"]).prints("c\n");
}

#[test]
fn stop_takes_its_timeout_where_the_signal_is_ignored() {
    let podrun = Podrun::new();
    podrun.run_script("c", "trap '' TERM; echo ready; exec sleep 1000");
    let begin = Instant::now();
    podrun.cmd(["stop", "-t", "1", "c"]).prints("c\n");
    assert!(begin.elapsed() >= Duration::from_secs(1));
    podrun.cmd(["wait", "c"]).prints("137\n");
}

#[test]
fn stop_gives_a_handler_its_time() {
    let podrun = Podrun::new();
    podrun
        .run_script("c", "trap 'sleep 0.3; echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done");
    podrun.cmd(["stop", "-t", "300", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
    podrun.cmd(["logs", "c"]).prints("ready\nbye\n");
}

#[test]
fn stop_uses_the_containers_own_signal_and_timeout() {
    let podrun = Podrun::new();
    let script =
        "trap 'echo term' TERM; trap 'echo quit; exit 6' QUIT; echo ready; while :; do sleep 0.05; done";
    let args =
        ["run", "c", "-d", "--stop-signal", "SIGQUIT", "--stop-timeout", "300", "--rootfs", &busybox()];
    podrun.cmd(args.into_iter().chain(["--", "sh", "-c", script])).prints("c\n");
    podrun.says("c", "ready");
    podrun.cmd(["stop", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("6\n");
    podrun.cmd(["logs", "c"]).prints("ready\nquit\n");
}

#[test]
fn kill_all_reaches_every_process() {
    let podrun = Podrun::new();
    podrun.run_script("c", "trap 'wait; exit 6' USR1; sleep 1000 & echo ready; wait");
    // `wait` in the trap ends only once the child has got the signal as well.
    podrun.cmd(["kill", "--all", "c", "USR1"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("6\n");
}

#[test]
fn what_keeps_a_signal_from_the_others_does_not_hide_what_ended_the_command() {
    let podrun = Podrun::new();
    podrun.run_script("c", "for i in $(seq 60); do sleep 100000 & done; echo ready; wait");
    let shim = podrun.shim_pid("c");
    // With many clients a shim has few descriptors to spare: fewer than there are processes.
    let socket = podrun.run_root().join("c/shim.sock");
    let _clients: Vec<_> = (0..150).map(|_| UnixStream::connect(&socket).expect("it listens")).collect();
    // They are served in the order they came in.
    podrun.cmd(["kill", "c", "WINCH"]).exits(0);
    let entries = std::fs::read_dir(format!("/proc/{shim}/fd")).expect("it lives");
    let open: Vec<u64> =
        entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    let limit = (0..).filter(|number| !open.contains(number)).nth(8);
    let limit = Rlimit { current: limit, maximum: limit };
    prlimit(Pid::from_raw(shim), Resource::Nofile, limit).expect("limit a shim");
    podrun.cmd(["kill", "--all", "c", "TERM"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("143\n");
    assert_eq!(number(&podrun.state("c")["exitSignal"]), 15);
}

#[test]
fn foreground_run_passes_signals_on() {
    let podrun = Podrun::new();
    let script =
        "trap 'echo int' INT; trap 'echo term; exit 8' TERM; echo ready; while :; do sleep 0.05; done";
    let mut run = podrun.cmd(["run", "c", "--rm", "--rootfs", &busybox(), "--", "sh", "-c", script]).spawn();
    run.until("ready");
    run.signal(Signal::INT);
    run.until("int");
    run.signal(Signal::TERM);
    let output = run.finish();
    assert_eq!((output.code, output.out()), (Some(8), "ready\nint\nterm\n".into()), "{output}");
}

#[test]
fn foreground_run_of_something_deaf_ends_by_the_signal() {
    let podrun = Podrun::new();
    let mut run = podrun
        .cmd(["run", "c", "--rm", "--rootfs", &busybox(), "--", "sh", "-c", "echo ready; exec sleep 1000"])
        .spawn();
    run.until("ready");
    run.signal(Signal::TERM);
    assert_eq!(run.finish().code, Some(143));
}

#[test]
fn a_stopped_container_takes_no_signal() {
    let podrun = Podrun::new();
    podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "true"]).exits(0);
    podrun.cmd(["kill", "c"]).fails(1, "not running");
    podrun.cmd(["kill", "nosuch"]).fails(1, "does not exist");
}

#[test]
fn a_created_container_can_be_killed() {
    let podrun = Podrun::new();
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "echo", "never"]).prints("c\n");
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("137\n");
    podrun.cmd(["logs", "c"]).prints("");
}

#[test]
fn a_recycled_pid_is_left_alone() {
    let podrun = Podrun::new();
    podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "true"]).exits(0);
    podrun.settle();
    // A stranger who has the pid that the files name, but not its start time.
    let mut stranger = std::process::Command::new("sleep").arg("1000").spawn().expect("run sleep");
    let pid = stranger.id().cast_signed();
    let path = podrun.container_dir("c").join("state.json");
    let mut state: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    state["status"] = "running".into();
    state["init"] = serde_json::json!({"pid": pid, "startTime": 1});
    std::fs::write(&path, state.to_string()).unwrap();
    podrun.cmd(["kill", "c", "KILL"]).fails(1, "");
    podrun.cmd(["exec", "c", "--", "true"]).fails(125, "");
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
    assert!(is_alive(pid), "{:?}", status_field(pid, "State"));
    stranger.kill().expect("it lives");
    stranger.wait().expect("it ends");
}

#[test]
fn several_are_stopped_at_once() {
    let podrun = Podrun::new();
    // Each ends only once all of them have been told to.
    let dir = podrun.dir().join("told");
    std::fs::create_dir(&dir).expect("make a directory");
    let volume = format!("{}:/mnt", dir.display());
    let ids = ["a", "b", "c"];
    let script = "trap 'echo told; : >/mnt/$HOSTNAME' TERM; echo ready; \
                  while [ $(ls /mnt | wc -l) != 3 ]; do sleep 0.01; done";
    for id in ids {
        let args = ["run", "-d", id, "--hostname", id, "-v", &volume, "--rootfs", &busybox()];
        podrun.cmd(args.into_iter().chain(["--", "sh", "-c", script])).prints(&format!("{id}\n"));
    }
    ids.iter().for_each(|id| podrun.says(id, "ready"));
    let stopped = podrun.cmd(["stop", "-t", "600", "a", "nobody", "b", "c"]).run();
    assert!(stopped.code == Some(1) && stopped.err().contains("nobody"), "{stopped}");
    podrun.cmd(["wait", "a", "b", "c"]).prints("0\n0\n0\n");
    for id in ids {
        std::fs::remove_file(dir.join(id)).expect("it was told");
    }
    podrun.cmd(["start", "a", "b", "c"]).prints("a\nb\nc\n");
    for id in ids {
        podrun.state_until(id, |state| state["status"] == "running");
    }
    podrun.cmd(["restart", "-t", "600", "a", "b", "c"]).prints("a\nb\nc\n");
}
