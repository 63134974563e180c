//! The process that writes the log: a child of the shim, because only a process of its own can wait for
//! a disk without anybody else waiting.
//!
//! ```text
//!  pipes ──take──▶ journal ──format──▶ log files        a batch is a pipe's content, up to BATCH of it
//!  shim ◀──position, drained── worker ◀──tell, drain── shim
//! ```
//!
//! It is forked when there is output, and leaves when there has been none for a while: a quiet container
//! costs no process for its log. It dies with its shim; whoever is forked next goes on from the
//! journal, once this one is gone: one that waits for a stalled disk may take long to die.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use jiff::Timestamp;
use podrun::error::{Error, Result};
use podrun::log::line::{Stamp, Stream};
use podrun::paths::ContainerPaths;
use podrun::spec::logging::{Logging, OnFull};
use podrun::sys::clone::exit;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::journal::{BATCH, Dropped, Journal, Phase, Slot};
use super::message::{Command, Report};
use super::output::{self, Output};
use super::source::{Peek, Source, Taken};

/// How long a worker stays when nothing comes.
const LINGER: Duration = Duration::from_secs(1);
/// The first pause after a failed write, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// How long the last output of a container that has ended may wait for room.
const LAST: Duration = Duration::from_secs(2);

/// What a worker is given.
#[derive(Debug)]
pub(super) struct Task<'a> {
    pub(super) control: &'a OwnedFd,
    pub(super) sources: Vec<(Stream, BorrowedFd<'a>)>,
    pub(super) paths: &'a ContainerPaths,
    pub(super) logging: &'a Logging,
    pub(super) parent: Pid,
}

/// Becomes a worker.
pub(super) fn become_worker(task: Task<'_>) -> ! {
    // A name for `ps`; no more.
    let _ = rustix::thread::set_name(c"podrun-log");
    let dies = rustix::process::set_parent_process_death_signal(Some(Signal::KILL));
    if dies.is_err() || rustix::process::getppid() != Some(task.parent) {
        exit(1);
    }
    match Worker::new(&task).and_then(Worker::run) {
        Ok(()) => exit(0),
        Err(error) => {
            tracing::error!("the log: {error}");
            exit(1)
        }
    }
}

struct Worker<'a> {
    control: &'a OwnedFd,
    sources: Vec<Source<'a>>,
    peek: Peek,
    journal: Journal,
    outputs: Vec<Output>,
    /// The output that `podrun logs` reads.
    followed: Option<usize>,
    on_full: OnFull,
    /// The shim wants to know when the log has grown beyond this.
    asked: Option<podrun::protocol::LogPosition>,
    /// When to give up what cannot be written any more; set once the container has ended.
    deadline: Option<Instant>,
    /// Of each output: when to try again, and the pause after that.
    retry: Vec<Option<(Instant, Duration)>>,
    /// The records of the batch, for one output.
    records: BytesMut,
}

/// What a waiting worker was woken by.
enum Woken {
    Shim,
    /// These, and whether something can come of each.
    Sources(Vec<(usize, bool)>),
    Time,
}

impl<'a> Worker<'a> {
    fn new(task: &Task<'a>) -> Result<Self> {
        let outputs = output::all(task.logging, task.paths);
        Ok(Self {
            control: task.control,
            sources: task
                .sources
                .iter()
                .map(|(stream, fd)| Source { stream: *stream, fd: Some(*fd) })
                .collect(),
            peek: Peek::new()?,
            journal: Journal::open(&task.paths.log_journal())?,
            followed: output::followed(&outputs, task.logging),
            on_full: task.logging.on_full,
            asked: None,
            deadline: None,
            retry: outputs.iter().map(|_| None).collect(),
            outputs,
            records: BytesMut::new(),
        })
    }

    /// Works until there is nothing to do, or the shim says that the container has ended.
    fn run(mut self) -> Result<()> {
        if self.journal.slot().phase == Phase::Writing {
            self.write_batch();
        }
        while self.deadline.is_none() {
            match self.wait()? {
                Woken::Shim => self.listen(),
                Woken::Sources(ready) => {
                    for (index, readable) in ready {
                        match readable {
                            true => self.take(index, BATCH)?,
                            false => self.sources[index].hung_up(),
                        }
                    }
                }
                Woken::Time if self.owes_marker() => self.write_markers(),
                Woken::Time => {
                    self.report(Report::Position(self.position()));
                    self.rest();
                    return Ok(());
                }
            }
            self.answer();
        }
        let complete = self.drain()?;
        self.report(Report::Position(self.position()));
        self.report(Report::Drained(complete));
        self.rest();
        Ok(())
    }

    fn rest(mut self) {
        self.outputs.iter_mut().for_each(Output::rest);
        self.journal.rest();
    }

    /// Waits for output, the shim, or the time that is up next.
    fn wait(&self) -> Result<Woken> {
        let timeout = match self.owes_marker() {
            true => {
                let next = self.retry.iter().flatten().map(|(at, _)| *at).min();
                next.map_or(RETRY.1, |at| at.saturating_duration_since(Instant::now()))
            }
            false => LINGER,
        };
        let mut fds = vec![PollFd::new(self.control, PollFlags::IN)];
        let open: Vec<_> =
            self.sources.iter().enumerate().filter_map(|(index, source)| Some((index, source.fd?))).collect();
        fds.extend(open.iter().map(|(_, fd)| PollFd::from_borrowed_fd(*fd, PollFlags::IN)));
        match poll(&mut fds, Timespec::try_from(timeout).ok().as_ref()) {
            Ok(0) => return Ok(Woken::Time),
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("poll", errno)),
        }
        if !fds[0].revents().is_empty() {
            return Ok(Woken::Shim);
        }
        let ready = open.iter().zip(&fds[1..]).filter(|(_, fd)| !fd.revents().is_empty());
        let ready = ready.map(|((index, _), fd)| (*index, fd.revents().contains(PollFlags::IN)));
        Ok(Woken::Sources(ready.collect()))
    }

    /// Takes a batch of at most `room` bytes from a source and brings it into the log.
    fn take(&mut self, index: usize, room: usize) -> Result<()> {
        if self.sources[index].take(room, now(), &self.peek, &mut self.journal)? != Taken::Nothing {
            self.write_batch();
        }
        Ok(())
    }

    /// Brings the journal's batch into every output, however long that takes, or leaves it out as the
    /// settings say. Whether all of it is in the log.
    fn write_batch(&mut self) -> bool {
        let mut complete = true;
        for index in 0..self.outputs.len() {
            self.outputs[index].records(self.journal.slot(), index, self.journal.batch(), &mut self.records);
            complete &= self.write_to(index);
        }
        self.journal.commit(|slot| {
            slot.phase = Phase::Idle;
            for place in &mut slot.places {
                place.done = 0;
                place.dropped = std::mem::take(&mut place.lost);
            }
        });
        if self.records.capacity() > BATCH && self.journal.slot().length < (BATCH as u64) / 8 {
            self.records = BytesMut::new();
        }
        complete
    }

    fn write_to(&mut self, index: usize) -> bool {
        let on_full = self.outputs[index].on_full(self.on_full);
        loop {
            if on_full == OnFull::Drop && self.retry[index].is_some_and(|(at, _)| Instant::now() < at) {
                self.give_up(index);
                return false;
            }
            let Err(error) = self.outputs[index].write(&mut self.journal, &self.records) else {
                self.retry[index] = None;
                return true;
            };
            let pause = match self.retry[index] {
                Some((_, pause)) => (pause * 2).min(RETRY.1),
                None => {
                    tracing::warn!("{error}: the container's output is held back or dropped");
                    RETRY.0
                }
            };
            self.retry[index] = Some((Instant::now() + pause, pause));
            match (on_full, self.deadline) {
                (OnFull::Block, None) => self.pause(index, pause),
                (OnFull::Block, Some(deadline)) if Instant::now() < deadline => {
                    std::thread::sleep(pause.min(LAST / 10));
                }
                _ => {
                    self.give_up(index);
                    return false;
                }
            }
        }
    }

    /// Waits before another attempt, and hears what the shim says meanwhile.
    fn pause(&mut self, index: usize, pause: Duration) {
        if self.followed == Some(index) {
            let position = self.outputs[index].position(&self.journal, &self.records);
            self.answer_with(position);
        }
        let mut control = [PollFd::new(self.control, PollFlags::IN)];
        if poll(&mut control, Timespec::try_from(pause).ok().as_ref()) == Ok(1) {
            self.listen();
        }
    }

    /// Leaves out what of the batch is not in an output, and counts it.
    fn give_up(&mut self, index: usize) {
        let output = &mut self.outputs[index];
        let place = self.journal.slot().places[index];
        let (kept, position) = output.give_up(&self.journal, &self.records);
        let marked = output.markers_length(self.journal.slot(), index);
        let batch = self.journal.batch();
        let covered = output.covered(batch, self.records.get(marked..kept.max(marked)).unwrap_or_default());
        let mut lost = if kept >= marked { Default::default() } else { place.dropped };
        let rest = &batch[covered..];
        let stream = &mut lost[usize::from(self.journal.slot().stream != 0)];
        *stream = Dropped {
            bytes: stream.bytes + rest.len() as u64,
            lines: stream.lines + memchr::memchr_iter(b'\n', rest).count() as u64,
        };
        let all = self.records.len() as u64;
        self.journal.commit(|slot| {
            let place = &mut slot.places[index];
            (place.done, place.position, place.lost) = (all, position, lost);
        });
    }

    /// Whether something was dropped that no marker tells yet.
    fn owes_marker(&self) -> bool {
        self.journal.slot().places.iter().any(|place| place.dropped != <[Dropped; 2]>::default())
    }

    /// An empty batch, whose markers are all there is of it.
    fn write_markers(&mut self) {
        let nanos = now();
        self.journal.commit(|slot| {
            (slot.phase, slot.length, slot.nanos) = (Phase::Writing, 0, nanos);
        });
        self.write_batch();
    }

    /// Logs what is in the sources now, and no more, so that a process that still writes cannot hold up
    /// the end. Whether all of it is in the log, and the markers of what never came there.
    fn drain(&mut self) -> Result<bool> {
        let mut left: Vec<usize> = self.sources.iter().map(Source::owed).collect();
        let mut complete = true;
        while left.iter().any(|left| *left > 0) {
            for (index, left) in left.iter_mut().enumerate().filter(|(_, left)| **left > 0) {
                let nanos = now();
                match self.sources[index].take(*left, nanos, &self.peek, &mut self.journal)? {
                    Taken::Batch(length) => {
                        *left -= length;
                        complete &= self.write_batch();
                    }
                    Taken::Nothing => *left = 0,
                }
            }
        }
        let deadline = self.deadline.unwrap_or_else(Instant::now);
        while self.owes_marker() && Instant::now() < deadline {
            // At once, and without telling it anew.
            for (at, _) in self.retry.iter_mut().flatten() {
                *at = Instant::now();
            }
            self.write_markers();
            if self.owes_marker() {
                std::thread::sleep(RETRY.0);
            }
        }
        Ok(complete && !self.owes_marker())
    }

    fn position(&self) -> podrun::protocol::LogPosition {
        self.followed.map_or_else(Default::default, |index| self.journal.slot().places[index].position)
    }

    fn answer(&mut self) {
        self.answer_with(self.position());
    }

    fn answer_with(&mut self, position: podrun::protocol::LogPosition) {
        if self.asked.is_some_and(|seen| position > seen) {
            self.asked = None;
            self.report(Report::Position(position));
        }
    }

    /// Takes the shim's orders.
    fn listen(&mut self) {
        loop {
            match Command::receive(self.control.as_fd()) {
                Ok(Some(Command::Tell(seen))) => self.asked = Some(seen),
                Ok(Some(Command::Drain)) => {
                    self.deadline.get_or_insert_with(|| Instant::now() + LAST);
                }
                Ok(None) => return,
                // The shim is gone, and we with it.
                Err(_) => exit(1),
            }
        }
    }

    fn report(&self, report: Report) {
        // One that cannot be told is dead.
        let _ = report.send(self.control.as_fd());
    }
}

fn now() -> u64 {
    u64::try_from(Timestamp::now().as_nanosecond()).unwrap_or(0)
}

/// The stamp of a batch's records.
pub(super) fn stamp(slot: &Slot) -> Stamp {
    Stamp::of(Timestamp::from_nanosecond(slot.nanos.into()).unwrap_or(Timestamp::UNIX_EPOCH))
}
