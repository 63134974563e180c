//! The beginning of a run: the gate is opened, the command runs, and the clock is set for what follows.

use std::os::fd::OwnedFd;
use std::time::Duration;

use jiff::Timestamp;
use podrun::error::{Error, Result};
use podrun::events::What;
use podrun::launch;
use podrun::state::Status;

use super::Driver;
use crate::clock::{Alarm, QUIET};
use crate::fd;
use crate::keep::Slot;
use crate::mounts::Mounts;

impl Driver<'_> {
    pub(super) fn open_gate(&mut self) -> Result<()> {
        let gate = self.take_gate()?;
        // Whoever finds the gate open must know that it may be.
        self.remember(self.machine.memory().clone());
        launch::gate::go(&gate)?;
        self.listen_at(gate)
    }

    /// The same after a shim that may have died before it said go, or after. A second word is not heard; and
    /// where nobody hears it any more, init was executed, or has ended: the gate tells, as always.
    pub(super) fn open_gate_again(&mut self) -> Result<()> {
        let gate = self.take_gate()?;
        let _ = launch::gate::go(&gate);
        self.listen_at(gate)
    }

    fn listen_at(&mut self, gate: OwnedFd) -> Result<()> {
        let pidfd = self.pidfd.get_ref().try_clone();
        let pidfd = pidfd.map_err(|error| Error::io("watch", "init", &error))?;
        let pid = self.state.init.map_or(0, |init| init.pid);
        self.gate = Some(tokio::task::spawn_local(async move {
            fd::read_outcome(gate, pid, &pidfd).await.map(|(report, _)| report)
        }));
        Ok(())
    }

    fn take_gate(&mut self) -> Result<OwnedFd> {
        self.closed_gate
            .take()
            .ok_or_else(|| Error::failed(format!("start container {}", self.state.id), "its gate is gone"))
    }

    pub(super) fn running(&mut self) {
        self.state.status = Status::Running;
        self.state.started_at = Some(Timestamp::now());
        self.write_state();
        self.tell(What::Start { pid: self.state.init.map_or(0, |init| init.pid) });
        // Before the gate goes: without it, the next shim could not learn that init is through.
        self.remember(self.machine.memory().clone());
        self.keep.let_go(Slot::Gate);
        self.watch_run();
        self.settle();
    }

    /// Sets the clock for what follows from a run's beginning: its checks, and its end where it may not run
    /// for longer.
    pub(super) fn watch_run(&mut self) {
        self.watch_health();
        let (Some(timeout), Some(started)) = (self.settings.timeout, self.state.started_at) else { return };
        if let Ok(end) = started.checked_add(Duration::from_secs(timeout.get())) {
            self.clock.set_at(Alarm::Timeout, end);
        }
    }

    /// What a running container needs until its end.
    pub(super) fn settle(&mut self) {
        self.mounts = self.state.init.and_then(|init| Mounts::of(init.pid));
        self.clock.set(Alarm::Quiet, QUIET);
    }
}
