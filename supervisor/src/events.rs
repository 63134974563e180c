//! What a shim tells of its container, to whoever runs `podrun events` (see [`podrun::events`]); and the
//! one event that nobody but the kernel knows of, the OOM killer at work.

use std::cell::Cell;
use std::os::fd::OwnedFd;
use std::rc::Rc;

use podrun::cgroup::Cgroup;
use podrun::error::{Error, Result};
use podrun::events::{What, emit};
use podrun::paths::{ContainerId, Roots};
use podrun::state::ExitRecord;
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::driver::Driver;

/// How many ends by the OOM killer were told.
#[derive(Clone, Debug)]
pub(crate) struct Oom {
    roots: Roots,
    id: ContainerId,
    kills: Rc<Cell<u64>>,
}

impl Oom {
    /// Tells of each from now on, where `cgroup` has the memory controller. Those that an earlier shim may
    /// not have lived to tell come first.
    pub(crate) fn watch(roots: &Roots, id: &ContainerId, cgroup: Option<&Cgroup>) -> Self {
        let oom = Self { roots: roots.clone(), id: id.clone(), kills: Rc::default() };
        if let Some(events) = cgroup.and_then(Cgroup::memory_events) {
            let watcher = oom.clone();
            tokio::task::spawn_local(async move {
                if let Err(error) = watcher.run(events).await {
                    tracing::warn!("{error}");
                }
            });
        }
        oom
    }

    /// A change of `memory.events` is told as EPOLLPRI (cgroup-v2.rst).
    #[expect(
        deprecated,
        reason = "unsound only for types that may change their descriptor; an OwnedFd cannot"
    )]
    async fn run(&self, events: OwnedFd) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("watch", "memory.events", &error);
        let events = AsyncFd::with_interest(events, Interest::PRIORITY).map_err(failed)?;
        loop {
            let mut text = [0; 512];
            match rustix::io::pread(&events, &mut text, 0) {
                Ok(length) => self.rose_to(podrun::cgroup::oom_kills(&text[..length])),
                // The cgroup is gone.
                Err(_) => return Ok(()),
            }
            events.ready(Interest::PRIORITY).await.map_err(failed)?.clear_ready();
        }
    }

    fn rose_to(&self, kills: u64) {
        if kills > self.kills.get() {
            self.kills.set(kills);
            emit(&self.roots, &self.id, What::Oom { kills });
        }
    }
}

impl Driver<'_> {
    /// Tells that `what` has happened.
    pub(crate) fn tell(&self, what: What) {
        emit(&self.roots, &self.state.id, what);
    }

    /// Tells of the container's end.
    pub(crate) fn tell_end(&self, record: &ExitRecord) {
        // What ended init may not have come to the watcher yet.
        self.oom.rose_to(record.oom_kills);
        self.tell(What::die(record));
    }
}
