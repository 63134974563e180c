//! Disks that are full, or do not answer.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::harness::{Podrun, busybox, hang_limit, in_guest, process};

/// A small file system in memory, at the place of a container's log.
pub(crate) struct SmallDisk(PathBuf);

impl SmallDisk {
    #[track_caller]
    pub(crate) fn mount(podrun: &Podrun, id: &str, size: &str) -> Self {
        let dir = podrun.container_dir(id).join("log");
        let options = std::ffi::CString::new(format!("size={size}")).expect("text");
        rustix::mount::mount(
            "small",
            &dir,
            "tmpfs",
            rustix::mount::MountFlags::empty(),
            Some(options.as_c_str()),
        )
        .expect("mount a tmpfs");
        Self(dir)
    }

    /// Moves the log's older files elsewhere, so that there is room again. The log may be rotated meanwhile:
    /// whatever has a name is first given one that stays.
    fn collect(&self, into: &mut Vec<Vec<u8>>) {
        let mut older: Vec<(u32, PathBuf)> = std::fs::read_dir(&self.0)
            .expect("the log's directory")
            .filter_map(|entry| {
                let path = entry.ok()?.path();
                Some((path.extension()?.to_str()?.parse().ok()?, path))
            })
            .collect();
        older.sort();
        for (_, path) in older.into_iter().rev() {
            let taken = self.0.join("taken");
            if std::fs::rename(path, &taken).is_ok() {
                into.push(std::fs::read(&taken).expect("read"));
                std::fs::remove_file(taken).expect("remove");
            }
        }
    }

    fn is_full(&self) -> bool {
        let stat = rustix::fs::statvfs(&self.0).expect("statvfs");
        stat.f_bavail * stat.f_frsize < 128 << 10
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = rustix::mount::unmount(&self.0, rustix::mount::UnmountFlags::DETACH);
    }
}

const SCRIPT: &str = "BEGIN { for (i = 1; i <= COUNT; i++) print \"line \" i }";

fn create(podrun: &Podrun, count: usize, options: &str) {
    let script = SCRIPT.replace("COUNT", &count.to_string());
    let args = ["create", "c", "--rootfs", &busybox(), "--log-opt", options, "--", "awk", &script];
    podrun.cmd(args).prints("c\n");
}

/// Starts the container, and does `meanwhile` again and again until it has ended well.
#[track_caller]
fn run_to_its_end(podrun: &Podrun, mut meanwhile: impl FnMut()) {
    podrun.cmd(["start", "c"]).prints("c\n");
    let mut waiter = podrun.cmd(["wait", "c"]).spawn();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(waiter.line().as_deref(), Some("0"));
            done.store(true, Ordering::Relaxed);
        });
        while !done.load(Ordering::Relaxed) {
            meanwhile();
            std::thread::yield_now();
        }
    });
    waiter.finish().expect(0);
}

/// How many bytes a process has written; `None` once it has ended, reaped or not.
fn written(pid: i32) -> Option<u64> {
    if process::status_field(pid, "State").is_none_or(|state| state.starts_with('Z')) {
        return None;
    }
    let io = std::fs::read_to_string(format!("/proc/{pid}/io")).ok()?;
    io.lines().find_map(|line| line.strip_prefix("wchar: ")?.parse().ok())
}

/// The payloads of a log, and what its markers say was dropped: bytes and lines.
fn parse(log: &[u8]) -> (String, usize, usize) {
    let (mut payloads, mut bytes, mut lines) = (String::new(), 0, 0);
    let text = std::str::from_utf8(log).expect("text");
    assert!(text.is_empty() || text.ends_with('\n'));
    for line in text.lines() {
        let words: Vec<_> = line.splitn(4, ' ').collect();
        assert!(words.len() == 4 && words[0].parse::<jiff::Timestamp>().is_ok(), "{line:?}");
        match words[2] {
            "F" => payloads.extend([words[3], "\n"]),
            "P" => payloads.push_str(words[3]),
            "F:podrun" => {
                let numbers: Vec<usize> = words[3].split(' ').filter_map(|word| word.parse().ok()).collect();
                bytes += numbers[0];
                lines += numbers[1];
            }
            _ => panic!("{line:?}"),
        }
    }
    (payloads, bytes, lines)
}

/// All of a log, in the order of the time that each file begins with.
fn everything(dir: &Path, mut collected: Vec<Vec<u8>>) -> Vec<u8> {
    collected.push(std::fs::read(dir.join("current.log")).expect("the log"));
    collected.sort();
    collected.concat()
}

#[test]
fn a_full_disk_holds_output_back_and_nothing_is_missing_when_there_is_room_again() {
    let podrun = Podrun::new();
    let count = if in_guest() { 300_000 } else { 1_000_000 };
    create(&podrun, count, "max-size=1m,max-file=100");
    let disk = SmallDisk::mount(&podrun, "c", "10m");
    let mut collected = Vec::new();
    let mut was_full = 0;
    run_to_its_end(&podrun, || {
        if disk.is_full() {
            was_full += 1;
            // Alive, and answering, while nothing can be written.
            assert_eq!(podrun.status("c"), "running");
            disk.collect(&mut collected);
        }
    });
    disk.collect(&mut collected);
    assert!(was_full >= 2, "full {was_full} times");
    let (payloads, bytes, lines) = parse(&everything(&disk.0, collected));
    assert_eq!((bytes, lines), (0, 0));
    assert!(
        payloads == (1..=count).map(|i| format!("line {i}\n")).collect::<String>(),
        "something is missing"
    );
}

#[test]
fn what_a_full_disk_drops_is_counted_to_the_byte() {
    let podrun = Podrun::new();
    let count = if in_guest() { 300_000 } else { 1_000_000 };
    create(&podrun, count, "max-size=1m,max-file=100,mode=drop");
    let disk = SmallDisk::mount(&podrun, "c", "10m");
    let pid = podrun.pid("c");
    let mut collected = Vec::new();
    let mut full_since = None;
    run_to_its_end(&podrun, || {
        // Room comes back late: when more was written meanwhile than the pipe and a batch hold, some of it
        // is dropped. Who has ended writes no more, and its last marker waits for room only for a while.
        if disk.is_full() {
            let written = written(pid);
            let since = *full_since.get_or_insert(written);
            if written.zip(since).is_none_or(|(written, since)| written - since > 3 << 20) {
                disk.collect(&mut collected);
                full_since = None;
            }
        }
    });
    // The last marker needs room.
    disk.collect(&mut collected);
    podrun.settle();
    disk.collect(&mut collected);
    let (payloads, bytes, lines) = parse(&everything(&disk.0, collected));
    let whole: String = (1..=count).map(|i| format!("line {i}\n")).collect();
    assert!(lines > 0, "nothing was dropped");
    assert_eq!(payloads.len() + bytes, whole.len(), "bytes logged and dropped");
    assert_eq!(payloads.lines().count() + lines, count, "lines logged and dropped");
}

/// An ext4 file system in a file, as everything durable of `podrun`; `None` where there is no loop device.
fn ext4(podrun: &Podrun) -> Option<SmallDisk> {
    let script = "truncate -s 32M disk.img && mkfs.ext4 -q disk.img && mkdir -p \"$0\" && mount -o loop disk.img \"$0\" \
                  && rmdir \"$0/lost+found\"";
    let made = podrun.program("sh", ["-c", script, podrun.root().to_str().expect("text")]).run();
    (made.code == Some(0)).then_some(SmallDisk(podrun.root().to_owned()))
}

#[test]
fn a_frozen_disk_stalls_only_the_log() {
    let podrun = Podrun::new();
    let Some(disk) = ext4(&podrun) else { return };
    let script = "trap 'seq 1001 2000; exit 3' TERM; seq 1 1000; \
                  while :; do sleep 0.02; i=$((i + 1)); echo tick $i >&2; done";
    podrun.run_detached("c", &busybox(), ["sh", "-c", script]);
    podrun.says("c", "1000");
    let waiter = podrun.cmd(["wait", "c"]).spawn();
    let freeze = |how: &str| podrun.program("fsfreeze", [how.as_ref(), disk.0.as_os_str()]).exits(0);
    freeze("-f");
    let thawed = Thawed(&podrun, &disk);
    // Until the log's writer waits for the disk, as only a process in the kernel can.
    let stalled =
        |pid: &i32| process::status_field(*pid, "State").is_some_and(|state| state.starts_with('D'));
    let deadline = std::time::Instant::now() + hang_limit();
    while !podrun.log_writers().iter().any(stalled) {
        assert!(std::time::Instant::now() < deadline, "nobody waits for the disk");
        std::thread::yield_now();
    }
    assert_eq!(podrun.status("c"), "running");
    podrun.cmd(["exec", "c", "--", "echo", "hi"]).prints("hi\n");
    podrun.cmd(["kill", "c", "TERM"]).exits(0);
    assert_eq!(waiter.finish().out(), "3\n");
    // Whoever comes later is answered, too.
    podrun.cmd(["wait", "c"]).prints("3\n");
    assert_eq!(podrun.status("c"), "stopped");
    assert!(podrun.log_writers().iter().any(stalled), "the disk is still frozen");
    drop(thawed);
    podrun.settle();
    let numbers: String = (1..=2000).map(|i| format!("{i}\n")).collect();
    let logs = podrun.cmd(["logs", "c"]).run();
    assert_eq!(logs.out(), numbers);
    let ticks: Vec<_> = logs.err().lines().map(str::to_owned).collect();
    assert!(ticks.iter().enumerate().all(|(i, tick)| *tick == format!("tick {}", i + 1)), "{ticks:?}");
    let record = podrun.cmd(["wait", "--json", "c"]).ok();
    assert!(record.contains("\"logsDrained\":true"), "what came late is told: {record}");
    // Before its disk goes.
    podrun.cmd(["delete", "c"]).prints("c\n");
}

/// A frozen file system that thaws at the latest when the scenario ends: nothing could clean up otherwise.
struct Thawed<'a>(&'a Podrun, &'a SmallDisk);

impl Drop for Thawed<'_> {
    fn drop(&mut self) {
        self.0.program("fsfreeze", ["-u".as_ref(), self.1.0.as_os_str()]).run();
    }
}
