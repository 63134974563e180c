//! What a container writes is what `logs` gives back, byte for byte.

use crate::harness::{Podrun, busybox, in_guest};

/// Runs a shell script to its end and gives back what `logs` and `logs -f` say, which must agree.
fn logged(script: &str) -> (Vec<u8>, Vec<u8>) {
    let podrun = Podrun::new();
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "sh", "-c", script]).prints("c\n");
    let follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    podrun.cmd(["start", "c"]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
    let followed = follower.finish();
    let read = podrun.cmd(["logs", "c"]).run();
    for output in [&followed, &read] {
        output.expect(0);
    }
    assert!(followed.stdout == read.stdout && followed.stderr == read.stderr, "{followed}\n{read}");
    // Every line of the file is a record: time, stream, whole or partial.
    let file = std::fs::read(podrun.container_dir("c").join("log/current.log")).expect("read the log");
    for line in file.split_inclusive(|byte| *byte == b'\n') {
        let head = String::from_utf8_lossy(&line[..line.len().min(64)]).into_owned();
        let mut words = head.split(' ');
        let time = words.next().unwrap_or_default();
        assert!(time.parse::<jiff::Timestamp>().is_ok(), "{head:?}");
        assert!(matches!(words.next(), Some("stdout" | "stderr")), "{head:?}");
        assert!(matches!(words.next(), Some("F" | "P")), "{head:?}");
        assert_eq!(line.last(), Some(&b'\n'), "{head:?}");
    }
    (read.stdout, read.stderr)
}

#[test]
fn a_million_lines_on_two_streams_come_back_complete_while_they_are_followed() {
    let podrun = Podrun::new();
    let count = if in_guest() { 40_000 } else { 1_000_000 };
    let script = format!(
        "BEGIN {{ for (i = 0; i < {count}; i++) if (i % 2) print \"line \" i > \"/dev/stderr\"; else print \"line \" i }}"
    );
    podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "awk", &script]).prints("c\n");
    let follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    podrun.cmd(["start", "c"]).prints("c\n");
    let followed = follower.finish();
    podrun.cmd(["wait", "c"]).prints("0\n");
    let expected =
        |odd| (0..count).filter(|i| (i % 2 == 1) == odd).map(|i| format!("line {i}\n")).collect::<String>();
    followed.expect(0);
    assert!(followed.stdout == expected(false).as_bytes(), "stdout of {followed}");
    assert!(followed.stderr == expected(true).as_bytes(), "stderr of {followed}");
    let read = podrun.cmd(["logs", "c"]).run();
    assert!(read.stdout == followed.stdout && read.stderr == followed.stderr);
    let only = podrun.cmd(["logs", "--stderr", "c"]).run();
    assert!(only.stdout.is_empty() && only.stderr == followed.stderr, "{only}");
    let only = podrun.cmd(["logs", "--stdout", "c"]).run();
    assert!(only.stderr.is_empty() && only.stdout == followed.stdout, "{only}");
}

#[test]
fn a_line_of_ten_megabytes_comes_back_in_one_piece() {
    let (out, err) = logged("head -c 10485760 /dev/zero | tr '\\0' x; echo; echo after");
    assert!(err.is_empty());
    assert_eq!(out.len(), 10_485_760 + 1 + 6);
    assert!(out[..10_485_760].iter().all(|byte| *byte == b'x') && out.ends_with(b"\nafter\n"));
}

#[test]
fn any_byte_comes_back() {
    let (out, err) = logged(r"printf 'a\0b\377\376\n\0\n\n\303\n\r\n'; printf '\200' >&2");
    assert_eq!(out, b"a\0b\xff\xfe\n\0\n\n\xc3\n\r\n");
    assert_eq!(err, b"\x80");
}

#[test]
fn output_without_a_final_newline_comes_back_as_it_was() {
    let (out, err) = logged("printf 'one\\ntwo'; printf three >&2");
    assert_eq!((out.as_slice(), err.as_slice()), (&b"one\ntwo"[..], &b"three"[..]));
}

#[test]
fn no_output_is_no_output() {
    assert_eq!(logged("true"), (Vec::new(), Vec::new()));
}

#[test]
fn a_line_written_in_pieces_is_one_line() {
    let (out, _) =
        logged("for i in 1 2 3 4 5 6 7 8 9; do printf $i; done; echo; printf a; sleep 0.2; echo b");
    assert_eq!(out, b"123456789\nab\n");
}

#[test]
fn output_that_imitates_a_record_stays_one_record() {
    let fake = "2020-01-01T00:00:00.000000000Z stderr F injected";
    let (out, err) = logged(&format!("echo '{fake}'; printf '\\033[2J\\033]0;x\\007\\n'"));
    assert_eq!(out, format!("{fake}\n\x1b[2J\x1b]0;x\x07\n").as_bytes());
    assert!(err.is_empty());
}

#[test]
fn tail_counts_the_lines_that_were_written() {
    let podrun = Podrun::new();
    // The second last line is stored in many fragments.
    let script = "echo first; head -c 300000 /dev/zero | tr '\\0' y; echo; printf last";
    podrun.cmd(["run", "c", "-d", "--rootfs", &busybox(), "--", "sh", "-c", script]).prints("c\n");
    podrun.cmd(["wait", "c"]).prints("0\n");
    let long = "y".repeat(300_000) + "\n";
    podrun.cmd(["logs", "--tail", "1", "c"]).prints("last");
    podrun.cmd(["logs", "--tail", "2", "c"]).prints(&(long.clone() + "last"));
    podrun.cmd(["logs", "--tail", "3", "c"]).prints(&(String::from("first\n") + &long + "last"));
    podrun.cmd(["logs", "--tail", "99", "c"]).prints(&(String::from("first\n") + &long + "last"));
    podrun.cmd(["logs", "--tail", "0", "c"]).prints("");
    podrun.cmd(["logs", "-f", "--tail", "1", "c"]).prints("last");
}

#[test]
fn times_choose_and_show_lines() {
    let podrun = Podrun::new();
    let args = ["run", "c", "-i", "--rootfs", &busybox(), "--", "cat"];
    let mut run = podrun.cmd(args).open_stdin().spawn();
    // One is out before the other goes in: their times differ.
    for word in ["one", "two", "three"] {
        run.write(format!("{word}\n").as_bytes());
        run.until(word);
    }
    run.finish().expect(0);
    let stamped = podrun.cmd(["logs", "-t", "c"]).ok();
    let lines: Vec<_> = stamped.lines().map(|line| line.split_once(' ').expect("a time")).collect();
    assert_eq!(lines.iter().map(|line| line.1).collect::<Vec<_>>(), ["one", "two", "three"]);
    let time = |i: usize| lines[i].0.parse::<jiff::Timestamp>().expect("RFC 3339");
    assert!(time(0) < time(1) && time(1) < time(2), "{stamped}");
    podrun.cmd(["logs", "--since", lines[1].0, "c"]).prints("two\nthree\n");
    let before = podrun.cmd(["logs", "--until", lines[0].0, "c"]).ok();
    assert!(before.is_empty() || before == "one\n", "{before}");
    podrun.cmd(["logs", "--since", "10m", "c"]).prints("one\ntwo\nthree\n");
    podrun.cmd(["logs", "--until", "10m", "c"]).prints("");
    podrun
        .cmd(["logs", "--since", &(time(0).as_second() - 60).to_string(), "--tail", "1", "c"])
        .prints("three\n");
}

#[test]
fn a_follower_sees_a_line_as_soon_as_it_is_written_and_ends_with_the_container() {
    let podrun = Podrun::new();
    let args = [
        "create",
        "c",
        "-i",
        "--rootfs",
        &busybox(),
        "--",
        "sh",
        "-c",
        "while read x; do echo \"<$x>\"; done",
    ];
    podrun.cmd(args).prints("c\n");
    podrun.cmd(["start", "c"]).prints("c\n");
    let followers: Vec<_> = (0..5).map(|_| podrun.cmd(["logs", "-f", "c"]).spawn()).collect();
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    for follower in followers {
        let output = follower.finish();
        assert_eq!((output.code, output.out()), (Some(0), String::new()));
    }
}

#[test]
fn a_follower_that_has_returned_finds_the_container_stopped() {
    let podrun = Podrun::new();
    for _ in 0..if in_guest() { 5 } else { 50 } {
        podrun.cmd(["create", "c", "--rootfs", &busybox(), "--", "sh", "-c", "echo b; exit 5"]).prints("c\n");
        let mut follower = podrun.cmd(["logs", "-f", "c"]).spawn();
        podrun.cmd(["start", "c"]).prints("c\n");
        follower.until("b");
        follower.finish().expect(0);
        assert_eq!(podrun.status("c"), "stopped");
        podrun.cmd(["delete", "c"]).prints("c\n");
    }
}

#[test]
fn followers_of_a_deleted_container_end() {
    let podrun = Podrun::new();
    podrun.run_script("c", "echo ready; sleep 1000");
    let mut follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    follower.until("ready");
    podrun.cmd(["delete", "-f", "c"]).prints("c\n");
    follower.finish().expect(0);
}

#[test]
fn a_follower_that_does_not_read_holds_up_nobody() {
    let podrun = Podrun::new();
    let script = "echo ready; read go; head -c 5000000 /dev/zero | tr '\\0' '\\n'; exit 4";
    let args = ["create", "c", "-i", "--rootfs", &busybox(), "--", "sh", "-c", script];
    podrun.cmd(args).prints("c\n");
    // Its stdout is a pipe that nobody reads.
    let (reader, writer) = std::io::pipe().expect("a pipe");
    let mut stalled = std::process::Command::new(crate::harness::PODRUN)
        .args(["logs", "-f", "c"])
        .env("PODRUN_ROOT", podrun.root())
        .env("PODRUN_RUN_ROOT", podrun.run_root())
        .stdout(writer)
        .spawn()
        .expect("run podrun");
    podrun.cmd(["start", "c"]).prints("c\n");
    // stdin of a container without a foreground is open for nobody yet: KILL is its end.
    podrun.says("c", "ready");
    podrun.cmd(["kill", "c", "KILL"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("137\n");
    drop(reader);
    let _ = stalled.kill();
    let _ = stalled.wait();
}

#[test]
fn run_in_the_foreground_loses_nothing_of_what_is_written_at_the_end() {
    let podrun = Podrun::new();
    let script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i + 1)); done; exit 3";
    let output = podrun.cmd(["run", "c", "--rm", "--rootfs", &busybox(), "--", "sh", "-c", script]).run();
    output.expect(3);
    assert_eq!(output.out(), (0..20000).map(|i| format!("{i}\n")).collect::<String>());
}
