//! The ends of exec'd processes whose shim died: they reparented to the keeper, which tells.
//!
//! ```text
//!  client ── ExecWait{pid} ──▶ known already? alive? ──▶ the keeper's notice, or the pidfd's own word
//! ```

use std::cell::RefCell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use podrun::cgroup::Cgroup;
use podrun::state::{Ending, ProcessRef};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use crate::child::ending_of;
use crate::fd;
use crate::keep::Exit;

/// How many ends are kept for clients that have not asked yet.
const MOST: usize = 256;
/// How long a notice may take after the process is gone.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is known of processes that an earlier shim started.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exits(Rc<Known>);

#[derive(Debug, Default)]
struct Known {
    exits: RefCell<Vec<Exit>>,
    changed: Notify,
    /// There never was a keeper that could tell.
    untold: bool,
}

/// A process that an earlier shim started, and that may run still.
#[derive(Debug)]
pub(crate) struct Orphan {
    process: ProcessRef,
    pidfd: Option<AsyncFd<OwnedFd>>,
}

impl Exits {
    /// Of processes whose keeper died with their shim.
    pub(crate) fn untold() -> Self {
        Self(Rc::new(Known { untold: true, ..Known::default() }))
    }

    fn patience(&self) -> Duration {
        if self.0.untold { Duration::ZERO } else { PATIENCE }
    }

    /// One more.
    pub(crate) fn add(&self, exit: Exit) {
        let mut exits = self.0.exits.borrow_mut();
        if exits.len() == MOST {
            exits.remove(0);
        }
        exits.push(exit);
        self.0.changed.notify_waiters();
    }

    /// The newest of that pid; a start time of 0, on either side, is one that could not be read.
    fn find(&self, process: ProcessRef) -> Option<Ending> {
        let exits = self.0.exits.borrow();
        let same = |exit: &&Exit| {
            let times = [exit.start_time, process.start_time];
            exit.pid == process.pid && (times[0] == times[1] || times.contains(&0))
        };
        exits.iter().rev().find(same).and_then(|exit| Ending::from_raw(exit.status))
    }

    /// How `orphan` ended, once it has; `None` where nobody can tell.
    pub(crate) async fn ending(&self, orphan: &Orphan) -> Option<Ending> {
        let told = async {
            loop {
                let changed = self.0.changed.notified();
                match self.find(orphan.process) {
                    Some(ending) => return ending,
                    None => changed.await,
                }
            }
        };
        tokio::pin!(told);
        let Some(pidfd) = &orphan.pidfd else {
            return tokio::time::timeout(self.patience(), told).await.ok();
        };
        tokio::select! {
            biased;
            ending = &mut told => return Some(ending),
            ready = pidfd.readable() => drop(ready),
        }
        // Not the keeper's child where that one died too: then it is nobody's whom we could ask.
        match ending_of(orphan.process, pidfd.as_fd()) {
            Some(ending) => Some(ending),
            None => match tokio::time::timeout(self.patience(), told).await {
                Ok(ending) => Some(ending),
                Err(_) => ending_of(orphan.process, pidfd.as_fd()),
            },
        }
    }
}

impl Orphan {
    /// The process that a client means, if it still is one of the container.
    pub(crate) fn of(process: ProcessRef, cgroup: Option<&Cgroup>) -> Self {
        let pidfd = Pid::from_raw(process.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        // Looked at after it was opened: what is true of the pid is then true of the pidfd.
        let is_it = || {
            let now = ProcessRef::of(process.pid);
            let same = now.is_some_and(|now| process.start_time == 0 || now == process);
            same && cgroup
                .and_then(|cgroup| cgroup.procs().ok())
                .is_some_and(|all| all.contains(&process.pid))
        };
        let pidfd = pidfd.filter(|_| is_it()).and_then(|pidfd| fd::watch(pidfd, "a process").ok());
        Self { process, pidfd }
    }

    /// Sends `signal` to it, if it still runs.
    pub(crate) fn signal(&self, signal: i32) {
        if let Some(pidfd) = &self.pidfd {
            let _ = podrun::sys::signal::send(pidfd.get_ref(), signal);
        }
    }
}
