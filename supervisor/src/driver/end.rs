//! The end of a run, up to the first copy of its record.

use std::os::fd::AsFd;
use std::time::Duration;

use podrun::state::publish::{self, Durability};
use podrun::state::{Ending, Status};
use tokio::sync::oneshot;

use super::Driver;
use crate::child;
use crate::keep::Order;
use crate::machine::{Event, Verdict};
use crate::record;

/// How long the exit record waits for the last output to be in the log.
const LOG_PATIENCE: Duration = Duration::from_secs(3);

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

    /// Has what is in the pipes logged; whether all of it was.
    pub(super) async fn drain(&mut self) -> bool {
        let (done, drained) = oneshot::channel();
        self.drain.take().is_some_and(|drain| drain.send(done).is_ok())
            && matches!(tokio::time::timeout(LOG_PATIENCE, drained).await, Ok(Ok(true)))
    }

    /// The container's end, up to the first copy of its record.
    pub(super) async fn record(&mut self, verdict: Verdict) -> Event {
        self.clock = Default::default();
        let mut record = record::measure(&self.state, &verdict, &self.settings, self.cgroup.as_ref());
        // Init's end is the end of its pid namespace; in one that is not its own it took nobody along.
        if podrun::spec::walls::shares_pids(self.spec)
            && let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.kill()
        {
            tracing::warn!("{error}");
        }
        record.logs_drained = self.drain().await;
        self.state.status = Status::Stopped;
        self.state.reason.clone_from(&record.reason);
        if let Err(error) = publish::json(&self.paths.run_exit(), &record, Durability::Atomic) {
            tracing::warn!("{error}");
        }
        if child::reap(self.pidfd.as_fd()).is_err() {
            // Another's child by now: the keeper's, unless that one died too.
            self.keep.order(Order::ReapInit);
        }
        self.record = Some(record.clone());
        Event::Recorded(Box::new(record))
    }
}
