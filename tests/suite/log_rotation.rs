//! A log that is rotated loses no line, doubles none, and never takes more room than it may.

use std::path::PathBuf;

use rustix::process::Signal;

use crate::harness::{Output, Podrun, busybox, in_guest, rounds, seeded};
use crate::log_disk::SmallDisk;
use crate::log_exact::{Chatter, assert_complete};

/// The log's files, oldest first, and the size of each.
fn files(podrun: &Podrun, id: &str) -> Vec<(PathBuf, u64)> {
    let dir = podrun.container_dir(id).join("log");
    let entries = std::fs::read_dir(dir).expect("read the log's directory");
    let mut files: Vec<_> = entries
        .map(|entry| {
            let path = entry.expect("an entry").path();
            let age: u32 = path.extension().and_then(|age| age.to_str()?.parse().ok()).unwrap_or(0);
            (std::cmp::Reverse(age), path.metadata().expect("its size").len(), path)
        })
        .collect();
    files.sort();
    files.into_iter().map(|(_, size, path)| (path, size)).collect()
}

#[test]
fn a_million_lines_through_a_hundred_files_are_complete_for_who_follows_and_who_reads() {
    let podrun = Podrun::new();
    let count = if in_guest() { 30_000 } else { 1_000_000 };
    let script =
        format!("BEGIN {{ for (i = 1; i <= {count}; i++) {{ print \"y\"; print i > \"/dev/stderr\" }} }}");
    let options = "max-size=1m,max-file=1000";
    podrun
        .cmd(["create", "c", "--rootfs", &busybox(), "--log-opt", options, "--", "awk", &script])
        .prints("c\n");
    let follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    podrun.cmd(["start", "c"]).prints("c\n");
    let followed = follower.finish();
    followed.expect(0);
    assert_eq!(assert_complete(&followed.stdout, &followed.stderr), count);
    podrun.cmd(["wait", "c"]).prints("0\n");
    let read = podrun.cmd(["logs", "c"]).run();
    assert!(read.stdout == followed.stdout && read.stderr == followed.stderr);
    let files = files(&podrun, "c");
    assert!(files.len() > count / 15_000, "{} files", files.len());
    assert!(files.iter().all(|(_, size)| *size <= 1 << 20), "{files:?}");
    for (path, _) in &files {
        let text = std::fs::read_to_string(path).expect("a log");
        assert!(text.ends_with('\n') && text.lines().all(is_record), "{}", path.display());
    }
    // The tail begins some files back.
    let tail = podrun.cmd(["logs", "--stderr", "--tail", "20000", "c"]).run();
    let first = String::from_utf8_lossy(&tail.stderr).lines().next().map(str::to_owned);
    assert_eq!(first, Some((count - 20_000 + 1).to_string()));
}

fn is_record(line: &str) -> bool {
    let mut words = line.split(' ');
    words.next().is_some_and(|time| time.parse::<jiff::Timestamp>().is_ok())
        && words.next().is_some_and(|stream| matches!(stream, "stdout" | "stderr"))
        && words.next().is_some_and(|tag| matches!(tag, "F" | "P"))
}

#[test]
fn a_writer_killed_while_it_rotates_leaves_rotation_working_campaign() {
    let podrun = Podrun::new();
    let mut random = seeded("a rotating writer");
    let chatter = Chatter::start(&podrun, &["--log-opt", "max-size=128k,max-file=1000"]);
    let follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    let shim = podrun.shim_pid("c");
    let descriptors = || std::fs::read_dir(format!("/proc/{shim}/fd")).expect("its descriptors").count();
    chatter.kill_writers(1, &mut random);
    chatter.writer();
    let before = descriptors();
    chatter.kill_writers(rounds(1000), &mut random);
    chatter.writer();
    assert!(descriptors() <= before + 2, "{} descriptors, {before} before", descriptors());
    // On a busy machine few of the writers came to write anything.
    let third = podrun.container_dir("c").join("log/current.log.3");
    while !third.exists() {
        std::thread::yield_now();
    }
    let lines = chatter.finish();
    let followed = follower.finish();
    followed.expect(0);
    assert_eq!(assert_complete(&followed.stdout, &followed.stderr), lines);
    let files = files(&podrun, "c");
    assert!(files.len() > 3 && files.iter().all(|(_, size)| *size <= 128 << 10), "{files:?}");
    let names: Vec<_> = files.iter().filter_map(|(path, _)| path.file_name()?.to_str()).collect();
    assert_eq!(names.last(), Some(&"current.log"));
    assert_eq!(names[0], format!("current.log.{}", files.len() - 1), "no hole in {names:?}");
}

#[test]
fn no_log_takes_more_room_than_it_may_also_over_many_lives() {
    let podrun = Podrun::new();
    let script = "seq 1 30000";
    let options = ["--log-opt", "max-size=128k", "--log-opt", "max-file=3"];
    let args = ["run", "c", "-d", "--rootfs", &busybox()];
    podrun.cmd(args.iter().chain(&options).chain(&["--", "sh", "-c", script])).prints("c\n");
    for life in 0..6 {
        if life > 0 {
            podrun.cmd(["start", "c"]).prints("c\n");
        }
        podrun.cmd(["wait", "c"]).prints("0\n");
        podrun.settle();
        let files = files(&podrun, "c");
        assert!(files.len() <= 3 && files.iter().all(|(_, size)| *size <= 128 << 10), "{files:?}");
        // What is left is the end of what was written, without a gap.
        let logs = podrun.cmd(["logs", "c"]).ok();
        let numbers: Vec<u32> = logs.lines().map(|line| line.parse().expect("a number")).collect();
        assert_eq!(numbers.last(), Some(&30_000));
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1 || (pair[0], pair[1]) == (30_000, 1)));
        assert!(numbers.len() > 6_000, "{} lines are left", numbers.len());
    }
}

#[test]
fn a_log_that_somebody_else_rotates_goes_on_in_a_new_file() {
    let podrun = Podrun::new();
    let rootfs = busybox();
    let mut run = podrun.cmd(["run", "c", "-i", "--rootfs", &rootfs, "--", "cat"]).open_stdin().spawn();
    let log = podrun.container_dir("c").join("log/current.log");
    run.write(b"one\n");
    run.until("one");
    std::fs::rename(&log, log.with_extension("old")).expect("rename");
    run.write(b"two\n");
    run.until("two");
    run.finish().expect(0);
    podrun.cmd(["logs", "c"]).prints("two\n");
    let old = std::fs::read_to_string(log.with_extension("old")).expect("the old file");
    assert!(old.ends_with(" stdout F one\n") && old.lines().count() == 1, "{old}");
}

/// A container that prints a line, and when it is told so the numbers up to `count`, into a log of `options`.
fn create(podrun: &Podrun, options: &str, count: u32) {
    let script = format!("trap 'seq 1 {count}; exit' USR1; echo first; while :; do sleep 0.01; done");
    let args = ["create", "c", "--rootfs", &busybox(), "--log-opt", options, "--", "sh", "-c", &script];
    podrun.cmd(args).prints("c\n");
}

/// Runs it to its end, with somebody who follows its log and reads only what was there first; and then the rest.
fn flood(podrun: &Podrun) -> Output {
    podrun.cmd(["start", "c"]).prints("c\n");
    let mut slow = podrun.cmd(["logs", "-f", "c"]).spawn();
    slow.until("first");
    slow.signal(Signal::STOP);
    podrun.cmd(["kill", "c", "USR1"]).exits(0);
    podrun.cmd(["wait", "c"]).prints("0\n");
    slow.signal(Signal::CONT);
    slow.finish()
}

/// All that it prints.
fn all_of(count: u32) -> String {
    std::iter::once("first\n".to_owned()).chain((1..=count).map(|i| format!("{i}\n"))).collect()
}

#[test]
fn whoever_reads_slowly_gets_all_and_holds_nobody_up() {
    let podrun = Podrun::new();
    let count = if in_guest() { 30_000 } else { 300_000 };
    let args = ["run", "--rm", "c", "--rootfs", &busybox(), "--log-opt", "max-size=128k,max-file=1"];
    let output = podrun.cmd(args.iter().chain(&["--", "seq", "1", &count.to_string()])).run();
    output.expect(0);
    assert_eq!(output.err(), "");
    assert!(output.out() == all_of(count)["first\n".len()..], "{} bytes", output.stdout.len());
    for options in
        ["max-size=128k,max-file=1", "max-size=128k,max-file=3", "max-size=1m,max-file=2,mode=drop"]
    {
        create(&podrun, options, count);
        let slow = flood(&podrun);
        slow.expect(0);
        assert!(slow.out() == all_of(count), "{options}: {} bytes", slow.stdout.len());
        let left = files(&podrun, "c");
        assert!(
            left.len() <= 3 && left.iter().all(|(path, _)| !path.display().to_string().contains("kept")),
            "{left:?}"
        );
        podrun.cmd(["delete", "c"]).prints("c\n");
    }
}

#[test]
fn what_is_kept_for_one_who_does_not_read_has_a_bound_and_he_is_told() {
    let podrun = Podrun::new();
    let count = 1_000_000;
    create(&podrun, "max-size=1m,max-file=2", count);
    let disk = SmallDisk::mount(&podrun, "c", "10m");
    let slow = flood(&podrun);
    assert_eq!(slow.code, Some(1), "{slow}");
    assert!(slow.err().contains("rotated away before it could be shown"), "{slow}");
    let out = slow.out();
    let (begin, end) = (&out[..20.min(out.len())], &out[out.len().saturating_sub(20)..]);
    assert!(begin.starts_with("first\n1\n2\n") && end.ends_with(&format!("\n{count}\n")), "{begin} … {end}");
    podrun.settle();
    drop(disk);
}
