//! A process that goes on twice, and the end of one that is not this process's child.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::libc;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// What `fork` returns to each side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forked {
    /// This is the parent, and that is the child's pid.
    Parent(i32),
    /// This is the child.
    Child,
}

/// `fork(2)`: the child goes on with a copy of everything, where [`Clone3`](super::Clone3) makes one
/// that only executes. Refused in a process with more than one thread, whose locks nobody would ever
/// release in the child.
#[expect(unsafe_code, reason = "fork is unsafe in a process with threads")]
pub fn fork() -> io::Result<Forked> {
    if !super::is_single_threaded()? {
        return Err(io::Error::from_raw_os_error(libc::EBUSY));
    }
    // SAFETY: there is no other thread. Through libc and not by clone3: the child goes on using
    // libc, which keeps the number of its thread and its allocator in order here.
    match super::check(unsafe { libc::fork() }.into())? {
        0 => Ok(Forked::Child),
        pid => pid.try_into().map(Forked::Parent).map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW)),
    }
}

/// A child of this process that has ended and was not waited for; it stays so. `None` where there is
/// none.
#[expect(unsafe_code, reason = "rustix does not tell whose status it is, nix knows no real-time signal")]
pub fn ended_child() -> Option<i32> {
    let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: `info` is a live siginfo_t, which all zero is a valid one; the kernel fills it, or leaves
    // it all zero where no child has ended. Of the union, si_pid is what a SIGCHLD has.
    let pid = unsafe {
        super::check(libc::waitid(libc::P_ALL, 0, info.as_mut_ptr(), options).into()).ok()?;
        info.assume_init().si_pid()
    };
    (pid > 0).then_some(pid)
}

/// `struct pidfd_info` (`linux/pidfd.h`), in its first version of 64 bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
struct PidfdInfo {
    mask: u64,
    cgroup: u64,
    /// Pids and credentials, of no interest here.
    ids: [u32; 11],
    exit_code: i32,
}

/// `PIDFD_INFO_EXIT`: the exit status is wanted, or was given.
const INFO_EXIT: u64 = 1 << 3;
/// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`.
const GET_INFO: u32 = (3 << 30) | ((size_of::<PidfdInfo>() as u32) << 16) | (0xFF << 8) | 11;

/// The `wait` status of the process behind `pidfd`, whoever its parent was: from Linux 6.15 on, once it
/// was reaped. `None` before that, and on older kernels.
#[expect(unsafe_code, reason = "PIDFD_GET_INFO has no wrapper")]
pub fn exit_status(pidfd: impl AsFd) -> Option<i32> {
    let mut info = PidfdInfo { mask: INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the kernel writes at most the size that the request's number carries, to a live struct.
    let result = unsafe {
        libc::ioctl(pidfd.as_fd().as_raw_fd(), GET_INFO as libc::Ioctl, std::ptr::from_mut(&mut info))
    };
    (result == 0 && info.mask & INFO_EXIT != 0).then_some(info.exit_code)
}

/// A thread of the process behind `pidfd` other than its first one, which may have ended: as a pidfd, with which
/// `setns(2)` joins what that thread is in. `None` where there is none, and before Linux 6.9.
pub fn another_thread(pidfd: impl AsFd) -> Option<OwnedFd> {
    /// `PIDFD_THREAD`
    const THREAD: u32 = libc::O_EXCL.cast_unsigned();
    let own = format!("/proc/self/fdinfo/{}", pidfd.as_fd().as_raw_fd());
    let info = std::fs::read_to_string(own).ok()?;
    let pid = info.lines().find_map(|line| line.strip_prefix("Pid:"))?.trim();
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).ok()?.flatten();
    let mut threads = threads.filter_map(|thread| thread.file_name().into_string().ok());
    let thread = threads.find(|thread| thread != pid)?;
    let flags = PidfdFlags::from_bits_retain(THREAD);
    let opened = pidfd_open(Pid::from_raw(thread.parse().ok()?)?, flags).ok()?;
    // While the process lives its pid is nobody else's, and its threads are where they were found.
    let lives = super::signal::send(&pidfd, 0).is_ok();
    let is_there = || std::fs::exists(format!("/proc/{pid}/task/{thread}")).unwrap_or(false);
    (lives && is_there()).then_some(opened)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_goes_on_and_a_process_with_threads_does_not_fork() {
        assert_eq!(fork().unwrap_err().raw_os_error(), Some(libc::EBUSY));
        super::super::clone::tests::alone(|| match fork().unwrap() {
            Forked::Child => super::super::clone::exit(9),
            Forked::Parent(pid) => {
                let pidfd = pidfd_open(Pid::from_raw(pid).unwrap(), PidfdFlags::empty()).unwrap();
                let (_, status) =
                    rustix::process::waitpid(Pid::from_raw(pid), rustix::process::WaitOptions::empty())
                        .unwrap()
                        .unwrap();
                assert_eq!(status.exit_status(), Some(9));
                // Older kernels do not tell.
                assert!(exit_status(&pidfd).is_none_or(|raw| raw == status.as_raw()));
            }
        });
    }
}
