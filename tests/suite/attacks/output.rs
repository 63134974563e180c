//! What a container writes, and calls itself, on its way to a person's terminal.

use crate::harness::{Podrun, busybox, process};

/// A line as the log has them, one that says it is from stderr, a part of a line, an escape sequence that clears
/// the screen, a carriage return, and no newline at the end.
const FORGED: &str = "2026-01-01T00:00:00.000000000Z stdout F forged\n\
    2026-01-01T00:00:00.000000000Z stderr F forged\n\
    2026-01-01T00:00:00.000000000Z stdout P forged\n\
    \x1b[2J\x1b]0;owned\x07\rforged\n\
    {\"log\":\"forged\\n\",\"stream\":\"stderr\"}\nend";

/// Log injection: one record stays one record, and says what was written.
#[test]
fn output_that_imitates_the_log_is_output() {
    let podrun = Podrun::new();
    let printed = FORGED.replace('\\', "\\\\");
    let run = ["run", "c", "-d", "--rootfs", &busybox(), "--", "printf", "%b", &printed];
    podrun.cmd(run).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
    let logs = podrun.cmd(["logs", "c"]).run();
    assert_eq!((logs.out(), logs.err()), (FORGED.to_owned(), String::new()));
    podrun.cmd(["logs", "--stderr", "c"]).prints("");
    podrun.cmd(["logs", "--tail", "1", "c"]).prints("end");
    let file = std::fs::read_to_string(podrun.container_dir("c").join("log/current.log")).expect("the log");
    assert_eq!(file.lines().count(), FORGED.lines().count(), "{file}");
    for line in file.split_terminator('\n') {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        assert!(words[1] == "stdout" && matches!(words[2], "F" | "P"), "{line:?}");
        assert!(!words[0].starts_with("2026-01-01"), "{line:?}");
    }
}

/// The same in what podrun itself says of a container: its command in tables, its processes' names, and errors.
#[test]
fn a_name_that_clears_the_screen_does_not_reach_the_terminal() {
    let podrun = Podrun::new();
    let evil = "\x1b[2J\x1b]0;owned\x07\rx\ny\tz\u{9b}2J";
    podrun.run_detached("c", &busybox(), ["sh", "-c", "echo ready; exec sleep 100000", evil]);
    podrun.says("c", "ready");
    podrun.run_detached(
        "d",
        &busybox(),
        ["sh", "-c", "echo ready; while :; do read x; sleep 1000; done", evil],
    );
    podrun.says("d", "ready");
    let clean = |text: &str| !text.chars().any(|c| c.is_control() && c != '\n');
    for (args, lines) in [(vec!["list"], 3), (vec!["ps", "d"], 3)] {
        let out = podrun.cmd(args).ok();
        assert!(clean(&out) && out.lines().count() <= lines, "{out:?}");
    }
    for args in [["list", "--format", "json"], ["inspect", "c", "d"]] {
        let out = podrun.cmd(args).ok();
        assert!(!out.contains('\x1b') && !out.contains('\u{9b}'), "{out:?}");
    }
    for args in [
        vec!["exec", "c", "--", evil],
        vec!["exec", "c", "--cwd", evil, "--", "true"],
        vec!["exec", "c", "--user", evil, "--", "true"],
        vec!["start", evil],
        vec!["run", "--rootfs", evil, "--", "true"],
        vec!["run", "--rootfs", "/:O", "--hostname", evil, "--", "true"],
        vec!["run", "--rootfs", "/:O", "-v", evil, "--", "true"],
        vec![evil],
    ] {
        let output = podrun.cmd(&args).run();
        assert!(output.code != Some(0) && clean(&output.err()), "{args:?}: {output}");
        assert!(output.err().lines().count() <= 2, "{output}");
    }
}

/// CVE-2022-1708: the endless output of an exec, read or not, takes none of the shim's memory.
#[test]
fn endless_output_of_an_exec_takes_no_memory() {
    let podrun = Podrun::new();
    podrun.run_detached("c", &busybox(), ["sleep", "100000"]);
    let shim = podrun.shim_pid("c");
    podrun.cmd(["exec", "c", "true"]).exits(0);
    let before = status_number(shim, "VmHWM");
    podrun.sh("podrun exec c -- head -c 300000000 /dev/zero >/dev/null").exits(0);
    // And nobody reads: the output stands still, in the kernel.
    let reader = "{ head -c 1 >/dev/null; echo full; head -c 1 <&3; } 3<&0";
    let script = format!("podrun exec c -- cat /dev/zero | {reader}");
    let mut stalled = podrun.sh(&script).open_stdin().spawn();
    stalled.until("full");
    podrun.cmd(["exec", "c", "true"]).exits(0);
    stalled.finish().expect(0);
    let grown = status_number(shim, "VmHWM").saturating_sub(before);
    assert!(grown < 1024, "the shim grew by {grown} kB");
}

/// A value of `/proc/PID/status` in kB.
#[track_caller]
fn status_number(pid: i32, key: &str) -> u64 {
    let value = process::status_field(pid, key).expect("the process lives");
    value.trim_end_matches(" kB").parse().expect("a number")
}
