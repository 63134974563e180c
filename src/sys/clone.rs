//! `clone3(2)` as a fork: a child with a copy of this process's memory.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::libc;
use rustix::process::{Signal, WaitId, WaitIdOptions, getppid, set_parent_process_death_signal, waitid};

use super::fd::{Fate, all_but, sorted};
use super::signal;

/// `struct clone_args` (`clone3(2)`), as of Linux 5.7.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct CloneArgs {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    pub(super) cgroup: u64,
}

/// `CLONE_CLEAR_SIGHAND`: no handler of the parent ever runs in the child.
pub(super) const CLEAR_SIGHAND: u64 = 0x1_0000_0000;
/// `CLONE_INTO_CGROUP`
pub(super) const INTO_CGROUP: u64 = 0x2_0000_0000;
/// `CLONE_PIDFD`; `as` would widen a negative constant wrongly, this one is positive.
const PIDFD: u64 = libc::CLONE_PIDFD as u64;

/// A child to be made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Clone3<'a> {
    /// `CLONE_NEW*`: the namespaces that are the child's own.
    pub namespaces: u64,
    /// The cgroup the child is born in; the parent's where absent.
    pub cgroup: Option<BorrowedFd<'a>>,
    /// The only descriptors the child keeps: all others are closed before it runs a line.
    pub keep: &'a [BorrowedFd<'a>],
}

/// A child that was made.
#[derive(Debug)]
pub struct Cloned {
    /// Its pid, as the parent sees it.
    pub pid: i32,
    /// A descriptor for it, which nothing else can be mistaken for.
    pub pidfd: OwnedFd,
}

impl Clone3<'_> {
    /// Makes the child. It runs `child` with every signal blocked and every handler gone, and ends
    /// in `execve` or [`exit`]. The parent must have one thread: another one might hold a lock that
    /// nobody would ever release in the child.
    pub fn spawn<T>(&self, argument: T, child: fn(T) -> !) -> io::Result<Cloned> {
        // `as`: a small positive constant.
        let args = CloneArgs { exit_signal: libc::SIGCHLD as u64, ..CloneArgs::default() };
        self.spawn_with(args, argument, child)
    }

    /// The same, but the new process is a child of this process's own parent, who alone can wait for it.
    pub fn spawn_sibling<T>(&self, argument: T, child: fn(T) -> !) -> io::Result<Cloned> {
        // Its exit signal is this process's own.
        let args = CloneArgs { flags: libc::CLONE_PARENT as u64, ..CloneArgs::default() };
        self.spawn_with(args, argument, child)
    }

    #[expect(unsafe_code, reason = "clone3 has no wrapper, and returns twice")]
    fn spawn_with<T>(&self, mut args: CloneArgs, argument: T, child: fn(T) -> !) -> io::Result<Cloned> {
        let keep = sorted(self.keep);
        let mut pidfd: libc::c_int = -1;
        args.flags |= self.namespaces | PIDFD | CLEAR_SIGHAND;
        args.pidfd = std::ptr::from_mut(&mut pidfd) as u64;
        if let Some(cgroup) = self.cgroup {
            args.flags |= INTO_CGROUP;
            args.cgroup = u64::from(cgroup.as_raw_fd().unsigned_abs());
        }
        let blocked = signal::block_all()?;
        // SAFETY: without CLONE_VM the child runs on its own copy of this stack and heap, so that
        // returning twice is what fork does. `args` and `pidfd` are live.
        let pid = super::check(unsafe {
            libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<CloneArgs>())
        })?;
        if pid == 0 {
            let _guard = NoUnwind;
            if all_but(&keep, Fate::Close).is_err() {
                exit(EXIT_BROKEN);
            }
            child(argument)
        }
        drop(blocked);
        // SAFETY: the kernel stored a new descriptor there, which is nobody else's.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        let pid = pid.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))?;
        Ok(Cloned { pid, pidfd })
    }
}

/// Makes a child of this process's own parent, by the older call: a filter that this process has loaded can
/// read its flags, and lets it pass where it does not clone3. The child has all of this process's
/// descriptors, and runs `child` as it is; to be called with one thread.
#[expect(unsafe_code, reason = "returns twice")]
pub fn fork_sibling<T>(argument: T, child: fn(T) -> !) -> io::Result<i32> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without CLONE_VM the child runs on its own copy of this stack and heap, as after fork; no
    // pointer is passed.
    let pid = super::check(unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) })?;
    if pid == 0 {
        let _guard = NoUnwind;
        child(argument)
    }
    pid.try_into().map_err(|_| io::Error::from_raw_os_error(libc::EOVERFLOW))
}

/// A child that does nothing but be there, without a descriptor of its parent's. It ends with this, or with its parent.
#[derive(Debug)]
pub struct Waiting(Cloned);

impl Waiting {
    /// Its pid, as the parent sees it.
    pub fn pid(&self) -> i32 {
        self.0.pid
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        // It is our own child, and was not waited for: its pid is still its own.
        let _ = signal::send(&self.0.pidfd, libc::SIGKILL);
        let _ = waitid(WaitId::PidFd(self.0.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
}

/// Makes a child that waits. The parent must have one thread.
pub fn waiting() -> io::Result<Waiting> {
    fn wait(parent: i32) -> ! {
        let bound = set_parent_process_death_signal(Some(Signal::KILL));
        // The parent may have ended before.
        let has_parent = || getppid().is_some_and(|now| now.as_raw_nonzero().get() == parent);
        while bound.is_ok() && has_parent() {
            let _ = rustix::event::poll(&mut [], None);
        }
        exit(EXIT_BROKEN)
    }
    let own = rustix::process::getpid().as_raw_nonzero().get();
    Clone3::default().spawn(own, wait).map(Waiting)
}

/// What a child that could not even begin exits with.
const EXIT_BROKEN: i32 = 125;

/// Ends this process at once: no destructor, no exit handler, no buffer of the parent is run twice.
#[expect(unsafe_code, reason = "_exit has no safe wrapper")]
pub fn exit(code: i32) -> ! {
    // SAFETY: does not return, and touches no memory.
    unsafe { libc::_exit(code) }
}

/// A panic in a child must not unwind into what is a copy of its parent's stack.
struct NoUnwind;

impl Drop for NoUnwind {
    fn drop(&mut self) {
        exit(EXIT_BROKEN);
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Runs `test` in a process with one thread, which the test harness is not.
    #[expect(unsafe_code, reason = "fork is unsafe in a process with threads")]
    pub(crate) fn alone(test: impl FnOnce() + std::panic::UnwindSafe) {
        // SAFETY: glibc's fork leaves its own locks free in the child, and the child uses no other.
        match unsafe { libc::fork() } {
            0 => exit(i32::from(std::panic::catch_unwind(test).is_err())),
            child => {
                let mut status = 0;
                // SAFETY: `status` is live.
                assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
                assert_eq!(status, 0, "the test in its own process failed: its message is above");
            }
        }
    }

    fn report_and_exit(write: &OwnedFd) -> ! {
        let mut fds: Vec<_> = std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        fds.sort();
        rustix::io::write(write, fds.join(" ").as_bytes()).unwrap();
        exit(7)
    }

    #[test]
    fn a_child_has_only_what_it_was_given() {
        alone(|| {
            let (read, write) = rustix::pipe::pipe().unwrap();
            let keep = [rustix::fd::AsFd::as_fd(&write)];
            let child = Clone3 { keep: &keep, ..Clone3::default() };
            let made = child.spawn(&write, report_and_exit).unwrap();
            let mut seen = [0; 64];
            let length = rustix::io::read(&read, &mut seen).unwrap();
            let seen = std::str::from_utf8(&seen[..length]).unwrap();
            assert_eq!(seen, format!("0 {}", write.as_raw_fd()), "0 is the directory itself");
            let options = rustix::process::WaitIdOptions::EXITED;
            let id = rustix::process::WaitId::PidFd(rustix::fd::AsFd::as_fd(&made.pidfd));
            let status = rustix::process::waitid(id, options).unwrap().unwrap();
            assert_eq!(status.exit_status(), Some(7));
        });
    }
}
