//! Between two runs, and the beginning of the next one, in the same shim.
//!
//! ```text
//!  record ─▶ publish_pause ─▶ rest_between ─── due, and the log rests ──▶ launch_again ─▶ the gate
//!            exit.json, the    the cgroup       (or `stop`: conclude)      new pipes, new init
//!            keeper knows      is removed
//! ```
//!
//! A shim that dies at any of these steps leaves what the next one needs with the keeper: until the next
//! init is held there, the container waits, and its moment may be over already.

use std::time::Duration;

use jiff::Timestamp;
use podrun::cgroup::{self, Cgroup};
use podrun::error::Result;
use podrun::events::What;
use podrun::state::publish::{self, Durability};
use podrun::state::{ExitRecord, Restarts};

use super::Driver;
use crate::clock::Alarm;
use crate::construct::{self, Built};
use crate::events::Oom;
use crate::fd;
use crate::keep::{Order, Slot};
use crate::machine::{Event, Memory};

impl Driver<'_> {
    /// Publishes the record of a run that is not the last one, and has the keeper know what follows.
    pub(super) fn publish_pause(&mut self, record: &ExitRecord, after: Duration, restarts: Restarts) {
        self.state.restarts = Restarts { due: Timestamp::now().checked_add(after).ok(), ..restarts };
        self.state.reason = self.standing_reason();
        if let Err(error) = publish::json(&self.paths.exit(), record, Durability::Atomic) {
            tracing::warn!("{error}");
        }
        self.remember(Memory::default());
        self.write_state();
    }

    /// Gives back what belonged to the last run.
    pub(super) fn rest_between(&mut self) {
        self.state.init = None;
        self.freezing = None;
        (self.closed_gate, self.ending) = (None, None);
        self.clean_cgroup();
        self.remember(Memory::default());
    }

    /// Goes on waiting for the shim that did before.
    pub(super) async fn wait_on(&mut self) {
        self.record = publish::read_json(&self.paths.exit()).ok().flatten();
        self.keep.order(Order::ReapInit);
        self.logger.drain(false).await;
        let memory = self.remembered.clone();
        self.rest_between();
        self.remember(memory);
        self.clock.set_at(Alarm::Restart, self.state.restarts.due.unwrap_or_default());
        if self.remembered.asked.is_some() {
            // It was about to conclude.
            self.on(Event::Terminate).await;
        }
    }

    /// What stays true of the container whatever it does.
    pub(super) fn standing_reason(&self) -> Option<String> {
        let lost = || "its keeper is gone: nobody replaces its shim at once".to_owned();
        self.state.keeper.is_none().then(lost)
    }

    /// This shim has lived for a while: nothing is to be said of those before it any more.
    pub(super) fn settled(&mut self) {
        self.state.reason = self.standing_reason();
        self.write_state();
        self.remember(self.remembered.clone());
    }

    /// The last run was the last one.
    pub(super) fn conclude(&mut self) -> Event {
        self.clock = Default::default();
        // Whoever finds no record yet has to conclude, too.
        self.remember(self.machine.memory().clone());
        let unknown = || ExitRecord::unknown(None, "its exit record is gone");
        let record = self.record.clone().unwrap_or_else(unknown);
        self.publish_end(&record);
        Event::Recorded(Box::new(record))
    }

    /// Builds the container anew, up to its gate.
    pub(super) fn launch_again(&mut self) -> Result<()> {
        // What an attempt left that was cut short.
        self.cgroup = Cgroup::open(&self.state.cgroup_path)?;
        self.clean_cgroup();
        // Limits may have been changed since.
        let (spec, settings) = construct::read_spec(&self.paths)?;
        construct::move_record_aside(&self.paths)?;
        let mut state = self.state.clone();
        (state.started_at, state.reason, state.stopped_by) = (None, self.standing_reason(), None);
        // Cut short it is owed.
        (state.restarts.due, state.again) = (None, true);
        let (built, cgroup) =
            construct::build(&self.paths, &spec, &settings, &mut state).inspect_err(|_| {
                if let Err(error) = cgroup::end(&state.cgroup_path, state.unit()) {
                    tracing::warn!("{error}");
                }
            })?;
        self.state = state;
        self.take_in(built).inspect_err(|_| {
            // Nobody would open its gate; once it is nobody's any more it is reaped like any orphan.
            if let Some(Err(error)) = cgroup.as_ref().map(Cgroup::kill) {
                tracing::warn!("{error}");
            }
            self.known.remove(self.state.init.take().map_or(0, |init| init.pid));
        })?;
        self.oom = Oom::watch(&self.roots, &self.state.id, cgroup.as_ref());
        self.cgroup = cgroup;
        self.init_lives = true;
        self.tell(What::Restart { count: self.state.restarts.count });
        Ok(())
    }

    fn take_in(&mut self, built: Built) -> Result<()> {
        let Built { pidfd, streams, gate, ending } = built;
        self.known.add(self.state.init.map_or(0, |init| init.pid));
        let some = [(Slot::Gate, &gate), (Slot::Ending, &ending)];
        let some = some.into_iter().filter_map(|(slot, fd)| Some((slot, fd.as_ref()?)));
        let fds = [(Slot::Init, &pidfd)].into_iter().chain(streams.slots()).chain(some);
        self.remember_with(self.machine.memory().clone(), fds);
        self.write_state();
        let streams = streams.split()?;
        self.logger.go_on(streams.sources)?;
        self.shared.stdin.replace(streams.stdin);
        self.shared.terminal.replace(streams.terminal);
        self.pidfd = fd::watch(pidfd, "init")?;
        (self.closed_gate, self.ending) = (gate, ending);
        Ok(())
    }
}
