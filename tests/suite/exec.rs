//! Running something inside a running container.

use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::process::{PidfdGetfdFlags, Signal, pidfd_getfd};

use crate::harness::{Podrun, busybox, debian, in_guest, process};
use crate::keeper::freeze;

fn with_sleeper() -> Podrun {
    let podrun = Podrun::new();
    let args = ["run", "c", "-d", "--env", "OWN=1", "--cwd", "/tmp", "--rootfs", &busybox()];
    podrun.cmd(args.into_iter().chain(["--", "sleep", "100000"])).prints("c\n");
    podrun
}

#[test]
fn the_exit_code_is_the_commands_own() {
    let podrun = with_sleeper();
    for code in [0, 1, 42, 125, 126, 127, 255] {
        podrun.cmd(["exec", "c", "--", "sh", "-c", &format!("exit {code}")]).exits(code);
    }
    podrun.cmd(["exec", "c", "--", "sh", "-c", "kill -9 $$"]).exits(137);
    podrun.cmd(["exec", "c", "--", "sh", "-c", "kill -TERM $$"]).exits(143);
}

#[test]
fn what_cannot_be_executed_is_an_error_with_a_reason() {
    let podrun = with_sleeper();
    let exec = |command| podrun.cmd(["exec", "c", "--", command]);
    exec("no-such-thing").fails(127, "executable file not found in");
    exec("/no/such/thing").fails(127, "no such file or directory");
    exec("/etc/passwd").fails(126, "permission denied");
    exec("/etc").fails(126, "");
    let cwd = podrun.cmd(["exec", "--cwd", "/nowhere", "c", "--", "true"]).run();
    assert!(cwd.err().contains("/nowhere") && !matches!(cwd.code, Some(0 | 127)), "{cwd}");
    podrun.cmd(["exec", "--user", "nosuch", "c", "--", "true"]).fails(125, "nosuch");
}

#[test]
fn the_environment_directory_and_user_are_the_containers_unless_told_otherwise() {
    let podrun = with_sleeper();
    let script = "echo $OWN $FOO $(pwd) $(id -u) $(id -g) $HOME";
    let exec = |options: &[&str]| {
        let args = ["exec"].into_iter().chain(options.iter().copied()).chain(["c", "--", "sh", "-c", script]);
        podrun.cmd(args).ok()
    };
    assert_eq!(exec(&[]), "1 /tmp 0 0 /root\n");
    assert_eq!(exec(&["--env", "FOO=bar", "--env", "OWN=2"]), "2 bar /tmp 0 0 /root\n");
    assert_eq!(exec(&["--cwd", "/etc"]), "1 /etc 0 0 /root\n");
    assert!(exec(&["--user", "1000"]).starts_with("1 /tmp 1000 1000"));
    assert!(exec(&["--user", "user:staff"]).starts_with("1 /tmp 1000 50"));
    assert!(exec(&["--user", "1:2"]).starts_with("1 /tmp 1 2"));
    // Options may also follow the ID, and `--` may be left out.
    podrun
        .cmd(["exec", "c", "--env", "FOO=x", "--cwd", "/etc", "--", "sh", "-c", script])
        .prints("1 x /etc 0 0 /root\n");
    podrun.cmd(["exec", "c", "echo", "-n", "x"]).prints("x");
}

#[test]
fn a_user_is_that_user_and_nobody_else() {
    let podrun = with_sleeper();
    let script = "grep -E '^(Uid|Gid|Groups|Cap(Inh|Prm|Eff|Amb)):' /proc/self/status";
    let text = podrun.cmd(["exec", "-u", "1000:1000", "c", "--", "sh", "-c", script]).ok();
    let field = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key)).expect("the field");
        line.split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(field("Uid:"), "1000 1000 1000 1000");
    assert_eq!(field("Gid:"), "1000 1000 1000 1000");
    for set in ["CapInh:", "CapPrm:", "CapEff:", "CapAmb:"] {
        assert_eq!(field(set), "0000000000000000", "{set} {text}");
    }
}

#[test]
fn it_lands_in_the_containers_namespaces_and_cgroup_with_nothing_of_its_callers() {
    let podrun = with_sleeper();
    for namespace in ["pid", "mnt", "uts", "ipc", "cgroup", "net"] {
        let link = format!("/proc/{}/ns/{namespace}", podrun.pid("c"));
        let init = std::fs::read_link(link).unwrap();
        let own = format!("/proc/self/ns/{namespace}");
        podrun.cmd(["exec", "c", "--", "readlink", &own]).prints(&format!("{}\n", init.display()));
    }
    podrun.cmd(["exec", "c", "--", "sh", "-c", "ls /proc/$$/fd; :"]).prints("0\n1\n2\n");
    let script = "grep -E '^Sig(Blk|Ign):' /proc/self/status | cut -f2";
    podrun.cmd(["exec", "c", "--", "sh", "-c", script]).prints("0000000000000000\n0000000000000000\n");
    let mut inside = podrun.cmd(["exec", "c", "--", "sh", "-c", "echo ready; exec sleep 999"]).spawn();
    inside.until("ready");
    let pids = podrun.cmd(["ps", "c", "--format", "json"]).ok();
    let pids: Vec<i32> = serde_json::from_str(&pids).unwrap();
    let init = podrun.pid("c");
    let other = pids.into_iter().find(|pid| *pid != init).expect("the exec'd process");
    assert_eq!(process::cgroup(other), process::cgroup(init));
    assert_eq!(process::parent(other), podrun.shim_pid("c"), "a direct child of the shim");
}

#[test]
fn a_hundred_megabytes_pass_through_unchanged() {
    let podrun = with_sleeper();
    let size = if in_guest() { 4 << 20 } else { 100 << 20 };
    let mut random = fastrand::Rng::with_seed(7);
    let bytes: Vec<u8> =
        std::iter::repeat_with(|| random.u64(..).to_ne_bytes()).take(size / 8).flatten().collect();
    let output = podrun.cmd(["exec", "-i", "c", "--", "cat"]).stdin(bytes.clone()).run();
    output.expect(0);
    assert!(output.stdout == bytes, "{} of {size} bytes came back", output.stdout.len());
}

#[test]
fn a_stdin_that_is_not_read_stops_nothing() {
    let podrun = with_sleeper();
    let script = "head -c 3000000 /dev/zero";
    let output = podrun.cmd(["exec", "-i", "c", "--", "sh", "-c", script]).stdin(vec![1; 3_000_000]).run();
    output.expect(0);
    assert_eq!(output.stdout.len(), 3_000_000);
    podrun.cmd(["exec", "c", "--", "cat"]).stdin("not for it").prints("");
}

#[test]
fn two_hundred_at_once_all_succeed() {
    let podrun = with_sleeper();
    let count = if in_guest() { 25 } else { 200 };
    let all: Vec<_> = (0..count)
        .map(|i| podrun.cmd(["exec", "c", "--", "sh", "-c", &format!("echo {i}; exit {}", i % 7)]).spawn())
        .collect();
    for (i, one) in all.into_iter().enumerate() {
        let output = one.finish();
        let expected = (Some(i32::try_from(i % 7).unwrap()), format!("{i}\n"), String::new());
        assert_eq!((output.code, output.out(), output.err()), expected);
    }
}

#[test]
fn a_detached_one_survives_its_command() {
    let podrun = with_sleeper();
    podrun.cmd(["exec", "-d", "c", "--", "sleep", "4242"]).ok();
    let table = podrun.cmd(["ps", "c"]).ok();
    assert!(table.contains("sleep 4242"), "{table}");
    // What nobody is there to type it has an end.
    podrun.cmd(["exec", "-d", "-i", "c", "--", "sh", "-c", "cat; exec sleep 4244"]).ok();
    while !podrun.cmd(["ps", "c"]).ok().contains("sleep 4244") {}
    podrun.cmd(["exec", "-d", "c", "--", "no-such-thing"]).fails(127, "executable file not found in");
    // Its three streams are /dev/null: nothing of it in the log, and nobody waits for it.
    let script = r#"x=$(podrun exec -d c -- sh -c 'echo x; exec sleep 4243'); echo returned"#;
    podrun.sh(script).prints("returned\n");
    podrun.cmd(["logs", "c"]).prints("");
}

#[test]
fn signals_to_the_command_reach_what_it_runs() {
    let podrun = with_sleeper();
    let script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut exec = podrun.cmd(["exec", "c", "--", "sh", "-c", script]).spawn();
    exec.until("ready");
    exec.signal(Signal::TERM);
    let output = exec.finish();
    assert_eq!((output.code, output.out()), (Some(9), "ready\ngot\n".into()), "{output}");
}

/// Whether something that process `pid` has sent to a control socket was not received yet.
fn has_unread(pid: i32) -> bool {
    let process = process::Pidfd::open(pid).expect("it lives");
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("it lives");
    let numbers = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let copies = numbers.filter_map(|fd| pidfd_getfd(&process, fd, PidfdGetfdFlags::empty()).ok());
    copies.map(UnixStream::from).any(|socket| {
        let is_control = socket.peer_addr().is_ok_and(|peer| !peer.is_unnamed());
        is_control && podrun::sys::fd::is_unread(socket.as_fd())
    })
}

#[test]
fn a_signal_that_a_shim_did_not_live_to_pass_on_is_passed_on_by_the_next() {
    let podrun = with_sleeper();
    let script = "trap 'echo got; exit 9' TERM; echo ready; while :; do sleep 0.05; done";
    let mut exec = podrun.cmd(["exec", "c", "--", "sh", "-c", script]).spawn();
    exec.until("ready");
    let shim = podrun.shim_pid("c");
    freeze(shim);
    exec.signal(Signal::TERM);
    while !has_unread(exec.pid()) {
        std::thread::yield_now();
    }
    process::send(shim, Signal::KILL);
    let output = exec.finish();
    assert_eq!((output.code, output.out()), (Some(9), "ready\ngot\n".into()), "{output}");
}

#[test]
fn the_death_of_one_command_disturbs_no_other() {
    let podrun = with_sleeper();
    let mut other = podrun.cmd(["exec", "-i", "c", "--", "cat"]).open_stdin().spawn();
    let mut one = podrun.cmd(["exec", "c", "--", "sh", "-c", "echo ready; sleep 1000"]).spawn();
    one.until("ready");
    one.kill();
    other.write(b"x\n");
    other.until("x");
    other.finish().expect(0);
    podrun.cmd(["exec", "c", "--", "true"]).exits(0);
}

#[test]
fn the_containers_end_ends_what_runs_inside_and_says_so() {
    let podrun = with_sleeper();
    let mut exec = podrun.cmd(["exec", "c", "--", "sh", "-c", "echo ready; sleep 1000"]).spawn();
    exec.until("ready");
    podrun.cmd(["kill", "c"]).exits(0);
    assert_eq!(exec.finish().code, Some(137));
    podrun.cmd(["wait", "c"]).prints("143\n");
}

#[test]
fn only_a_running_container_takes_one() {
    let podrun = Podrun::new();
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "true"]).prints("c\n");
    podrun.cmd(["exec", "c", "--", "true"]).fails(125, "not running");
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
    podrun.cmd(["exec", "c", "--", "true"]).fails(125, "not running");
    podrun.cmd(["exec", "nosuch", "--", "true"]).fails(125, "does not exist");
}

#[test]
fn endless_output_leaves_the_shim_small() {
    let podrun = with_sleeper();
    let size = |pid: i32| -> u64 {
        let text = process::status_field(pid, "VmRSS").expect("it lives");
        text.trim_end_matches(" kB").trim().parse().expect("a number")
    };
    let shim = podrun.shim_pid("c");
    podrun.cmd(["exec", "c", "--", "true"]).exits(0);
    let before = size(shim);
    let flood = if in_guest() { "head -c 10000000 /dev/zero" } else { "head -c 200000000 /dev/zero" };
    podrun.cmd(["exec", "c", "--", "sh", "-c", flood]).run().expect(0);
    assert!(size(shim) < before + 1024, "{} kB, {before} kB before", size(shim));
}

#[test]
fn a_real_shell_with_a_pipeline_behaves() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &debian(), ["sleep", "100000"]);
    let script = "set -o pipefail; seq 1 1000 | sort -rn | head -n 1; false | true; echo $?";
    podrun.cmd(["exec", "c", "--", "bash", "-c", script]).prints("1000\n1\n");
}
