//! What a command has of its caller: limits, and signals that are ignored.

use rustix::process::Signal;
use serde_json::json;

use crate::harness::bundle::{Engine, bundle, config};
use crate::harness::process::status_field;
use crate::harness::{Podrun, busybox, process};

/// Without it nobody lifts a hard limit.
fn may_lift_limits() -> bool {
    const SYS_RESOURCE: u64 = 1 << 24;
    let own = std::process::id().cast_signed();
    let effective = status_field(own, "CapEff").expect("capabilities");
    u64::from_str_radix(&effective, 16).expect("a mask") & SYS_RESOURCE != 0
}

#[test]
fn the_callers_limits_are_the_containers_and_not_those_of_its_log() {
    let podrun = Podrun::new();
    let inside = "grep -E 'Max (file size|cpu time)' /proc/self/limits; seq 1 50000; echo end";
    let script = format!(
        "ulimit -S -f 100; ulimit -S -t 7; podrun run c --rootfs {} -- sh -c \"{inside}\"",
        busybox()
    );
    let output = podrun.sh(&script).run();
    output.expect(0);
    let text = output.out();
    let soft = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).expect("a limit");
        line[name.len()..].split_whitespace().next().expect("a value").to_owned()
    };
    assert_eq!((soft("Max file size"), soft("Max cpu time")), ("51200".into(), "7".into()));
    assert!(text.ends_with("50000\nend\n"), "{}", text.len());
    assert_eq!(podrun.cmd(["logs", "c"]).ok(), text);
    // A supervisor that is made later is not limited either.
    podrun.sh("ulimit -S -f 1; podrun start c; podrun wait c").prints("c\n0\n");
    assert_eq!(podrun.cmd(["logs", "--tail", "1", "c"]).ok(), "end\n");
    podrun.cmd(["delete", "c"]).prints("c\n");
    for limit in ["-f 100", "-t 100"] {
        let script = format!("ulimit {limit}; podrun run --rm --rootfs {} -- echo in", busybox());
        match may_lift_limits() {
            true => podrun.sh(&script).prints("in\n"),
            false => {
                let output = podrun.sh(&script).fails(125, "this process is limited by `ulimit -");
                assert!(output.err().contains("hint: `ulimit -"), "{output}");
            }
        }
    }
}

/// What the kernel says of a process's soft limit.
fn limit(pid: i32, name: &str) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/limits")).expect("it lives");
    let line = text.lines().find(|line| line.starts_with(name)).expect("a limit");
    line[name.len()..].split_whitespace().next().expect("a value").to_owned()
}

#[test]
fn whoever_needs_the_shim_of_a_lost_container_does_not_limit_it() {
    let podrun = Podrun::new();
    let script = "trap 'seq 1 50000; echo end; exit 3' USR1; echo ready; while :; do sleep 0.02; done";
    podrun.run_script("c", script);
    for needs in ["kill c WINCH", "exec c true"] {
        podrun.lose("c");
        podrun.sh(&format!("ulimit -S -f 100; ulimit -S -t 7; podrun {needs}")).exits(0);
        for pid in [podrun.keeper_pid("c"), podrun.shim_pid("c")] {
            assert_eq!(limit(pid, "Max file size"), "unlimited", "{needs}");
            assert_eq!(limit(pid, "Max cpu time"), "unlimited", "{needs}");
        }
    }
    podrun.lose("c");
    let waiter = podrun.sh("ulimit -S -f 100; ulimit -S -n 50; exec podrun wait c").spawn();
    podrun.state_until("c", |state| state["shim"]["adoptions"] == 3);
    assert_eq!(limit(podrun.shim_pid("c"), "Max open files"), "64");
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    assert_eq!(waiter.finish().out(), "3\n");
    assert_eq!(podrun.cmd(["logs", "--tail", "1", "c"]).ok(), "end\n");
}

#[test]
fn who_cannot_lift_its_limits_makes_no_shim_for_a_lost_container() {
    if may_lift_limits() {
        return;
    }
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "1000"]);
    podrun.lose("c");
    for (limit, needs, code) in [
        ("-f 8", "exec c true", 125),
        ("-t 5", "kill c", 1),
        ("-n 20", "kill c", 1),
        ("-v 900000", "wait c", 1),
        ("-f 8", "stop c", 1),
    ] {
        let script = format!("ulimit {limit}; exec timeout 20 podrun {needs}");
        podrun.sh(&script).fails(code, &format!("limited by `ulimit {}`", &limit[..2]));
        assert_eq!(podrun.state("c")["shim"]["alive"], false, "{limit}");
    }
    podrun.cmd(["exec", "c", "echo", "x"]).prints("x\n");
    assert_eq!(limit(podrun.shim_pid("c"), "Max file size"), "unlimited");
}

#[test]
fn a_bundle_has_the_callers_limits_where_it_names_none() {
    let podrun = Podrun::new();
    let limits = "awk '/Max (file size|cpu time)/ { print $4 }' /proc/self/limits";
    let mut config = config(&busybox(), &["sh", "-c", limits]);
    config["process"]["rlimits"] = json!([{"type": "RLIMIT_CPU", "soft": 50, "hard": 60}]);
    let dir = bundle(&podrun.dir().join("bundle"), &config);
    let script = format!("ulimit -S -f 100; ulimit -S -t 7; podrun run --rm --bundle {}", dir.display());
    podrun.sh(&script).prints("50\n51200\n");
}

#[test]
fn a_small_stack_is_made_larger_or_refused() {
    let podrun = Podrun::new();
    let run = format!("podrun run --rm --rootfs {} -- echo in", busybox());
    podrun.sh(&format!("ulimit -S -s 100; {run}")).prints("in\n");
    // The container has the caller's.
    let inside = format!("podrun run --rm --rootfs {} -- sh -c 'ulimit -s'", busybox());
    podrun.sh(&format!("ulimit -S -s 512; {inside}")).prints("512\n");
    podrun.sh(&format!("ulimit -s 100; {run}")).fails(125, "the stack is limited");
    // What starts nothing fails as such commands do.
    for other in ["list", "delete c", "--help", "create --bundle b c"] {
        podrun.sh(&format!("ulimit -s 100; podrun {other}")).fails(1, "the stack is limited");
    }
    podrun.sh("ulimit -s 100; podrun --log log state c").fails(1, "the stack is limited");
    let log = std::fs::read_to_string(podrun.dir().join("log")).expect("it was written");
    assert!(log.contains("the stack is limited"), "{log}");
}

#[test]
fn an_engines_container_has_the_callers_small_stack() {
    let podrun = Podrun::new();
    let script = "ulimit -s; exec sleep 1000";
    let small = r#"ulimit -S -s 512; exec podrun "$@""#;
    let engine = Engine::create_by(&podrun, "c", &config(&busybox(), &["sh", "-c", script]), small);
    podrun.cmd(["start", "c"]).exits(0);
    podrun.sh("ulimit -S -s 256; exec podrun exec c sh -c 'ulimit -s'").prints("256\n");
    let ours = podrun.sh("ulimit -s").ok();
    podrun.cmd(["exec", "c", "sh", "-c", "ulimit -s"]).prints(&ours);
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    assert_eq!(engine.wait().out(), "512\n");
    let mut named = config(&busybox(), &["sh", "-c", "ulimit -s"]);
    named["process"]["rlimits"] = json!([{"type": "RLIMIT_STACK", "soft": 2 << 20, "hard": 4 << 20}]);
    let engine = Engine::create_by(&podrun, "d", &named, small);
    podrun.cmd(["start", "d"]).exits(0);
    assert_eq!(engine.wait().out(), "2048\n");
}

#[test]
fn a_hangup_that_the_caller_ignores_stays_ignored_and_an_interrupt_does_not() {
    let podrun = Podrun::new();
    let script = "trap 'echo quit' QUIT; echo up; while :; do sleep 0.02; done";
    // As `nohup` does, and as a shell does for what is in the background.
    let run = format!("trap '' HUP INT QUIT; exec podrun run c --rootfs {} -- sh -c \"{script}\"", busybox());
    let mut run = podrun.sh(&run).spawn();
    run.until("up");
    run.signal(Signal::HUP);
    // Those are passed on, and come after it.
    run.signal(Signal::QUIT);
    run.until("quit");
    run.signal(Signal::INT);
    run.finish().expect(130);
    podrun.cmd(["wait", "c"]).prints("130\n");
}

/// `id` would look for a name.
const WHO: [&str; 3] = ["awk", "/^Uid/ { print $2 }", "/proc/self/status"];

#[test]
fn a_container_that_spoils_its_users_file_keeps_out_only_who_needs_it() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &crate::harness::overlay(busybox()), ["sleep", "1000"]);
    let init = podrun.pid("c");
    for spoil in
        ["rm /etc/passwd; mkfifo /etc/passwd", "ln -sf /dev/zero /etc/passwd; ln -sf /dev/zero /etc/group"]
    {
        podrun.cmd(["exec", "c", "sh", "-c", spoil]).exits(0);
        for user in ["0", "5:6", "1000"] {
            let id = user.split(':').next().expect("a number").to_owned() + "\n";
            podrun.cmd(["exec", "-u", user, "c"].into_iter().chain(WHO)).prints(&id);
        }
        podrun.cmd(["exec", "c"].into_iter().chain(WHO)).prints("0\n");
        podrun.cmd(["exec", "-u", "user", "c", "id"]).fails(125, "read /etc/passwd of the container");
    }
    podrun.cmd(["restart", "-t", "0", "c"]).prints("c\n");
    assert!(!process::is_alive(init));
    podrun.cmd(["exec", "c"].into_iter().chain(WHO)).prints("0\n");
}

#[test]
fn where_a_caller_has_closed_its_standard_descriptors_the_null_device_is() {
    let podrun = Podrun::new();
    let out = podrun.dir().join("out");
    std::fs::create_dir(&out).expect("a directory");
    let (volume, root) = (format!("{}:/out", out.display()), format!("{}:O", busybox()));
    podrun.cmd(["run", "c", "-d", "-v", &volume, "--rootfs", &root, "--", "sleep", "1000"]).prints("c\n");
    // Otherwise it would be what podrun opens first: its socket to the shim, or a file.
    let inside = "text=$(for fd in 0 1 2; do stat -Lc %t:%T /proc/$$/fd/$fd; done); echo \"$text\" >/out/fds";
    podrun.sh(&format!("podrun exec -i c sh -c '{inside}' <&- >&- 2>&-")).run().expect(0);
    assert_eq!(std::fs::read_to_string(out.join("fds")).expect("written"), "1:3\n".repeat(3));
    // What would have been printed is printed to nobody, and no file is written in its place.
    podrun.sh("podrun list >&- 2>&-; podrun nonsense 2>&-").run().expect(2);
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
}
