//! A process whose first thread has ended is a zombie to whoever looks at `/proc/PID/stat`, and `cgroup.kill` does
//! not reach it; it lives all the same.

use std::fs::File;

use rustix::process::{PidfdFlags, pidfd_open};
use rustix::thread::gettid;
use serde_json::json;

use crate::harness::bundle::{Engine, config};
use crate::harness::{Cmd, Podrun, debian, hang_limit};

/// Its first thread ends at once. Another one opens a FIFO then, and ends it all with 9 when nobody writes there.
const PROGRAM: &str = r#"
import ctypes, os, threading, time
def rest():
    while "State:\tZ" not in open("/proc/%d/status" % os.getpid()).read(): time.sleep(0.001)
    open("/mnt/fifo").read()
    os._exit(9)
threading.Thread(target=rest).start()
ctypes.CDLL(None).syscall(60 if os.uname().machine == "x86_64" else 93, 0)
"#;

/// Where a container finds its FIFO, as a volume.
fn volume(podrun: &Podrun) -> String {
    Cmd::new("mkfifo", [podrun.dir().join("fifo")]).exits(0);
    format!("{}:/mnt", podrun.dir().display())
}

/// Waits until the program has lost its first thread. It goes on as long as this file is open.
#[track_caller]
fn alone(podrun: &Podrun) -> File {
    File::options().write(true).open(podrun.dir().join("fifo")).expect("open a FIFO")
}

/// Runs it as container `c`.
#[track_caller]
fn run(podrun: &Podrun) -> File {
    let (rootfs, volume) = (debian(), volume(podrun));
    let args = ["run", "-d", "c", "--rootfs", &rootfs, "-v", &volume, "--", "python3", "-c", PROGRAM];
    podrun.cmd(args).prints("c\n");
    alone(podrun)
}

#[test]
fn a_container_without_its_first_thread_runs_and_is_entered_and_stopped() {
    let podrun = Podrun::new();
    let _go = run(&podrun);
    let state = podrun.state("c");
    assert_eq!((&state["status"], &state["pidAlive"]), (&json!("running"), &json!(true)));
    // Linux 6.9
    if pidfd_open(gettid(), PidfdFlags::from_bits_retain(nix::libc::O_EXCL.cast_unsigned())).is_ok() {
        podrun.cmd(["exec", "c", "--", "sh", "-c", "echo in; pwd"]).prints("in\n/\n");
    }
    podrun.cmd(["stop", "c"]).prints("c\n");
    podrun.cmd(["start", "c"]).prints("c\n");
    let _go = alone(&podrun);
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
}

#[test]
fn a_container_without_its_first_thread_is_adopted_and_its_true_code_recorded() {
    let podrun = Podrun::new();
    let go = run(&podrun);
    podrun.lose("c");
    assert_eq!(podrun.status("c"), "running");
    podrun.cmd(["recover", "c"]).prints("c\n");
    drop(go);
    podrun.cmd(["wait", "c"]).prints("9\n");
}

#[test]
fn an_engines_container_without_its_first_thread_runs_and_is_killed() {
    let podrun = Podrun::new();
    let mut config = config(&debian(), &["python3", "-c", PROGRAM]);
    let mount = json!({"destination": "/mnt", "source": podrun.dir(), "type": "bind", "options": ["rbind"]});
    config["mounts"].as_array_mut().expect("mounts").push(mount);
    volume(&podrun);
    let engine = Engine::create(&podrun, "c", &config);
    podrun.cmd(["start", "c"]).exits(0);
    let _go = alone(&podrun);
    assert_eq!(podrun.status("c"), "running");
    podrun.cmd(["delete", "c"]).fails(1, "is running");
    podrun.cmd(["kill", "--all", "c", "KILL"]).exits(0);
    assert_eq!(engine.wait().signal, Some(9));
    podrun.cmd(["delete", "c"]).exits(0);
}

/// Where the end of init is not that of the others, they are killed one by one.
#[test]
fn a_process_without_its_first_thread_does_not_outlive_its_container() {
    let podrun = Podrun::new();
    let (rootfs, volume) = (debian(), volume(&podrun));
    Cmd::new("mkfifo", [podrun.dir().join("end")]).exits(0);
    let script = "python3 -c \"$0\" & read x </mnt/end; exit 3";
    let args = ["run", "-d", "c", "--pid", "host", "-v", &volume, "--rootfs"];
    podrun.cmd(args.into_iter().chain([&rootfs, "--", "sh", "-c", script, PROGRAM])).prints("c\n");
    let go = alone(&podrun);
    std::fs::write(podrun.dir().join("end"), "now\n").expect("let init end");
    podrun.cmd(["wait", "c"]).prints("3\n");
    podrun.cmd(["start", "c"]).prints("c\n");
    // What is left of the first run would read there.
    drop(go);
    let _go = alone(&podrun);
    podrun.cmd(["stop", "-t", "0", "c"]).prints("c\n");
    podrun.cmd(["delete", "c"]).prints("c\n");
}

/// More of them than a supervisor has descriptors to spare.
#[test]
fn many_such_processes_are_killed_and_signalled_with_few_descriptors() {
    let podrun = Podrun::new();
    let (rootfs, volume) = (debian(), volume(&podrun));
    // The second `wait` is over once none of them is left.
    let script = "trap : USR1; for i in $(seq 80); do python3 -c \"$0\" & done; wait; wait; exit 4";
    let args =
        ["run", "-d", "c", "--pid", "host", "-v", &volume, "--rootfs", &rootfs, "--", "sh", "-c", script];
    let words = args.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ");
    std::fs::write(podrun.dir().join("program"), PROGRAM).expect("write a program");
    let run = format!("ulimit -S -n 70; podrun {words} \"$(cat '{}/program')\"", podrun.dir().display());
    podrun.sh(&run).prints("c\n");
    let _go = alone(&podrun);
    let all_are_there = || {
        let deadline = std::time::Instant::now() + hang_limit();
        while podrun.cmd(["ps", "c"]).ok().matches(" Z ").count() < 80 {
            assert!(std::time::Instant::now() < deadline, "{}", podrun.cmd(["ps", "c"]).ok());
        }
    };
    all_are_there();
    podrun.cmd(["kill", "--all", "c", "USR1"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("4\n");
    podrun.sh("ulimit -S -n 70; podrun start c").prints("c\n");
    all_are_there();
    podrun.cmd(["stop", "-t", "0", "c"]).prints("c\n");
    podrun.cmd(["delete", "c"]).prints("c\n");
}
