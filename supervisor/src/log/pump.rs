//! The shim's part: sees that there is output, has a worker write it, and knows how far it has come.
//!
//! ```text
//!            ┌─ something to read ─▶ forked ─▶ Working ─ position ─▶ Progress ─▶ followers
//!  Watching ─┤                                    │
//!            └◀──── left: nothing came ───────────┘ killed: forked again, and goes on where it was
//! ```

use std::cell::Cell;
use std::os::fd::{AsFd, OwnedFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use nix::libc::SIGKILL;
use podrun::error::{Error, Result};
use podrun::log::line::Stream;
use podrun::paths::ContainerPaths;
use podrun::protocol::LogPosition;
use podrun::spec::logging::Logging;
use podrun::state::Ending;
use podrun::sys::clone::Clone3;
use tokio::io::unix::AsyncFd;
use tokio::sync::{Notify, oneshot, watch};

use super::journal::{self, Phase};
use super::message::{self, Command, Report};
use super::worker::{self, Task};
use super::{Drain, Progress, output, source};
use crate::child::{self, Known};
use crate::fd;

/// The pause before another worker is forked after one that died, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(2));

/// How far the log is, for whoever asks.
#[derive(Clone, Debug)]
pub(crate) struct Follow {
    progress: watch::Receiver<Progress>,
    interest: Rc<Interest>,
}

/// Who wants to know how far the log has come.
#[derive(Debug, Default)]
struct Interest {
    waiting: Cell<usize>,
    changed: Notify,
}

impl Follow {
    /// Whether nothing will follow.
    pub(crate) fn ended(&self) -> bool {
        self.progress.borrow().ended
    }

    /// How far the log is once that is beyond `seen`, or has ended. `None` where that will never be.
    pub(crate) async fn beyond(&self, seen: LogPosition) -> Option<Progress> {
        struct Waiting<'a>(&'a Cell<usize>);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.set(self.0.get() - 1);
            }
        }
        self.interest.waiting.set(self.interest.waiting.get() + 1);
        let _waiting = Waiting(&self.interest.waiting);
        self.interest.changed.notify_one();
        let mut progress = self.progress.clone();
        let now = progress.wait_for(|now| now.ended || now.position > seen).await;
        now.ok().map(|now| *now)
    }
}

/// The reading ends of a container's output.
pub(crate) type Sources = Vec<(Stream, Rc<AsyncFd<OwnedFd>>)>;

/// The pump of one container.
#[derive(Debug)]
pub(crate) struct Pump {
    paths: ContainerPaths,
    logging: Logging,
    sources: Sources,
    progress: watch::Sender<Progress>,
    interest: Rc<Interest>,
    known: Known,
}

/// A living worker.
#[derive(Debug)]
struct Worker {
    control: AsyncFd<OwnedFd>,
    pidfd: AsyncFd<OwnedFd>,
    pid: i32,
    /// It was asked for the next position, and has not answered.
    asked: bool,
}

/// What a worker did.
enum Did {
    Report(Report),
    End(Option<Ending>),
}

impl Pump {
    /// A pump from `sources` into the log that `logging` describes, going on behind what is there.
    pub(crate) fn new(
        paths: &ContainerPaths,
        logging: &Logging,
        sources: Vec<(Stream, OwnedFd)>,
        known: &Known,
    ) -> Result<(Self, Follow)> {
        let position = position(paths, logging);
        let (progress, receiver) = watch::channel(Progress { position, ended: false });
        let interest = Rc::new(Interest::default());
        let follow = Follow { progress: receiver, interest: interest.clone() };
        let (paths, logging) = (paths.clone(), logging.clone());
        let pump = Self { paths, logging, sources: vec![], progress, interest, known: known.clone() };
        Ok((pump.with_sources(sources)?, follow))
    }

    /// The same pump, from other sources.
    pub(super) fn with_sources(mut self, sources: Vec<(Stream, OwnedFd)>) -> Result<Self> {
        self.sources = sources
            .into_iter()
            .map(|(stream, pipe)| {
                rustix::io::ioctl_fionbio(&pipe, true).map_err(|errno| Error::os("prepare a pipe", errno))?;
                Ok((stream, Rc::new(fd::watch(pipe, "a pipe")?)))
            })
            .collect::<Result<_>>()?;
        Ok(self)
    }

    /// Tells the followers that nothing will follow.
    pub(super) fn close(&self) {
        let _ = std::fs::remove_file(self.paths.log_journal());
        self.progress.send_modify(|progress| progress.ended = true);
    }

    /// Where it pumps from.
    pub(super) fn sources(&self) -> Sources {
        self.sources.clone()
    }

    /// Pumps until told to drain.
    pub(crate) async fn run(mut self, mut order: oneshot::Receiver<Drain>) -> Self {
        let mut draining: Option<Drain> = None;
        // What an earlier worker could not finish comes first.
        let mut work = self.in_flight();
        let mut pause = RETRY.0;
        let drained = loop {
            if !work {
                tokio::select! {
                    biased;
                    done = &mut order, if draining.is_none() => {
                        draining = done.ok();
                        if draining.is_none() || self.is_empty() {
                            break true;
                        }
                    }
                    () = self.readable() => {}
                }
            }
            match self.work(&mut order, &mut draining).await {
                Ok(Some(drained)) => break drained,
                Ok(None) => {
                    // One that left has finished; one that was killed may not.
                    work = draining.is_some() || self.in_flight();
                    pause = RETRY.0;
                }
                Err(error) => {
                    tracing::warn!("{error}: the log goes on in {} ms", pause.as_millis());
                    tokio::time::sleep(pause).await;
                    (work, pause) = (true, (pause * 2).min(RETRY.1));
                }
            }
        };
        self.sources.clear();
        if draining.as_ref().is_none_or(|drain| drain.last) {
            self.close();
        }
        if let Some(drain) = draining {
            let _ = drain.done.send(drained);
        }
        self
    }

    /// Whether a batch is neither in its pipe nor in the log.
    fn in_flight(&self) -> bool {
        journal::glance(&self.paths.log_journal()).phase != Phase::Idle
    }

    /// Whether no source has anything.
    fn is_empty(&self) -> bool {
        self.sources.iter().all(|(_, pipe)| source::waiting(pipe.as_fd()) == 0)
    }

    /// Waits until a source has something. Those that never will have go.
    async fn readable(&mut self) {
        loop {
            let (index, closed) = {
                let mut waits: Vec<_> =
                    self.sources.iter().map(|(_, pipe)| Box::pin(pipe.readable())).collect();
                std::future::poll_fn(|context| {
                    for (index, wait) in waits.iter_mut().enumerate() {
                        let Poll::Ready(Ok(mut guard)) = wait.as_mut().poll(context) else { continue };
                        let closed = guard.ready().is_read_closed();
                        if source::waiting(guard.get_inner().as_fd()) > 0 {
                            guard.retain_ready();
                            return Poll::Ready((None, false));
                        }
                        guard.clear_ready();
                        return Poll::Ready((Some(index), closed));
                    }
                    Poll::Pending
                })
                .await
            };
            match index {
                None => return,
                Some(index) if closed => drop(self.sources.remove(index)),
                Some(_) => {}
            }
        }
    }

    /// Has a worker work until it leaves. Once the container has ended: whether all is in the log.
    async fn work(
        &mut self,
        order: &mut oneshot::Receiver<Drain>,
        draining: &mut Option<Drain>,
    ) -> Result<Option<bool>> {
        let mut worker = self.fork()?;
        let mut drained = None;
        if draining.is_some() {
            worker.command(Command::Drain);
        }
        loop {
            if !worker.asked && self.interest.waiting.get() > 0 {
                worker.asked = true;
                worker.command(Command::Tell(self.progress.borrow().position));
            }
            tokio::select! {
                biased;
                done = &mut *order, if draining.is_none() => {
                    // Dropped without a word: the driver is gone, and so are we.
                    *draining = Some(done.map_err(|_| Error::failed("the log", "its shim ends"))?);
                    worker.command(Command::Drain);
                }
                did = worker.next() => match did? {
                    Did::Report(Report::Position(position)) => {
                        worker.asked = false;
                        self.progress.send_if_modified(|progress| {
                            let grown = position > progress.position;
                            progress.position = position;
                            grown
                        });
                    }
                    Did::Report(Report::Drained(complete)) => drained = Some(complete),
                    Did::End(ending) => {
                        self.known.remove(worker.pid);
                        return match ending {
                            Some(Ending::Exited(0)) => Ok(drained),
                            // Killed from outside: nothing says that the next one will be, too.
                            Some(Ending::Signaled { signal: SIGKILL, .. }) => Ok(drained),
                            _ => Err(Error::failed("the log's writer", "died")),
                        };
                    }
                },
                () = self.interest.changed.notified() => {}
            }
        }
    }

    fn fork(&mut self) -> Result<Worker> {
        let (ours, theirs) = message::pair()?;
        let sources: Vec<_> = self.sources.iter().map(|(stream, pipe)| (*stream, pipe.as_fd())).collect();
        let keep: Vec<_> = sources.iter().map(|(_, fd)| *fd).chain([theirs.as_fd()]).collect();
        let task = Task {
            control: &theirs,
            sources,
            paths: &self.paths,
            logging: &self.logging,
            parent: rustix::process::getpid(),
        };
        let child = Clone3 { keep: &keep, ..Clone3::default() }
            .spawn(task, worker::become_worker)
            .map_err(|error| Error::io("start", "the log's writer", &error))?;
        self.known.add(child.pid);
        Ok(Worker {
            control: fd::watch(ours, "the log's writer")?,
            pidfd: fd::watch(child.pidfd, "the log's writer")?,
            pid: child.pid,
            asked: false,
        })
    }
}

impl Worker {
    fn command(&self, command: Command) {
        // One that cannot be told is dead, which its pidfd says.
        let _ = command.send(self.control.as_fd());
    }

    /// What it says or does next; its end comes after everything it said.
    async fn next(&mut self) -> Result<Did> {
        let failed = |error: std::io::Error| Error::io("watch", "the log's writer", &error);
        loop {
            tokio::select! {
                biased;
                guard = self.control.readable() => {
                    let mut guard = guard.map_err(failed)?;
                    match Report::receive(guard.get_inner().as_fd()) {
                        Ok(Some(report)) => {
                            guard.retain_ready();
                            return Ok(Did::Report(report));
                        }
                        Ok(None) => guard.clear_ready(),
                        // It has closed its end: what is left to see is how it ended.
                        Err(_) => break,
                    }
                }
                guard = self.pidfd.readable() => {
                    guard.map_err(failed)?.retain_ready();
                    if let Ok(Some(report)) = Report::receive(self.control.as_fd()) {
                        return Ok(Did::Report(report));
                    }
                    break;
                }
            }
        }
        loop {
            let mut guard = self.pidfd.readable().await.map_err(failed)?;
            if let Some(ending) = child::reap(self.pidfd.as_fd())? {
                return Ok(Did::End(Some(ending)));
            }
            guard.clear_ready();
        }
    }
}

/// Where the log's end is, while no worker writes it.
fn position(paths: &ContainerPaths, logging: &Logging) -> LogPosition {
    let outputs = output::all(logging, paths);
    let Some(index) = output::followed(&outputs, logging) else { return LogPosition::default() };
    let slot = journal::glance(&paths.log_journal());
    let place = slot.places[index];
    if slot.phase != Phase::Idle {
        return place.position;
    }
    LogPosition { rotation: place.position.rotation, offset: outputs[index].length() }
}
