//! What a shim does to its container's cgroup while it runs: it waits until everything in it stands still,
//! beside everything else that the loop does, and changes its limits.

use std::os::fd::OwnedFd;
use std::time::Duration;

use podrun::cgroup::Cgroup;
use podrun::error::{Error, Result};
use podrun::events::What;
use podrun::protocol::Reply;
use podrun::runtime;
use podrun::state::Status;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

use crate::driver::Driver;
use crate::machine::Ticket;

/// How long it may take. Only a process in an uninterruptible wait takes longer than a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// A freeze that is under way. Dropped, nobody waits for it any more.
#[derive(Debug)]
pub(crate) struct Freezing(JoinHandle<Result<()>>);

impl Drop for Freezing {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Begins to freeze `cgroup`.
fn begin(cgroup: Option<&Cgroup>) -> Result<Freezing> {
    let cgroup = cgroup.ok_or_else(|| Error::failed("freeze", "the container has no cgroup"))?;
    // Watched before it begins, so that no change is missed.
    let events = watch(cgroup.events()?)?;
    let late = cgroup.not_frozen();
    cgroup.freeze()?;
    Ok(Freezing(tokio::task::spawn_local(async move {
        tokio::time::timeout(PATIENCE, frozen(&events)).await.unwrap_or(Err(late))
    })))
}

/// The outcome, once there is one.
pub(crate) async fn done(freezing: &mut Option<Freezing>) -> Result<()> {
    match freezing {
        Some(Freezing(task)) => match task.await {
            Ok(outcome) => outcome,
            Err(error) => Err(Error::failed("freeze", error.to_string())),
        },
        None => std::future::pending().await,
    }
}

impl Driver<'_> {
    /// Begins to freeze everything inside.
    pub(crate) fn freeze(&mut self) -> Result<()> {
        self.freezing = Some(begin(self.cgroup.as_ref())?);
        Ok(())
    }

    /// Publishes whether the container is paused.
    pub(crate) fn paused(&mut self, paused: bool) {
        self.state.status = if paused { Status::Paused } else { Status::Running };
        self.write_state();
        // Whoever takes over must know before the client does.
        self.remember(self.machine.memory().clone());
        self.tell(if paused { What::Pause } else { What::Resume });
    }

    /// Lets everything inside go on.
    pub(crate) fn thaw(&mut self) {
        self.freezing = None;
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.thaw()
        {
            tracing::warn!("{error}");
        }
    }

    /// Changes the limits as the request of `ticket` asks.
    pub(crate) fn update(&mut self, ticket: Ticket) {
        let Some(changes) = self.updates.remove(&ticket) else { return };
        let updated = match self.state.has_cgroup() {
            true => runtime::update_limits(
                &self.paths,
                self.cgroup.as_ref(),
                self.state.unit().map(|unit| unit.name),
                &changes,
            ),
            false => Err(runtime::no_cgroup(&self.state)),
        };
        let reply = match updated {
            Ok(()) => {
                self.has_written();
                self.tell(What::Update);
                Reply::Done
            }
            Err(error) => Reply::Refused(error),
        };
        self.answer(ticket, reply);
    }
}

/// A change of `cgroup.events` is told as EPOLLPRI (cgroup-v2.rst).
#[expect(deprecated, reason = "unsound only for types that may change their descriptor; an OwnedFd cannot")]
fn watch(events: OwnedFd) -> Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(events, Interest::PRIORITY)
        .map_err(|error| Error::io("watch", "cgroup.events", &error))
}

async fn frozen(events: &AsyncFd<OwnedFd>) -> Result<()> {
    loop {
        let mut text = [0; 256];
        let length = rustix::io::pread(events, &mut text, 0)
            .map_err(|errno| Error::at("read", "cgroup.events", errno))?;
        if text[..length].split(|byte| *byte == b'\n').any(|line| line == b"frozen 1") {
            return Ok(());
        }
        let failed = |error: std::io::Error| Error::io("watch", "cgroup.events", &error);
        events.ready(Interest::PRIORITY).await.map_err(failed)?.clear_ready();
    }
}
