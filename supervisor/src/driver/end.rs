//! The end of a run, up to the first copy of its record: in the run root where it was the last one, else in
//! its durable place, where the next run moves it aside.

use std::os::fd::AsFd;

use podrun::state::publish::{self, Durability};
use podrun::state::{Ending, ExitRecord, Status};

use super::Driver;
use crate::child;
use crate::keep::Order;
use crate::machine::restart::{Asked, Next};
use crate::machine::{Event, Verdict};
use crate::record;

impl Driver<'_> {
    /// How the command ended: as its minimal init tells, where there is one.
    pub(super) fn true_ending(&self) -> Option<Ending> {
        let ending = self.state.init.and_then(|init| child::ending_of(init, self.pidfd.as_fd()));
        let mut status = [0; 4];
        let told = self.ending.as_ref().and_then(|fd| rustix::io::read(fd, &mut status).ok());
        match told {
            Some(4) => Ending::from_raw(i32::from_le_bytes(status)).or(ending),
            _ => ending,
        }
    }

    /// The end of a run, up to its record.
    pub(super) async fn record(&mut self, verdict: Verdict) -> Event {
        self.clock = Default::default();
        self.health = None;
        let mut record = record::measure(&self.state, &verdict, &self.settings, self.cgroup.as_ref());
        // Init's end is the end of its pid namespace; in one that is not its own it took nobody along.
        if podrun::spec::walls::shares_pids(self.spec)
            && let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.kill()
        {
            tracing::warn!("{error}");
        }
        let drained = self.logger.drain(verdict.next == Next::End).await;
        tracing::debug!(drained, "the pipes are drained");
        record::logged(&mut record, drained, &self.state);
        self.state.status = Status::Stopped;
        match verdict.next {
            Next::End => self.publish_end(&record),
            Next::Again { after, restarts } => self.publish_pause(&record, after, restarts),
        }
        self.tell_end(&record);
        if child::reap(self.pidfd.as_fd()).is_err() {
            // Another's child by now: the keeper's, unless that one died too.
            self.keep.order(Order::ReapInit);
        }
        if let Some(init) = self.state.init {
            self.known.remove(init.pid);
        }
        if verdict.next != Next::End {
            self.rest_between();
        }
        self.record = Some(record.clone());
        Event::Recorded(Box::new(record))
    }

    /// Publishes that the container has ended for good.
    pub(super) fn publish_end(&mut self, record: &ExitRecord) {
        self.state.restarts.due = None;
        self.state.stopped_by = self.machine.memory().asked.and_then(Asked::stopped_by);
        self.state.reason.clone_from(&record.reason);
        if let Err(error) = publish::json(&self.paths.run_exit(), record, Durability::Atomic) {
            tracing::warn!("{error}");
        }
    }
}
