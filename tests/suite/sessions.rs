//! Somebody at a terminal, and a container on it: `-it`, `attach`, `exec -it`.

use rustix::process::Signal;

use crate::harness::process::{send, wait_for_end};
use crate::harness::screen::Screen;
use crate::harness::{Podrun, busybox, debian, overlay};

const CTRL_C: &str = "\x03";
const CTRL_Z: &str = "\x1a";
const DETACH: &str = "\x10\x11";

#[test]
fn job_control_works_in_a_shell() {
    let podrun = Podrun::new();
    let mut screen =
        Screen::new(&podrun, ["run", "--rm", "-it", "--rootfs", &debian(), "--", "bash", "--norc"]);
    // What is typed is shown, too: the sums are only in what is printed. Sleep is run by a fork: a child that is
    // stopped before its execve keeps a parent in vfork from stopping as well.
    screen.types(
        "sh -c 'trap \"echo again-$((40+2))\" CONT; echo up-$((1+1)); while :; do (exec sleep 0.05); done'\r",
    );
    screen.until("up-2");
    screen.types(CTRL_Z);
    screen.until("Stopped");
    screen.types("jobs | wc -l; fg\r");
    screen.until("again-42");
    screen.types(CTRL_C);
    screen.types("\recho rc=$?-$((3*3))\r");
    screen.until("-9");
    assert!(screen.text().contains("rc=130-9"), "{}", screen.text());
    screen.types("exit 7\r");
    assert_eq!(screen.finish(), Some(7));
}

#[test]
fn the_size_of_the_window_is_there_from_the_start_and_follows() {
    let podrun = Podrun::new();
    let script = "stty size; trap 'stty size' WINCH; echo ready; while :; do sleep 0.05; done";
    let mut screen =
        Screen::new(&podrun, ["run", "--rm", "-it", "--rootfs", &busybox(), "--", "sh", "-c", script]);
    screen.until("40 100");
    screen.until("ready");
    screen.resize(33, 101);
    screen.until("33 101");
    screen.types(CTRL_C);
    assert_eq!(screen.finish(), Some(130));
}

#[test]
fn programs_that_need_a_terminal_have_one() {
    let podrun = Podrun::new();
    let rootfs = overlay(debian());
    let args = ["run", "--rm", "-it", "-e", "PS1=ready>", "--rootfs", &rootfs, "--", "bash", "--norc"];
    let mut screen = Screen::new(&podrun, args);
    // What is typed while a program runs is that program's.
    let at_prompt = |screen: &mut Screen, keys: &str| {
        screen.until("ready>");
        screen.types(keys);
    };
    at_prompt(&mut screen, "tty\r");
    screen.until("/dev/pts/0");
    at_prompt(&mut screen, "script -qc tty /dev/null\r");
    screen.until("/dev/pts/1");
    at_prompt(&mut screen, "su nobody -s /bin/sh -c 'echo i-am-$(id -un); tty'\r");
    screen.until("i-am-nobody");
    screen.until("/dev/pts/0");
    at_prompt(&mut screen, "top\r");
    screen.until("load average");
    screen.types("q");
    at_prompt(&mut screen, "seq 1000 >/tmp/n; less /tmp/n\r");
    screen.until("30\r\n");
    screen.types("G");
    screen.until("(END)");
    screen.types("q");
    let control =
        "Package: hello-podrun\\nVersion: 1\\nArchitecture: all\\nMaintainer: a <a@b.c>\\nDescription: d\\n";
    let build = format!(
        "mkdir -p /tmp/p/DEBIAN; printf '{control}' >/tmp/p/DEBIAN/control; dpkg-deb -b /tmp/p /tmp/h.deb\r"
    );
    at_prompt(&mut screen, &build);
    at_prompt(&mut screen, "apt-get install /tmp/h.deb && echo installed-$((1+1))\r");
    screen.until("Setting up hello-podrun");
    screen.until("installed-2");
    at_prompt(&mut screen, "exit\r");
    assert_eq!(screen.finish(), Some(0));
}

/// A shell on a screen that has shown its first prompt.
fn shell(podrun: &Podrun) -> Screen {
    let script = "echo up-$((1+1)); exec sh";
    let mut screen =
        Screen::new(podrun, ["run", "-it", "c", "--rootfs", &busybox(), "--", "sh", "-c", script]);
    screen.until("up-2");
    assert!(!screen.is_restored(), "the terminal is the container's meanwhile");
    screen
}

#[test]
fn the_terminal_is_ours_again_whatever_ends_the_session() {
    let podrun = Podrun::new();
    let over = |screen: Screen, code: Option<i32>| {
        // `finish` compares the settings.
        assert_eq!(screen.finish(), code);
        podrun.cmd(["delete", "-f", "c"]).ok();
    };

    let mut screen = shell(&podrun);
    screen.types("exit 3\r");
    over(screen, Some(3));

    // The next shim goes on.
    let mut screen = shell(&podrun);
    send(podrun.shim_pid("c"), Signal::KILL);
    screen.types("echo on-$((1+1)); exit 4\r");
    screen.until("on-2");
    over(screen, Some(4));

    let mut screen = shell(&podrun);
    screen.types(DETACH);
    assert_eq!(screen.finish(), Some(0));
    assert_eq!(podrun.status("c"), "running");
    podrun.cmd(["delete", "-f", "c"]).ok();

    let screen = shell(&podrun);
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    over(screen, Some(137));

    for (signal, code) in [(Signal::TERM, 143), (Signal::HUP, 129), (Signal::INT, 130)] {
        let screen = shell(&podrun);
        screen.signal(signal);
        assert_eq!(screen.finish(), Some(code));
        // Not typed, not the container's: it runs on, and somebody else may sit down.
        assert_eq!(podrun.status("c"), "running");
        podrun.cmd(["delete", "-f", "c"]).ok();
    }

    // Keeper and shim: nobody is left who would show what it prints, and it is told so.
    let screen = shell(&podrun);
    let init = podrun.pid("c");
    podrun.lose("c");
    // Such a shell takes that for a signal, or for the end of its input.
    let code = screen.finish();
    assert!(matches!(code, Some(0 | 129)), "{code:?}");
    wait_for_end(init);
    podrun.cmd(["delete", "-f", "c"]).ok();
}

#[test]
fn a_container_can_be_left_and_joined_again() {
    let podrun = Podrun::new();
    let mut screen = shell(&podrun);
    // The first key alone is the container's.
    screen.types("echo cat-$((5+5)); cat\r");
    screen.until("cat-10");
    screen.types("\x10b\r");
    screen.until("^Pb\r\n");
    screen.types("\x04");
    screen.types(DETACH);
    assert_eq!(screen.finish(), Some(0));
    let mut first = Screen::new(&podrun, ["attach", "c"]);
    let mut second = Screen::new(&podrun, ["attach", "--detach-keys", "ctrl-x", "c"]);
    first.types("echo one-$((1+1))\r");
    first.until("one-2");
    second.until("one-2");
    second.types("echo two-$((2+2))\r");
    first.until("two-4");
    second.types("\x18");
    assert_eq!(second.finish(), Some(0));
    first.types("exit 5\r");
    assert_eq!(first.finish(), Some(5));
}

#[test]
fn a_container_without_a_terminal_can_be_joined_and_left() {
    let podrun = Podrun::new();
    podrun
        .cmd([
            "run",
            "-d",
            "-i",
            "c",
            "--rootfs",
            &busybox(),
            "--",
            "sh",
            "-c",
            "while read x; do echo got-$x; done",
        ])
        .ok();
    let mut screen = Screen::new(&podrun, ["attach", "c"]);
    screen.types("one\n");
    screen.until("got-one");
    // Without a newline.
    screen.types(DETACH);
    assert_eq!(screen.finish(), Some(0));
    let mut attached = podrun.cmd(["attach", "c"]).open_stdin().spawn();
    attached.write(b"two\n");
    attached.until("got-two");
    podrun.cmd(["kill", "c"]).exits(0);
    assert_eq!(attached.finish().code, Some(143));
}

#[test]
fn a_stalled_client_holds_up_nobody() {
    let podrun = Podrun::new();
    let script = "echo up-$((1+1)); read x; seq 100000; echo last-$((3+3)); read x; exit 4";
    podrun.cmd(["run", "-d", "-it", "c", "--rootfs", &busybox(), "--", "sh", "-c", script]).ok();
    podrun.says("c", "up-2");
    let mut stalled = Screen::unread(&podrun, ["attach", "c"]);
    // Input goes another way than output: it sits there once this arrives.
    stalled.types("go\r");
    let mut screen = Screen::new(&podrun, ["attach", "c"]);
    podrun.says("c", "last-6");
    screen.types("go\r");
    assert_eq!(screen.finish(), Some(4));
    podrun.cmd(["wait", "c"]).prints("4\n");
    drop(stalled);
}

#[test]
fn a_terminal_outlives_its_shim() {
    let podrun = Podrun::new();
    let mut screen = shell(&podrun);
    screen.types(DETACH);
    assert_eq!(screen.finish(), Some(0));
    let shim = podrun.shim_pid("c");
    send(shim, Signal::KILL);
    wait_for_end(shim);
    let mut screen = Screen::new(&podrun, ["attach", "c"]);
    screen.types("echo still-$((1+1))\r");
    screen.until("still-2");
    screen.types("exit\r");
    assert_eq!(screen.finish(), Some(0));
}

#[test]
fn input_that_is_no_terminal_ends_as_it_would_be_typed() {
    let podrun = Podrun::new();
    let args = ["run", "--rm", "-it", "--rootfs", &busybox(), "--", "cat"];
    // A whole line, and half of one.
    for text in ["one\ntwo\n", "one\ntwo"] {
        let output = podrun.cmd(args).stdin(text).run();
        output.expect(0);
        assert!(output.out().ends_with("two") || output.out().ends_with("two\r\n"), "{output}");
    }
}

#[test]
fn a_process_that_joins_may_have_a_terminal_of_its_own() {
    let podrun = Podrun::new();
    podrun.run_script("c", "echo ready; exec sleep 1000");
    let script = "tty; stty size; echo $TERM; trap 'stty size' WINCH; echo up; while :; do sleep 0.05; done";
    let mut screen = Screen::new(&podrun, ["exec", "-it", "c", "--", "sh", "-c", script]);
    screen.until("/dev/pts/0\r\n40 100\r\nxterm\r\n");
    screen.until("up");
    assert!(!screen.is_restored());
    screen.resize(20, 60);
    screen.until("20 60");
    screen.types(CTRL_C);
    assert_eq!(screen.finish(), Some(130));
    podrun.cmd(["exec", "-t", "c", "--", "sh", "-c", "echo out; exit 7"]).run().expect(7);
    let numbers: String = (1..=20000).map(|number| format!("{number}\r\n")).collect();
    podrun.cmd(["exec", "-t", "c", "--", "seq", "20000"]).prints(&numbers);
    podrun.cmd(["exec", "-t", "c", "--", "/none"]).fails(127, "no such file or directory");

    // Whoever sat before it is gone: it is told as on any terminal.
    let script = "echo $$; exec sleep 1000";
    let mut screen = Screen::new(&podrun, ["exec", "-it", "c", "--", "sh", "-c", script]);
    screen.until("\r\n");
    let inside = screen.text().trim().to_owned();
    screen.signal(Signal::KILL);
    drop(screen);
    let script = format!("while [ -d /proc/{inside} ]; do sleep 0.05; done; echo gone");
    podrun.cmd(["exec", "c", "--", "sh", "-c", &script]).prints("gone\n");
}
