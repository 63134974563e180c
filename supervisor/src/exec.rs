//! Processes that clients run inside: each a child of the shim, watched by a task of its own from
//! its clone to its reaping, whether its client still waits or not.

use std::cell::RefCell;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::time::Duration;

use podrun::error::Result;
use podrun::launch::{self, Execed, Terminal};
use podrun::state::{Ending, ProcessRef};
use podrun::sys;
use tokio::io::unix::AsyncFd;
use tokio::sync::oneshot;

use crate::child::{self, Known};
use crate::exits::Exits;
use crate::fd;
use crate::keep::{Exit, start_time};
use crate::ledger::{Debt, Ledger};

/// A process inside, as its client's task sees it.
#[derive(Debug)]
pub(crate) struct Running {
    /// Its pid on the host.
    pub(crate) pid: i32,
    /// Whether its command was executed, and its terminal; what is dropped once its client was told.
    pub(crate) started: oneshot::Receiver<(Result<Option<Terminal>>, Option<Debt>)>,
    /// How it ended, and what is dropped once its client was told.
    pub(crate) ended: oneshot::Receiver<(Ending, Told)>,
    /// The way to signal it.
    pub(crate) signals: Signals,
}

/// Dropped once the client was told, or is gone.
#[derive(Debug)]
pub(crate) struct Told {
    _debt: Debt,
    _told: oneshot::Sender<()>,
}

/// How long a process that has ended waits for its client to be told.
const PATIENCE: Duration = Duration::from_secs(1);

/// The way to signal a process that may have been reaped: a pidfd never means another one.
#[derive(Debug)]
pub(crate) struct Signals(Rc<AsyncFd<OwnedFd>>);

impl Signals {
    /// Sends `signal`; one that does not exist, or a process that is gone, is nobody's fault.
    pub(crate) fn send(&self, signal: i32) {
        let _ = sys::signal::send(self.0.get_ref(), signal);
    }
}

/// Watches a process that was just cloned, and calls `executed` with its pid once its command was executed.
/// `starting` is what a client is owed that waits for that. A debt of its own keeps the shim until it is reaped.
pub(crate) fn watch(
    execed: Execed,
    ledger: &Ledger,
    known: &Known,
    inside: &Inside,
    starting: Option<Debt>,
    executed: impl FnOnce(i32) + 'static,
) -> Result<Running> {
    let pidfd = Rc::new(fd::watch(execed.pidfd, "a process")?);
    let (started_sender, started) = oneshot::channel();
    let (ended_sender, ended) = oneshot::channel();
    let debt = ledger.unsent();
    known.add(execed.pid);
    inside.add(execed.pid, &pidfd);
    let (pid, known, inside) = (execed.pid, known.clone(), inside.clone());
    let process = pidfd.clone();
    tokio::task::spawn_local(async move {
        let outcome = match fd::read_outcome(execed.report, pid, &*process).await {
            Ok((report, fds)) => launch::gate::outcome(&report).map(|()| launch::gate::terminal(fds)),
            Err(error) => Err(error),
        };
        tracing::debug!("exec: process {pid} began: {outcome:?}");
        if outcome.is_ok() {
            executed(pid);
        }
        let _ = started_sender.send((outcome, starting));
        // Told first: if this shim dies in between, the next one finds the zombie with the keeper.
        if let Some(ending) = end_of(&process).await {
            tracing::debug!("exec: process {pid} ended: {ending:?}");
            let (told_sender, told) = oneshot::channel();
            if ended_sender.send((ending, Told { _debt: debt, _told: told_sender })).is_ok() {
                // A zombie holds up the end of its namespace's init, and so no client may hold it up.
                let _ = tokio::time::timeout(PATIENCE, told).await;
            }
        }
        if let Err(error) = child::reap(process.as_fd()) {
            tracing::warn!("process {pid}: {error}");
        }
        inside.remove(pid);
        known.remove(pid);
    });
    Ok(Running { pid: execed.pid, started, ended, signals: Signals(pidfd) })
}

/// The processes inside that are this shim's children and were not reaped yet.
#[derive(Clone, Debug, Default)]
pub(crate) struct Inside(Rc<RefCell<Vec<(i32, Pidfd)>>>);

type Pidfd = Rc<AsyncFd<OwnedFd>>;

impl Inside {
    fn add(&self, pid: i32, pidfd: &Pidfd) {
        self.0.borrow_mut().push((pid, pidfd.clone()));
    }

    fn remove(&self, pid: i32) {
        self.0.borrow_mut().retain(|(other, _)| *other != pid);
    }

    /// All of them. When each was started is only asked here: until it is reaped its pid is its own.
    pub(crate) fn all(&self) -> Vec<(ProcessRef, Pidfd)> {
        let whole = |(pid, pidfd): &(i32, Pidfd)| {
            (ProcessRef { pid: *pid, start_time: start_time(*pid).unwrap_or(0) }, pidfd.clone())
        };
        self.0.borrow().iter().map(whole).collect()
    }
}

/// A process inside that the program before this one has started.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) process: ProcessRef,
    pub(crate) pidfd: OwnedFd,
}

/// Goes on watching it. How it ends is kept for its client, which asks again.
pub(crate) fn go_on(carried: Carried, exits: &Exits, known: &Known, inside: &Inside) -> Result<()> {
    let ProcessRef { pid, start_time } = carried.process;
    let pidfd = Rc::new(fd::watch(carried.pidfd, "a process")?);
    known.add(pid);
    inside.add(pid, &pidfd);
    let (exits, known, inside) = (exits.clone(), known.clone(), inside.clone());
    tokio::task::spawn_local(async move {
        end_of(&pidfd).await;
        if let Some(status) = child::reap_pid(pid) {
            exits.add(Exit { pid, start_time, status });
        }
        inside.remove(pid);
        known.remove(pid);
    });
    Ok(())
}

/// How it ended, once it has; it stays a zombie.
async fn end_of(pidfd: &AsyncFd<OwnedFd>) -> Option<Ending> {
    loop {
        let mut guard = pidfd.readable().await.ok()?;
        match child::look(pidfd.as_fd()) {
            Ok(Some(ending)) => return Some(ending),
            Ok(None) => guard.clear_ready(),
            Err(error) => {
                tracing::warn!("process behind descriptor {}: {error}", pidfd.as_raw_fd());
                return None;
            }
        }
    }
}
