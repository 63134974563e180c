//! Signals as numbers: real-time ones too, which nix's `Signal` cannot name.

use std::io;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// The highest signal number of the kernel.
pub const MAX: i32 = 64;

/// Every signal is blocked while this lives; the mask of before comes back with its end.
#[derive(Debug)]
pub struct Blocked(SigSet);

/// Blocks every signal.
pub fn block_all() -> io::Result<Blocked> {
    let mut before = SigSet::empty();
    sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::all()), Some(&mut before))?;
    Ok(Blocked(before))
}

/// For a program that was executed with every signal blocked ([`replace`](super::program::replace)): none is, once
/// this ends.
pub fn already_blocked() -> io::Result<Blocked> {
    block_all().map(|before| {
        std::mem::forget(before);
        Blocked(SigSet::empty())
    })
}

/// Takes what is blocked off again, and with it what has waited.
pub fn unblock_all() {
    // The empty set is one that the kernel takes.
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

impl Drop for Blocked {
    fn drop(&mut self) {
        // A mask that the kernel gave is one that it takes.
        let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&self.0), None);
    }
}

/// Default disposition for every signal and none blocked, as a program expects to find them:
/// `execve` resets handlers, but neither `SIG_IGN` nor the mask, and Rust ignores SIGPIPE.
pub fn reset() {
    reset_dispositions();
    let _ = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

/// From now on `signal` does nothing; children on their way to execve [reset](reset) it.
#[expect(unsafe_code, reason = "changes what a signal does")]
pub fn ignore(signal: i32) {
    // SAFETY: this disposition runs no code of this process.
    unsafe { libc::signal(signal, libc::SIG_IGN) };
}

/// Whether this process ignores `signal`, as one under `nohup` does.
#[expect(unsafe_code, reason = "neither rustix nor nix asks without changing it")]
pub fn is_ignored(signal: i32) -> bool {
    let mut action = std::mem::MaybeUninit::<libc::sigaction>::zeroed();
    // SAFETY: nothing is changed; the kernel fills `action`, which all zero is a valid one.
    unsafe {
        libc::sigaction(signal, std::ptr::null(), action.as_mut_ptr()) == 0
            && action.assume_init().sa_sigaction == libc::SIG_IGN
    }
}

#[expect(unsafe_code, reason = "glibc's sigaction refuses the two signals it uses itself")]
fn reset_dispositions() {
    // `struct kernel_sigaction`, all zero: SIG_DFL, no flags, no restorer, empty mask.
    let default = [0_u64; 4];
    for signal in 1..=MAX {
        // SAFETY: the kernel reads 32 bytes of a live array. No handler of this process is
        // relied on any more: only children on their way to execve come here.
        // SIGKILL and SIGSTOP are refused, and need nothing.
        unsafe {
            libc::syscall(
                libc::SYS_rt_sigaction,
                signal,
                default.as_ptr(),
                std::ptr::null_mut::<libc::c_void>(),
                8_usize,
            )
        };
    }
}

/// Blocked signals, to be taken one by one. Through a signalfd and not `sigwait`, in which a process
/// that waits for a signal looks as if it did not even block it.
#[derive(Debug)]
pub struct Incoming(SignalFd);

impl Incoming {
    /// Every signal there is; the caller has blocked them.
    pub fn new() -> io::Result<Self> {
        Ok(Self(SignalFd::with_flags(&SigSet::all(), SfdFlags::SFD_CLOEXEC)?))
    }

    /// Waits for the next one, and takes it.
    pub fn wait(&self) -> i32 {
        loop {
            if let Ok(Some(signal)) = self.0.read_signal()
                && let Ok(number) = signal.ssi_signo.try_into()
            {
                return number;
            }
        }
    }
}

impl std::os::fd::AsFd for Incoming {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// `kill(2)`. `pid` may name a process group as the system call does.
#[expect(unsafe_code, reason = "nix and rustix take no real-time signals")]
pub fn kill(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: two integers; no memory is involved.
    super::check(unsafe { libc::kill(pid, signal) }.into()).map(drop)
}

/// `pidfd_send_signal(2)`: the process that the pidfd stands for, never a later one of its pid.
#[expect(unsafe_code, reason = "rustix takes no real-time signals")]
pub fn send(pidfd: impl std::os::fd::AsFd, signal: i32) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    // SAFETY: integers and a null siginfo, which the call allows.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_fd().as_raw_fd(),
            signal,
            std::ptr::null::<libc::c_void>(),
            0,
        )
    })
    .map(drop)
}
