//! One who goes first: a child that makes the process which is wanted, and is gone then.
//!
//! ```text
//!  parent ──clone──▶ usher: prepares, where only it can ──clone(CLONE_PARENT)──▶ the process
//!    │ ◀── its pid, or the error ──┘ ends                                           │
//!    └──────────────────────────────── a child of the parent ───────────────────────┘
//! ```

use std::os::fd::{AsFd, OwnedFd};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{
    Pid, PidfdFlags, Signal, WaitId, WaitIdOptions, pidfd_open, pidfd_send_signal, waitid,
};

use crate::error::{Error, Result};
use crate::sys::{Cloned, clone};

/// No answer is longer; a pipe holds more.
const MAX_ANSWER: usize = 16 << 10;
/// How long an usher may take.
const PATIENCE: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };

/// Where the parent hears of the answer, and the usher's end.
pub(super) fn channel() -> Result<(OwnedFd, OwnedFd)> {
    rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
        .map_err(|errno| Error::os("make a pipe", errno))
}

/// Parent: the process that `usher` has made, once the usher is gone; `what` it was for.
pub(super) fn outcome(usher: &Cloned, answer: &OwnedFd, what: &str) -> Result<Cloned> {
    // Its end, and not the end of file: the process has a copy of the pipe until it runs. One that a container
    // could hold up, as in a cgroup that froze itself, has to be quick.
    let mut ended = [PollFd::new(&usher.pidfd, PollFlags::IN)];
    if rustix::io::retry_on_intr(|| poll(&mut ended, Some(&PATIENCE))) == Ok(0) {
        let _ = pidfd_send_signal(&usher.pidfd, Signal::KILL);
    }
    rustix::io::retry_on_intr(|| waitid(WaitId::PidFd(usher.pidfd.as_fd()), WaitIdOptions::EXITED))
        .map_err(|errno| Error::os("wait for a process", errno))?;
    let mut text = vec![0; MAX_ANSWER];
    let length = rustix::io::read(answer, &mut text).unwrap_or(0);
    let pid: Result<i32> = serde_json::from_slice(&text[..length])
        .unwrap_or_else(|_| Err(Error::failed(what, "the process that prepares it died")));
    child(pid?)
}

/// Parent: the process `pid`, which an usher has made for it.
pub(super) fn child(pid: i32) -> Result<Cloned> {
    // Nobody but this process can reap it: the number is still its own.
    let pidfd = Pid::from_raw(pid).ok_or(Errno::SRCH).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()));
    let pidfd = pidfd.map_err(|errno| Error::os("open a process", errno))?;
    // ECHILD: whatever was answered, it is no child of this process's.
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
    waitid(WaitId::PidFd(pidfd.as_fd()), look).map_err(|errno| Error::os("look at a process", errno))?;
    Ok(Cloned { pid, pidfd })
}

/// Usher: tells the pid of what it has `made`, and ends.
pub(super) fn answer(to: &OwnedFd, made: Result<i32>) -> ! {
    let text = serde_json::to_vec(&made).unwrap_or_default();
    // Less than a pipe holds, and whole or not at all.
    let _ = rustix::io::write(to, &text[..text.len().min(MAX_ANSWER)]);
    clone::exit(0)
}
