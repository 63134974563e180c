//! Signals as numbers: real-time ones too, which nix's `Signal` cannot name.

use std::io;
use std::mem::MaybeUninit;

use nix::libc;
use nix::sys::signal::{SigSet, SigmaskHow, sigprocmask};

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

/// Waits for a blocked signal, and takes it.
#[expect(unsafe_code, reason = "nix's wait fails on real-time signals")]
pub fn wait() -> i32 {
    let mut all = MaybeUninit::<libc::sigset_t>::uninit();
    loop {
        // SAFETY: sigfillset initialises the set that sigwaitinfo then reads; a null info is allowed.
        let signal = unsafe {
            libc::sigfillset(all.as_mut_ptr());
            libc::sigwaitinfo(all.as_ptr(), std::ptr::null_mut())
        };
        if signal > 0 {
            return signal;
        }
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
