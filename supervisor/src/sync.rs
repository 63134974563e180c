//! Getting a container's last word onto the disk without waiting for it.
//!
//! Writing to a slow disk takes milliseconds, to a stalled one for ever, and nothing but a process of its
//! own keeps that away from the loop. So a child publishes the durable copies, and sees them onto the disk;
//! until it has, the copy in the run root is what is read.

use podrun::error::{Error, Result};
use podrun::paths::ContainerPaths;
use podrun::state::publish::{self, Durability};
use podrun::state::{ExitRecord, State, store};
use podrun::sys::clone::exit;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, getpid, getppid, set_parent_process_death_signal};

use crate::aside::Aside;
use crate::child::Known;

/// A child that ends once the files are on the disk. Dropped, it goes on by itself while its shim lives.
#[derive(Debug)]
pub(crate) struct Syncing(Aside);

/// What is published of a container that has ended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LastWord<'a> {
    pub(crate) paths: &'a ContainerPaths,
    pub(crate) record: Option<&'a ExitRecord>,
    pub(crate) state: &'a State,
}

impl LastWord<'_> {
    /// Publishes it at once: each of the two, whatever becomes of the other one.
    pub(crate) fn publish(&self, durability: Durability) -> Result<()> {
        let record = match self.record {
            Some(record) => publish::json(&self.paths.exit(), record, durability),
            None => Ok(()),
        };
        let state = store::write_state(self.paths, self.state, durability);
        record.and(state)
    }
}

/// Begins to publish `word`, and to see it onto the disk.
pub(crate) fn begin(word: LastWord<'_>, known: &Known) -> Result<Syncing> {
    Aside::begin("a process that syncs", (word, getpid()), become_scribe, known).map(Syncing)
}

fn become_scribe((word, parent): (LastWord<'_>, Pid)) -> ! {
    // The next shim has a scribe of its own, and may have another run: an older word, held up by a slow disk, must not
    // come after that.
    let dies = set_parent_process_death_signal(Some(Signal::KILL));
    if dies.is_err() || getppid() != Some(parent) {
        exit(1);
    }
    let result = word.publish(Durability::Synced);
    match &result {
        // The container was deleted meanwhile, and with it whatever could be said here.
        Err(error) if error.errno() == Some(Errno::NOENT) => {}
        Err(error) => tracing::error!("{error}"),
        Ok(()) => {}
    }
    exit(i32::from(result.is_err()))
}

/// Begins to see what the container is, and its state, onto the disk.
pub(crate) fn save(paths: &ContainerPaths, known: &Known) -> Result<Syncing> {
    Aside::begin("a process that syncs", paths, become_saver, known).map(Syncing)
}

/// Waits for the end of it, where it was begun.
pub(crate) async fn done(syncing: &Option<Syncing>) -> Result<()> {
    match syncing {
        Some(syncing) => syncing.done().await,
        None => std::future::pending().await,
    }
}

fn become_saver(paths: &ContainerPaths) -> ! {
    let result = publish::sync(&[&paths.spec(), &paths.state()]);
    let _ = result.as_ref().inspect_err(|error| tracing::error!("{error}"));
    exit(i32::from(result.is_err()))
}

impl Syncing {
    /// Ends it before it is done.
    pub(crate) fn stop(&self) {
        self.0.stop();
    }

    /// Waits for the end of it.
    pub(crate) async fn done(&self) -> Result<()> {
        match self.0.done().await? {
            0 => Ok(()),
            _ => Err(Error::failed("sync", "the process for that has failed")),
        }
    }
}

#[cfg(test)]
mod tests {
    use podrun::paths::Roots;
    use podrun::state::{Mode, Status};

    use super::*;

    #[test]
    fn a_record_that_cannot_be_written_does_not_take_the_state_along() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(Some(dir.path()), Some(&dir.path().join("run"))).unwrap();
        let id = "c".parse().unwrap();
        let paths = store::insert(&roots, &id, |_| Ok(())).unwrap();
        std::fs::create_dir(paths.exit()).unwrap();
        let record = ExitRecord::unknown(None, "");
        let state = State::creating(&id, Mode::Supervised, "/x".into(), paths.dir.clone());
        let state = State { status: Status::Stopped, ..state };
        let word = LastWord { paths: &paths, record: Some(&record), state: &state };
        let error = word.publish(Durability::Atomic).unwrap_err();
        assert!(error.to_string().contains("exit.json"), "{error}");
        assert_eq!(publish::read_json::<State>(&paths.state()).unwrap(), Some(state));
    }
}
