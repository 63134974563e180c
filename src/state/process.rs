//! Telling one process from another, and the living from the dead.

use nix::libc;
use procfs::process::Stat;

use crate::state::{Ending, ProcessRef};

/// The id of this boot (`proc_sys_kernel(5)`), empty where `/proc` does not tell.
pub fn boot_id() -> String {
    procfs::sys::kernel::random::boot_id().unwrap_or_default()
}

impl ProcessRef {
    /// The process that has `pid` now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = procfs::process::Process::new(pid).and_then(|process| process.stat()).ok()?;
        Some(Self { pid, start_time: stat.starttime })
    }

    /// Whether this very process still runs. One that has ended and was not waited for does not.
    pub fn is_alive(self) -> bool {
        let stat = procfs::process::Process::new(self.pid).and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.starttime == self.start_time && !has_ended(&stat))
    }
}

/// How a process ended that nobody has waited for yet: its zombie's `/proc/PID/stat` tells (field 52,
/// `proc_pid_stat(5)`). `None` where it lives, or is gone.
pub fn raw_ending(process: ProcessRef) -> Option<Ending> {
    let stat = procfs::process::Process::new(process.pid).and_then(|process| process.stat()).ok()?;
    let is_zombie = stat.starttime == process.start_time && has_ended(&stat) && stat.state == 'Z';
    is_zombie.then_some(stat.exit_code?).and_then(Ending::from_raw)
}

/// Whether a process is stopped, by a signal or by who traces it.
pub fn is_stopped(pid: i32) -> bool {
    let stat = procfs::process::Process::new(pid).and_then(|process| process.stat());
    stat.is_ok_and(|stat| matches!(stat.state, 'T' | 't'))
}

/// A process is what all its threads are: whose first one has ended shows as a zombie, and lives on with the others.
fn has_ended(stat: &Stat) -> bool {
    stat.state == 'X' || (stat.state == 'Z' && stat.num_threads <= 1)
}

impl Ending {
    /// From a raw `wait` status.
    pub fn from_raw(status: i32) -> Option<Self> {
        if libc::WIFEXITED(status) {
            Some(Self::Exited(libc::WEXITSTATUS(status)))
        } else if libc::WIFSIGNALED(status) {
            Some(Self::Signaled { signal: libc::WTERMSIG(status), core: libc::WCOREDUMP(status) })
        } else {
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_zombie_tells_how_it_ended_and_the_living_do_not() {
        let mut child = std::process::Command::new("/bin/sh").args(["-c", "exit 42"]).spawn().unwrap();
        let process = ProcessRef::of(child.id().try_into().unwrap()).unwrap();
        let pidfd = rustix::process::pidfd_open(
            rustix::process::Pid::from_raw(process.pid).unwrap(),
            rustix::process::PidfdFlags::empty(),
        );
        let mut poll = [rustix::event::PollFd::from_borrowed_fd(
            std::os::fd::AsFd::as_fd(pidfd.as_ref().unwrap()),
            rustix::event::PollFlags::IN,
        )];
        rustix::event::poll(&mut poll, None).unwrap();
        // Only for whom the kernel lets read it.
        if rustix::process::geteuid().is_root() {
            assert_eq!(raw_ending(process), Some(Ending::Exited(42)));
        }
        child.wait().unwrap();
        assert_eq!(raw_ending(process), None);
        let own = ProcessRef::of(std::process::id().try_into().unwrap()).unwrap();
        assert_eq!(raw_ending(own), None);
    }

    #[test]
    fn a_recycled_pid_is_not_the_same_process() {
        let own = ProcessRef::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessRef { start_time: own.start_time + 1, ..own }.is_alive());
    }
}
