//! A container outlives whoever started it, and its shim has nothing of theirs.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use rustix::process::Signal;

use crate::harness::process::{self, cgroup, descriptors, is_alive, parent, status_field, wait_for_end};
use crate::harness::{Podrun, busybox, number};

#[test]
fn command_substitution_returns_at_once() {
    let podrun = Podrun::new();
    // If anything held the pipe of $( ), the shell would wait for the container.
    let script = r#"x=$(podrun run -d c --rootfs "$BUSYBOX" -- sleep 1000); echo "got $x""#;
    podrun.sh(script).prints("got c\n");
    let script = r#"x=$(podrun create d --rootfs "$BUSYBOX" -- sleep 1000 2>&1); y=$(podrun start d 2>&1)
                    echo "got $x $y""#;
    podrun.sh(script).prints("got d d\n");
    assert_eq!(podrun.status("c"), "running");
    assert_eq!(podrun.status("d"), "running");
}

#[test]
fn the_shim_has_nothing_of_its_caller() {
    let podrun = Podrun::new();
    // A caller with a file and a pipe open that are not meant for anyone.
    let caller = podrun
        .sh(r#"exec 7>caller-file 8<>/dev/zero; podrun run -d c --rootfs "$BUSYBOX" -- sleep 1000; echo $$; cat"#)
        .open_stdin();
    let mut caller = caller.spawn();
    caller.until("c");
    let shell: i32 = caller.line().expect("its pid").parse().expect("a number");
    let supervisors = podrun.supervisors();
    assert!(supervisors.contains(&podrun.shim_pid("c")), "the shim is in the cgroup of shims");
    let foreign = descriptors(shell);
    for pid in supervisors {
        assert_ne!(parent(pid), shell, "{}", process::describe(pid));
        assert_ne!(parent(pid), std::process::id().cast_signed());
        assert_ne!(cgroup(pid), cgroup(shell), "outside its caller's cgroup");
        let session = |pid| {
            std::fs::read_to_string(format!("/proc/{pid}/stat")).map(|stat| {
                let fields = stat.rsplit_once(')').expect("a name").1.split_whitespace();
                fields.skip(3).take(2).map(str::to_owned).collect::<Vec<_>>()
            })
        };
        let [ours, theirs] = [session(shell), session(pid)].map(|stat| stat.expect("it lives"));
        assert_ne!(ours[0], theirs[0], "another session");
        assert_eq!(theirs[1], "0", "no controlling terminal");
        for target in descriptors(pid) {
            let shared = foreign.contains(&target) && target != Path::new("/dev/null");
            assert!(!shared, "{} holds {} of its caller", process::describe(pid), target.display());
            let own = target.starts_with(podrun.root()) || target.starts_with(podrun.run_root());
            // What a keeper remembers is a file in memory.
            let places = ["/dev", "/proc", "/sys", "/memfd:podrun (deleted)"];
            let elsewhere = places.iter().any(|place| target.starts_with(place));
            // A device that is shown on a mount of its own is at the root of that.
            let file = target.starts_with("/") && !own && !elsewhere && process::has_file(pid, &target);
            assert!(!file, "{} holds {}", process::describe(pid), target.display());
        }
        assert_ne!(
            std::fs::read_link(format!("/proc/{pid}/cwd")).unwrap(),
            podrun.dir(),
            "holds no directory"
        );
    }
    caller.finish();
}

#[test]
fn killing_the_command_that_waits_or_streams_leaves_the_container_alone() {
    let podrun = Podrun::new();
    let mut run =
        podrun.cmd(["run", "c", "--rootfs", &busybox(), "--", "sh", "-c", "echo ready; sleep 1000"]).spawn();
    run.until("ready");
    let pid = podrun.pid("c");
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    let follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    for command in [run, waiter, follower] {
        command.kill();
    }
    assert_eq!(podrun.status("c"), "running");
    assert_eq!(podrun.pid("c"), pid);
    podrun.cmd(["exec", "c", "--", "echo", "still here"]).prints("still here\n");
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("137\n");
}

#[test]
fn the_end_of_a_session_and_of_its_terminal_leaves_the_container_alone() {
    let podrun = Podrun::new();
    // `script` gives its command a terminal and a session, and ends both with it: every process of
    // the session that still lives gets SIGHUP.
    let inner = r#"podrun run -d c --rootfs "$BUSYBOX" -- sleep 1000 >/dev/null 2>&1 || exit 9; tty >tty; \
                   kill -HUP -$$ 2>/dev/null; exit 0"#;
    podrun.program("script", ["-qec", inner, "/dev/null"]).run();
    assert!(podrun.dir().join("tty").exists() || podrun.status("c") == "running");
    assert_eq!(podrun.status("c"), "running");
    let shim = podrun.shim_pid("c");
    assert!(is_alive(shim));
    podrun.cmd(["exec", "c", "--", "echo", "x"]).prints("x\n");
}

#[test]
fn foreground_run_under_a_terminal_that_closes_leaves_the_container_running() {
    let podrun = Podrun::new();
    let inner = r#"podrun run c --rootfs "$BUSYBOX" -- sh -c 'trap "" HUP; echo ready; exec sleep 1000'"#;
    let mut terminal = podrun.program("script", ["-qefc", inner, "/dev/null"]).open_stdin().spawn();
    terminal.until("ready");
    terminal.kill();
    assert_eq!(podrun.status("c"), "running");
}

#[test]
fn signals_to_the_shim_do_not_reach_the_container() {
    let podrun = Podrun::new();
    podrun.run_script(
        "c",
        "trap 'echo heard' INT HUP QUIT USR1 USR2 PIPE; echo ready; while :; do sleep 0.05; done",
    );
    let shim = podrun.shim_pid("c");
    for signal in [Signal::INT, Signal::HUP, Signal::QUIT, Signal::USR1, Signal::USR2, Signal::PIPE] {
        process::send(shim, signal);
    }
    podrun.cmd(["exec", "c", "--", "true"]).exits(0);
    assert!(is_alive(shim));
    podrun.cmd(["logs", "c"]).prints("ready\n");
    // TERM stops the container, once.
    process::send(shim, Signal::TERM);
    podrun.cmd(["wait", "c"]).prints("143\n");
}

#[test]
fn the_control_socket_is_for_root_alone() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let socket = podrun.run_root().join("c/shim.sock").metadata().expect("the socket");
    assert_eq!((socket.mode() & 0o777, socket.uid()), (0o600, 0));
    for dir in
        [podrun.root().join("containers/c"), podrun.run_root().join("c"), podrun.root().join("containers")]
    {
        assert_eq!(dir.metadata().expect("a directory").mode() & 0o777, 0o700, "{}", dir.display());
    }
}

#[test]
fn a_stopped_container_costs_no_process() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    let supervisors = podrun.supervisors();
    podrun.cmd(["stop", "c"]).prints("c\n");
    for pid in supervisors {
        wait_for_end(pid);
    }
    assert!(podrun.supervisors().is_empty());
    assert!(!podrun.run_root().join("c/shim.sock").exists());
}

#[test]
fn the_shim_has_one_thread_and_no_open_end() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    for pid in podrun.supervisors() {
        assert_eq!(status_field(pid, "Threads").as_deref(), Some("1"), "{}", process::describe(pid));
    }
    assert_eq!(number(&podrun.state("c")["shim"]["pid"]), podrun.shim_pid("c"));
}
