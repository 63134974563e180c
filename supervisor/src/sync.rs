//! Getting a container's last word onto the disk without waiting for it.
//!
//! Writing to a slow disk takes milliseconds, to a stalled one for ever, and nothing but a process of its
//! own keeps that away from the loop. So a child publishes the durable copies, and sees them onto the disk;
//! until it has, the copy in the run root is what is read.

use std::os::fd::{AsFd, OwnedFd};

use podrun::error::{Error, Result};
use podrun::paths::ContainerPaths;
use podrun::state::publish::{self, Durability};
use podrun::state::{ExitRecord, State, store};
use podrun::sys::clone::{Clone3, exit};
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::child::{self, Known};
use crate::fd;

/// A child that ends once the files are on the disk. Dropped, it goes on by itself.
#[derive(Debug)]
pub(crate) struct Syncing {
    pidfd: AsyncFd<OwnedFd>,
    pid: i32,
    known: Known,
}

/// What is published of a container that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastWord<'a> {
    pub(crate) paths: &'a ContainerPaths,
    pub(crate) record: Option<&'a ExitRecord>,
    pub(crate) state: &'a State,
}

impl LastWord<'_> {
    /// Publishes it at once.
    pub(crate) fn publish(&self, durability: Durability) -> Result<()> {
        if let Some(record) = self.record {
            publish::json(&self.paths.exit(), record, durability)?;
        }
        store::write_state(self.paths, self.state, durability)
    }
}

/// Begins to publish `word`, and to see it onto the disk.
pub(crate) fn begin(word: LastWord<'_>, known: &Known) -> Result<Syncing> {
    let child = Clone3::default()
        .spawn(word, become_scribe)
        .map_err(|error| Error::io("sync", &word.paths.dir, &error))?;
    known.add(child.pid);
    Ok(Syncing { pidfd: fd::watch(child.pidfd, "a process")?, pid: child.pid, known: known.clone() })
}

fn become_scribe(word: LastWord<'_>) -> ! {
    let result = word.publish(Durability::Synced);
    match &result {
        // The container was deleted meanwhile, and with it whatever could be said here.
        Err(error) if error.errno() == Some(Errno::NOENT) => {}
        Err(error) => tracing::error!("{error}"),
        Ok(()) => {}
    }
    exit(i32::from(result.is_err()))
}

impl Syncing {
    /// Ends it before it is done.
    pub(crate) fn stop(&self) {
        let _ = podrun::sys::signal::send(self.pidfd.as_fd(), nix::libc::SIGKILL);
    }

    /// Waits for the end of it.
    pub(crate) async fn done(&self) -> Result<()> {
        loop {
            let mut guard =
                self.pidfd.readable().await.map_err(|error| Error::io("watch", "a process", &error))?;
            if let Some(ending) = child::reap(self.pidfd.as_fd())? {
                self.known.remove(self.pid);
                return match ending.code() {
                    0 => Ok(()),
                    _ => Err(Error::failed("sync the exit record", "input/output error")),
                };
            }
            guard.clear_ready();
        }
    }
}
