//! The processes of a container as a shim deals with them: how one ended, and whether PID 1 of a
//! namespace would hear a signal.

use std::cell::RefCell;
use std::collections::HashSet;
use std::os::fd::{AsFd, BorrowedFd};
use std::rc::Rc;

use nix::libc;
use podrun::error::{Error, Result};
use podrun::state::process::raw_ending;
use podrun::state::{Ending, ProcessRef};
use podrun::sys::process::{ended_child, exit_status};
use rustix::io::Errno;
use rustix::process::{WaitId, WaitIdOptions, waitid};

/// How the child behind `pidfd` ended; `None` while it lives. It stays a zombie: its pid and its
/// `/proc` entry remain its own until [`reap`].
pub(crate) fn look(pidfd: BorrowedFd<'_>) -> Result<Option<Ending>> {
    wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG).map_err(wait_failed)
}

/// Releases the zombie behind `pidfd`; how it ended, `None` where it lives.
pub(crate) fn reap(pidfd: BorrowedFd<'_>) -> Result<Option<Ending>> {
    wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOHANG).map_err(wait_failed)
}

/// How a process ended whose pidfd says that it has, whoever its parent is. `None`: nobody knows.
///
/// The ladder, from what is always right downwards: `waitid` for a child; a zombie's own `exit_code`
/// in `/proc/PID/stat` (field 52), where a parent has not taken it yet, or a tracer still has it to itself
/// (`ptrace(2)`: its tracer is told of its end first); what the kernel keeps for the holders of a pidfd
/// afterwards (Linux 6.15).
pub(crate) fn ending_of(process: ProcessRef, pidfd: BorrowedFd<'_>) -> Option<Ending> {
    match wait(pidfd, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG) {
        Ok(Some(ending)) => return Some(ending),
        Ok(None) | Err(Errno::CHILD) => {}
        Err(errno) => tracing::warn!("{}", wait_failed(errno)),
    }
    raw_ending(process).or_else(|| exit_status(pidfd).and_then(Ending::from_raw))
}

fn wait(pidfd: BorrowedFd<'_>, options: WaitIdOptions) -> Result<Option<Ending>, Errno> {
    loop {
        match waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            Err(Errno::INTR) => {}
            other => return other.map(|status| status.as_ref().and_then(Ending::of)),
        }
    }
}

fn wait_failed(errno: Errno) -> Error {
    Error::os("wait for a process", errno)
}

/// The children that have somebody who waits for them by pidfd: init and the exec'd processes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known(Rc<RefCell<HashSet<i32>>>);

impl Known {
    /// From now on somebody waits for `pid`.
    pub(crate) fn add(&self, pid: i32) {
        self.0.borrow_mut().insert(pid);
    }

    /// `pid` was reaped.
    pub(crate) fn remove(&self, pid: i32) {
        self.0.borrow_mut().remove(&pid);
        self.reap_strays();
    }

    /// Reaps what reparented to the shim as subreaper and has ended. A known child that has ended
    /// hides those behind it until it is reaped itself: [`Known::remove`] looks again.
    pub(crate) fn reap_strays(&self) {
        while let Some(pid) = ended_child().filter(|pid| !self.0.borrow().contains(pid)) {
            if reap_pid(pid).is_none() {
                return;
            }
        }
    }
}

/// Releases the zombie of the child `pid`; its raw `wait` status, `None` where it is none.
pub(crate) fn reap_pid(pid: i32) -> Option<i32> {
    let pid = rustix::process::Pid::from_raw(pid)?;
    let ended = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::NOHANG).ok()??;
    Some(ended.1.as_raw())
}

/// Whether `signal` ends a process that does nothing about it (`signal(7)`).
pub(crate) fn terminates_by_default(signal: i32) -> bool {
    !matches!(
        signal,
        0 | libc::SIGCHLD
            | libc::SIGCONT
            | libc::SIGURG
            | libc::SIGWINCH
            | libc::SIGSTOP
            | libc::SIGTSTP
            | libc::SIGTTIN
            | libc::SIGTTOU
    )
}

/// Whether process `pid`, as a rule PID 1 of its namespace, would take notice of `signal`.
///
/// The kernel drops a signal for which PID 1 has no handler, as if it had been ignored
/// (`pid_namespaces(7)`). Caught, blocked (some thread will fetch it, or a signalfd) and
/// deliberately ignored signals are the process's own business; so is one that a thread waits for
/// in `sigwait`, which shows in none of the masks while it waits. In doubt it is heard.
pub(crate) fn hears(pid: i32, signal: i32) -> bool {
    let Ok(process) = procfs::process::Process::new(pid) else { return true };
    let Ok(status) = process.status() else { return true };
    // Not PID 1 of any namespace, but an ordinary process: the kernel drops nothing.
    if status.nspid.as_ref().and_then(|pids| pids.last()).is_some_and(|pid| *pid != 1) {
        return true;
    }
    let bit = 1_u64 << (signal - 1);
    if (status.sigcgt | status.sigign | status.sigblk | status.sigpnd | status.shdpnd) & bit != 0 {
        return true;
    }
    let Ok(tasks) = process.tasks() else { return true };
    for task in tasks.flatten() {
        // A thread that is gone by now heard nothing.
        let Ok(status) = task.status() else { continue };
        if status.sigblk & bit != 0 || is_in_sigwait(pid, task.tid) {
            return true;
        }
    }
    false
}

fn is_in_sigwait(pid: i32, tid: i32) -> bool {
    let task = format!("/proc/{pid}/task/{tid}");
    if let Ok(call) = std::fs::read_to_string(format!("{task}/syscall")) {
        return names_sigwait(&call);
    }
    // Without CONFIG_HAVE_ARCH_TRACEHOOK there is no syscall file; the wait channel says as much.
    std::fs::read_to_string(format!("{task}/wchan")).is_ok_and(|wchan| wchan.contains("sigtimedwait"))
}

/// Whether a line of `/proc/PID/syscall` (`proc_pid_syscall(5)`) is a wait for a signal: its first
/// field is the system call's number, in decimal, or `running`.
fn names_sigwait(line: &str) -> bool {
    let number = line.split_ascii_whitespace().next().and_then(|number| number.parse::<i64>().ok());
    #[cfg(target_arch = "x86_64")]
    // 177: rt_sigtimedwait of 32-bit programs, which the kernel numbers otherwise.
    let waits = [libc::SYS_rt_sigtimedwait, 177];
    #[cfg(not(target_arch = "x86_64"))]
    let waits = [libc::SYS_rt_sigtimedwait];
    number.is_some_and(|number| waits.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_wait_for_a_signal_is_recognised() {
        let line = format!("{} 0x7ffd 0x0 0x0 0x8 0x0 0x0 0x7ffd 0x7f12\n", libc::SYS_rt_sigtimedwait);
        assert!(names_sigwait(&line));
        assert!(!names_sigwait("running\n"));
        assert!(!names_sigwait(""));
    }

    proptest! {
        #[test]
        fn any_line_is_understood_without_a_panic(line in ".{0,80}") {
            let _ = names_sigwait(&line);
        }
    }
}
