//! The process that writes the log may be killed at any instant: no byte is lost, none is doubled.

use std::path::PathBuf;

use rustix::process::{Pid, Signal, kill_process};

use crate::harness::{Podrun, busybox, process, rounds, seeded};

/// A container that writes `y` to stdout and a number to stderr, again and again, until it is told to
/// stop. The same line over and over hides a doubled or lost one best.
pub(crate) struct Chatter<'a> {
    podrun: &'a Podrun,
    stop: PathBuf,
}

impl<'a> Chatter<'a> {
    #[track_caller]
    pub(crate) fn start(podrun: &'a Podrun, options: &[&str]) -> Self {
        let dir = podrun.dir().join("volume");
        std::fs::create_dir(&dir).expect("make a directory");
        let volume = format!("{}:/mnt", dir.display());
        let script = "BEGIN { while ((getline x < \"/mnt/stop\") <= 0) { close(\"/mnt/stop\"); \
                      for (k = 0; k < 500; k++) { print \"y\"; print ++i > \"/dev/stderr\" } } }";
        let rootfs = busybox();
        let first = ["run", "c", "-d", "--rootfs", &rootfs, "-v", &volume];
        let last = ["--", "awk", script];
        podrun.cmd(first.iter().chain(options).chain(&last)).prints("c\n");
        Self { podrun, stop: dir.join("stop") }
    }

    /// Waits for a process that writes the log.
    pub(crate) fn writer(&self) -> i32 {
        loop {
            match self.podrun.log_writers().first() {
                Some(pid) => return *pid,
                None => std::thread::yield_now(),
            }
        }
    }

    /// Kills whatever process writes the log, `times` times, at random.
    pub(crate) fn kill_writers(&self, times: usize, random: &mut fastrand::Rng) {
        for _ in 0..times {
            let pid = self.writer();
            let begin = std::time::Instant::now();
            let delay = std::time::Duration::from_micros(random.u64(0..3000));
            while begin.elapsed() < delay {
                std::hint::spin_loop();
            }
            let _ = kill_process(Pid::from_raw(pid).expect("a pid"), Signal::KILL);
            process::wait_for_end(pid);
        }
    }

    /// Ends the container, and how many lines it has written to each stream.
    #[track_caller]
    pub(crate) fn finish(self) -> usize {
        std::fs::write(&self.stop, "stop\n").expect("write a file");
        self.podrun.cmd(["wait", "c"]).prints("0\n");
        let logs = self.podrun.cmd(["logs", "c"]).run();
        logs.expect(0);
        assert_complete(&logs.stdout, &logs.stderr)
    }
}

/// Every line of both streams is there once and in order; how many lines each has.
#[track_caller]
pub(crate) fn assert_complete(stdout: &[u8], stderr: &[u8]) -> usize {
    let text = std::str::from_utf8(stderr).expect("numbers");
    let mut count = 0;
    for line in text.lines() {
        count += 1;
        assert_eq!(line, count.to_string(), "line {count} of stderr");
    }
    let lines: Vec<_> = stdout.split_inclusive(|byte| *byte == b'\n').collect();
    assert!(lines.iter().all(|line| *line == b"y\n"), "stdout has something else");
    assert_eq!(lines.len(), count, "lines on stdout and on stderr");
    count
}

#[test]
fn a_killed_writer_loses_and_doubles_nothing_campaign() {
    let podrun = Podrun::new();
    let mut random = seeded("a killed writer");
    let chatter = Chatter::start(&podrun, &[]);
    let follower = podrun.cmd(["logs", "-f", "c"]).spawn();
    chatter.kill_writers(rounds(2000), &mut random);
    let lines = chatter.finish();
    let followed = follower.finish();
    followed.expect(0);
    assert_eq!(assert_complete(&followed.stdout, &followed.stderr), lines);
}

#[test]
fn a_quiet_container_has_no_process_for_its_log() {
    let podrun = Podrun::new();
    podrun.run_script("c", "echo ready; sleep 1000");
    podrun.log_writers().into_iter().for_each(process::wait_for_end);
    assert!(podrun.log_writers().is_empty());
}
