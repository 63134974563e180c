//! `--init`: a PID 1 that does what the command would not.

use crate::harness::{Podrun, busybox, debian, process};

/// `podrun run -d --init` of a busybox shell script that says `ready`.
fn start(podrun: &Podrun, id: &str, script: &str) {
    let args = ["run", id, "-d", "--init", "--rootfs", &busybox(), "--", "sh", "-c", script];
    podrun.cmd(args).prints(&format!("{id}\n"));
    podrun.says(id, "ready");
}

#[test]
fn the_command_is_not_pid_1_and_its_parent_is() {
    let podrun = Podrun::new();
    let script = "echo $$ $PPID; cat /proc/1/comm | grep -c sh; ls /proc/1/fd | wc -l; grep -E '^(SigIgn|SigCgt)' /proc/self/status | head -n 1";
    let args = ["run", "c", "--rm", "--init", "--rootfs", &busybox(), "--", "sh", "-c", script];
    let output = podrun.cmd(args).run();
    assert!(output.out().starts_with("2 1\n"), "{output}");
    assert!(output.out().contains("SigIgn:\t0000000000000000"), "{output}");
}

#[test]
fn its_exit_code_is_the_commands() {
    let podrun = Podrun::new();
    for code in [0, 1, 42, 255] {
        let script = format!("exit {code}");
        podrun
            .cmd(["run", "c", "--rm", "--init", "--rootfs", &busybox(), "--", "sh", "-c", &script])
            .exits(code);
    }
}

#[test]
fn the_signal_that_ended_the_command_is_recorded() {
    let podrun = Podrun::new();
    for (signal, number) in [("TERM", 15), ("KILL", 9), ("SEGV", 11), ("HUP", 1)] {
        let script = format!("kill -{signal} $$");
        let args = ["run", "c", "--init", "--rootfs", &busybox(), "--", "sh", "-c", &script];
        podrun.cmd(args).run().expect(128 + number);
        let state = podrun.state("c");
        assert_eq!(
            (&state["exitSignal"], &state["exitCode"]),
            (&number.into(), &(128 + number).into()),
            "{state}"
        );
        podrun.cmd(["delete", "c"]).prints("c\n");
    }
}

#[test]
fn every_signal_reaches_the_command() {
    let podrun = Podrun::new();
    let signals = ["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "WINCH", "CONT"];
    let traps: String = signals.iter().map(|name| format!("trap 'echo got {name}' {name}; ")).collect();
    start(&podrun, "c", &format!("{traps} echo ready; while :; do read -t 1 x < /dev/zero; sleep 0.1; done"));
    for name in signals {
        podrun.cmd(["kill", "-s", name, "c"]).exits(0);
        podrun.says("c", &format!("got {name}"));
    }
}

#[test]
fn a_command_without_a_handler_ends_by_the_signal_itself() {
    let podrun = Podrun::new();
    let args = ["run", "c", "-d", "--init", "--rootfs", &busybox(), "--", "sleep", "1000"];
    podrun.cmd(args).prints("c\n");
    podrun.cmd(["kill", "c"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("143\n");
    assert_eq!(podrun.state("c")["exitSignal"], 15);
}

#[test]
fn orphans_are_reaped() {
    let podrun = Podrun::new();
    // Each of them is left by its parent, and has ended when the next is looked at.
    let script = "for i in 1 2 3 4 5; do sh -c 'sh -c \"exit 3\" &' ; done; echo ready; exec sleep 1000";
    start(&podrun, "c", script);
    let zombies = "i=0; while grep -l '^State:.Z' /proc/[0-9]*/status 2>/dev/null; do i=$((i + 1)); [ $i -lt 500 ] || exit 1; usleep 10000; done; echo none";
    let output = podrun.cmd(["exec", "c", "--", "sh", "-c", zombies]).run();
    assert!(output.out().ends_with("none\n"), "{output}");
}

#[test]
fn what_the_command_leaves_running_ends_with_it() {
    let podrun = Podrun::new();
    start(&podrun, "c", "sleep 1000 & echo ready; read x < /dev/tty; sleep 0.2; exit 7");
    podrun.cmd(["wait", "c"]).prints("7\n");
    podrun.settle();
}

#[test]
fn a_command_that_cannot_run_is_told_apart_with_init_too() {
    let podrun = Podrun::new();
    let run = |command: &str| podrun.cmd(["run", "c", "--init", "--rootfs", &busybox(), "--", command]);
    run("missing").fails(127, "executable file not found in");
    run("/etc/passwd").fails(126, "permission denied");
    let script = podrun.dir().join("script");
    crate::harness::executable(&script, "#!/no/such/interpreter\n");
    let volume = format!("{}:/mnt", podrun.dir().display());
    let args = ["run", "c", "--init", "-v", &volume, "--rootfs", &busybox(), "--", "/mnt/script"];
    podrun.cmd(args).fails(127, "no such file or directory");
    podrun.cmd(["list", "-q"]).prints("");
}

#[test]
fn stop_and_output_work_as_without_it() {
    let podrun = Podrun::new();
    let script = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done";
    start(&podrun, "c", script);
    let init = podrun.pid("c");
    podrun.cmd(["stop", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("5\n");
    podrun.cmd(["logs", "c"]).prints("ready\nbye\n");
    process::wait_for_end(init);
    // The user is the command's; only PID 1 remains root of the container.
    let args = ["run", "d", "--rm", "--init", "--user", "1000", "--rootfs", &debian(), "--"];
    podrun.cmd(args.into_iter().chain(["bash", "-c", "id -u; echo x > /dev/stdout"])).prints("1000\nx\n");
}
