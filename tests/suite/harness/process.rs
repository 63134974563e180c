//! Looking at processes from outside.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, PidfdFlags, Signal};

use super::command::hang_limit;

/// A process that cannot be mistaken for a later one with the same number.
pub(crate) struct Pidfd(OwnedFd);

impl Pidfd {
    /// The process that has `pid` now.
    pub(crate) fn open(pid: i32) -> Option<Self> {
        let pid = Pid::from_raw(pid)?;
        rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok().map(Self)
    }

    /// Waits for its end; false where that did not come before `deadline`.
    pub(crate) fn wait(&self, deadline: Instant) -> bool {
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = rustix::event::Timespec::try_from(left).expect("a deadline of this century");
            match poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&left)) {
                Ok(0) => return false,
                Ok(_) => return true,
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => panic!("poll a pidfd: {errno}"),
            }
        }
    }

    /// Whether it has ended.
    pub(crate) fn has_ended(&self) -> bool {
        self.wait(Instant::now())
    }
}

impl std::os::fd::AsFd for Pidfd {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Waits until the process that has `pid` now has ended.
#[track_caller]
pub(crate) fn wait_for_end(pid: i32) {
    if let Some(process) = Pidfd::open(pid) {
        assert!(process.wait(Instant::now() + hang_limit()), "process {pid} does not end: {}", describe(pid));
    }
}

/// Whether a process with this number runs and is no zombie.
pub(crate) fn is_alive(pid: i32) -> bool {
    Pidfd::open(pid).is_some_and(|process| !process.has_ended())
}

/// Sends a signal to the process that has `pid` now.
#[track_caller]
pub(crate) fn send(pid: i32, signal: Signal) {
    let pid = Pid::from_raw(pid).expect("a pid is not zero");
    rustix::process::kill_process(pid, signal).expect("the process exists");
}

/// The value of `key` in `/proc/PID/status`.
pub(crate) fn status_field(pid: i32, key: &str) -> Option<String> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// The parent of a process.
#[track_caller]
pub(crate) fn parent(pid: i32) -> i32 {
    status_field(pid, "PPid").and_then(|pid| pid.parse().ok()).expect("the process lives")
}

/// What the file descriptors of a process lead to.
pub(crate) fn descriptors(pid: i32) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
}

/// Whether one of them that leads to `target` is open on a file or a directory, and not on a device.
pub(crate) fn has_file(pid: i32, target: &Path) -> bool {
    let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut there = entries.filter(|entry| std::fs::read_link(entry.path()).is_ok_and(|it| it == target));
    there.any(|entry| std::fs::metadata(entry.path()).is_ok_and(|it| it.is_file() || it.is_dir()))
}

/// The cgroup v2 path of a process, below the mount of the hierarchy.
pub(crate) fn cgroup(pid: i32) -> String {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
    text.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default().to_owned()
}

/// Every process, as numbers.
pub(crate) fn all() -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// The command line of a process, for messages.
pub(crate) fn describe(pid: i32) -> String {
    let read = |what: &str| {
        let bytes = std::fs::read(Path::new("/proc").join(pid.to_string()).join(what)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
    };
    let state = status_field(pid, "State").unwrap_or_default();
    format!("{pid} [{}] {state} {} in {}", read("comm"), read("cmdline"), cgroup(pid))
}
