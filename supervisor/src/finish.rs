//! The end of a shim, after the exit record: the waiters, the disk, the cgroup, and with `--rm` the
//! container itself.

use std::time::Duration;

use podrun::cgroup;
use podrun::error::Result;
use podrun::events::What;
use podrun::protocol::Reply;
use podrun::state::publish::{self, Durability};
use podrun::state::store;

use crate::driver::Driver;
use crate::driver::hooks::{self, Poststart};
use crate::keep::Order;
use crate::record;
use crate::sync::{self, LastWord, Syncing};

/// How long the end waits for clients that do not acknowledge.
const PATIENCE: Duration = Duration::from_secs(5);

/// How soon most containers are deleted that somebody waited for. Until then nothing of them is sent to the
/// disk: who deletes one would have to wait for that.
const AT_ONCE: Duration = Duration::from_millis(5);

impl Driver<'_> {
    /// Everything after the exit record: nothing here can change the answer any more.
    pub(crate) async fn finish(mut self) -> Result<()> {
        let logger = std::mem::take(&mut self.logger);
        // A stalled disk may still have some of the log to come.
        let mut has_come = false;
        self.serving_until_unwanted(async {
            has_come = logger.end().await;
            Ok(())
        })
        .await;
        if has_come {
            self.is_logged();
        }
        let mut poststart = self.poststart.take();
        poststart.iter_mut().for_each(Poststart::is_not_waited_for);
        let ledger = self.shared.ledger.clone();
        self.serving(tokio::time::timeout(PATIENCE, ledger.all_sent())).await;
        let deleted_at_once = async {
            tokio::time::sleep(AT_ONCE).await;
            Ok(())
        };
        self.serving_until_unwanted(deleted_at_once).await;
        let syncing = match self.is_unwanted() {
            true => None,
            false => self.write_durably().inspect_err(|error| tracing::error!("{error}")).ok(),
        };
        // After that: the end of the mounts waits for every processor, and whoever was told may look meanwhile.
        self.clean_cgroup();
        if poststart.is_some() {
            // Who started it learns of that after its hooks, however short it lived; nothing else waits for them.
            self.serving(tokio::time::timeout(PATIENCE, hooks::done(&poststart))).await;
            self.poststart = poststart;
            self.poststarted();
            self.serving(tokio::time::timeout(PATIENCE, ledger.all_sent())).await;
        }
        if self.is_unwanted() {
            if let (Some(until), true) =
                (self.returning, self.settings.rm && self.machine.deleters().is_empty())
            {
                // A busy host may hold them up: at least one is waited for, who would miss its last output.
                let returned = async {
                    tokio::time::sleep_until(until).await;
                    let _ = tokio::time::timeout_at(until + PATIENCE, ledger.somebody_came()).await;
                };
                self.serving(returned).await;
            }
            // The files are about to go: who still reads them has a moment to say so.
            self.serving(tokio::time::timeout(PATIENCE, ledger.all_settled())).await;
        }
        if let Some(syncing) = &syncing {
            self.serving_until_unwanted(syncing.done()).await;
        }
        if self.is_unwanted() {
            // The next container of that name has files of the same names.
            if let Some(syncing) = &syncing {
                syncing.stop();
                self.serving(tokio::time::timeout(PATIENCE, syncing.done())).await;
            }
            self.delete();
            let _ = tokio::time::timeout(PATIENCE, ledger.all_sent()).await;
        } else {
            let _ = std::fs::remove_file(self.paths.socket());
        }
        tracing::debug!("this shim leaves");
        // Last of all: until here the next shim would have to go on.
        self.keep.order(Order::Release);
        Ok(())
    }

    /// What the exit record did not wait for is in the log now.
    fn is_logged(&mut self) {
        let Some(record) = &mut self.record else { return };
        record::logged(record, true, &self.state);
        if let Err(error) = publish::json(&self.paths.run_exit(), record, Durability::Atomic) {
            tracing::warn!("{error}");
        }
    }

    /// Goes on serving clients until `done`.
    async fn serving<T>(&mut self, done: impl Future<Output = T>) {
        tokio::pin!(done);
        loop {
            tokio::select! {
                biased;
                Some(command) = self.inbox.recv() => self.command(*command).await,
                _ = &mut done => return,
            }
        }
    }

    /// Goes on serving clients until `done`, which is of no interest once the container has to go.
    async fn serving_until_unwanted(&mut self, done: impl Future<Output = Result<()>>) {
        tokio::pin!(done);
        while !self.is_unwanted() {
            tokio::select! {
                biased;
                Some(command) = self.inbox.recv() => self.command(*command).await,
                result = &mut done => {
                    let _ = result.inspect_err(|error| tracing::error!("{error}"));
                    return;
                }
            }
        }
    }

    /// Whether the container goes with its shim.
    fn is_unwanted(&self) -> bool {
        self.settings.rm || !self.machine.deleters().is_empty()
    }

    /// Removes what a run leaves in the kernel: the container's mounts and its cgroup.
    pub(crate) fn clean_cgroup(&mut self) {
        self.mounts = None;
        // What could not be ended the last time may have ended since.
        if self.cgroup.take().is_some() || self.stuck.is_some() {
            let ended = cgroup::end(&self.state.cgroup_path, self.state.unit());
            self.stuck = ended.inspect_err(|error| tracing::warn!("{error}")).err();
        }
    }

    /// Has the durable copies published, and seen onto the disk.
    fn write_durably(&self) -> Result<Syncing> {
        let word = LastWord { paths: &self.paths, record: self.record.as_ref(), state: &self.state };
        // Where there is no room for another process, without one.
        sync::begin(word, &self.known).inspect_err(|_| {
            let _ = word.publish(Durability::Atomic).inspect_err(|error| tracing::error!("{error}"));
        })
    }

    /// Removes the container; whoever asked for it is answered after the last trace is gone.
    fn delete(&mut self) {
        let result = match self.stuck.take() {
            // Something of it still runs: it stays, as one that has ended.
            Some(error) => Err(error),
            None => store::remove(&self.roots, &self.state.id)
                .and_then(|()| self.lock.take().map_or(Ok(()), |lock| lock.remove(&self.paths.lock))),
        };
        match &result {
            Ok(()) => {
                self.tell(What::Delete);
                // The name is free. A shim that replaced this one now would take another container for its own.
                self.keep.order(Order::Release);
                self.poststop();
            }
            Err(error) => {
                // Where its file is still there: nobody may be left to hear it otherwise.
                tracing::error!("{error}");
                let word = LastWord { paths: &self.paths, record: self.record.as_ref(), state: &self.state };
                let _ = word.publish(Durability::Atomic).inspect_err(|error| tracing::error!("{error}"));
                let _ = std::fs::remove_file(self.paths.socket());
            }
        }
        for ticket in self.machine.deleters().to_vec() {
            let reply = match &result {
                Ok(()) => Reply::Done,
                Err(error) => Reply::Refused(error.clone()),
            };
            self.answer(ticket, reply);
        }
    }
}
