//! Work that would hold up the loop, done by a child beside it.
//!
//! ```text
//!  loop ── begin ──▶ child: a copy of this process with its stdio alone, that does one thing and exits
//!    ▲                 │
//!    └──── done ───────┘  by pidfd; dropped, it goes on by itself
//! ```

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};

use podrun::error::{Error, Result};
use podrun::sys::clone::Clone3;
use tokio::io::unix::AsyncFd;

use crate::child::{self, Known};
use crate::fd;

/// A child that works beside the loop.
#[derive(Debug)]
pub(crate) struct Aside {
    pidfd: AsyncFd<OwnedFd>,
    /// 0 once it was reaped.
    pid: Cell<i32>,
    known: Known,
}

impl Aside {
    /// Has a child run `work`, which ends it; `what` names that in an error.
    pub(crate) fn begin<T>(what: &str, argument: T, work: fn(T) -> !, known: &Known) -> Result<Self> {
        let keep = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
        let child = Clone3 { keep: &keep, ..Clone3::default() }
            .spawn(argument, work)
            .map_err(|error| Error::io("make", what, &error))?;
        known.add(child.pid);
        Ok(Self { pidfd: fd::watch(child.pidfd, "a process")?, pid: child.pid.into(), known: known.clone() })
    }

    /// Ends it before it is done.
    pub(crate) fn stop(&self) {
        let _ = podrun::sys::signal::send(self.pidfd.as_fd(), nix::libc::SIGKILL);
    }

    /// Ends it with all that it has started, where it leads a session.
    pub(crate) fn stop_session(&self) {
        if let Some(group) = rustix::process::Pid::from_raw(self.pid.get()) {
            // It was not reaped: its number is its own.
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        self.stop();
    }

    /// Waits for the end of it, and tells its exit code.
    pub(crate) async fn done(&self) -> Result<i32> {
        loop {
            let mut guard =
                self.pidfd.readable().await.map_err(|error| Error::io("watch", "a process", &error))?;
            if let Some(ending) = child::reap(self.pidfd.as_fd())? {
                self.known.remove(self.pid.take());
                return Ok(ending.code());
            }
            guard.clear_ready();
        }
    }
}

impl Drop for Aside {
    fn drop(&mut self) {
        // Nobody waits for it any more: it is reaped like any stray.
        self.known.remove(self.pid.take());
    }
}
