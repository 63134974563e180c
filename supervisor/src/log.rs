//! The pump: from the container's two pipes into its log file.
//!
//! ```text
//!  stdout ─▶ pipe ─┐                      ┌─▶ log/current.log
//!                  ├─▶ batch ─▶ records ──┤
//!  stderr ─▶ pipe ─┘   one clock reading  └─▶ Progress, which wakes the followers
//! ```
//!
//! A batch is whatever the pipes hold, up to [`BATCH`] of each; its records go to the file in one
//! write. Between batches the buffers shrink, so that an idle shim holds none.
//!
//! Where the file cannot be written (a full disk), nothing more is read: the pipes fill, and the
//! container waits for room as it would at any full disk. Writing is tried again, less and less
//! often; the file stays parseable, for a torn record is completed or cut off.
//!
//! What a container's own end leaves in the pipes is logged before its exit record is written. A
//! process elsewhere that still holds the writing end after that (it got it through a socket) fills
//! the pipe and then waits: it holds a reading end too, and nobody empties it any more.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use jiff::Timestamp;
use podrun::error::{Error, Result};
use podrun::log::line::{self, Stamp, Stream};
use podrun::protocol::LogPosition;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;
use tokio::sync::{oneshot, watch};

use crate::fd;

/// The most that is read from one pipe before it is written: what a processor's own cache holds,
/// together with the records it becomes.
const BATCH: usize = 256 << 10;
/// What is read first: a quiet container costs no large buffer.
const SIP: usize = 8 << 10;
/// The first pause after a failed write, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// How far the log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The position of its end.
    pub(crate) position: LogPosition,
    /// Nothing will follow.
    pub(crate) ended: bool,
}

/// The log file, and what still has to go into it.
#[derive(Debug)]
struct Writer {
    file: File,
    path: PathBuf,
    /// The end of the last whole record in the file.
    position: LogPosition,
    /// Formatted records; the first `torn` bytes of the first one are in the file already.
    pending: BytesMut,
    torn: u64,
}

impl Writer {
    fn open(path: &Path, rotation: u64) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io("open", path, &error);
        let file =
            OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path).map_err(failed)?;
        let offset = file.metadata().map_err(failed)?.len();
        Ok(Self {
            file,
            path: path.to_owned(),
            position: LogPosition { rotation, offset },
            pending: BytesMut::new(),
            torn: 0,
        })
    }

    /// Writes what is pending; an error leaves the rest pending.
    fn flush(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            match self.file.write(&self.pending) {
                Ok(0) => return Err(Error::at("write", &self.path, Errno::NOSPC)),
                Ok(written) => {
                    // Whole or not, these bytes are in the file.
                    let whole = memchr::memrchr(b'\n', &self.pending[..written]).map_or(0, |end| end + 1);
                    if whole > 0 {
                        self.position.offset += self.torn + whole as u64;
                        self.torn = 0;
                    }
                    self.torn += (written - whole) as u64;
                    self.pending.advance(written);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("write", &self.path, &error)),
            }
        }
        Ok(())
    }

    /// Gives up what cannot be written, and cuts off a torn record.
    fn abandon(&mut self) {
        self.pending.clear();
        if self.torn > 0 {
            self.torn = 0;
            if let Err(error) = self.file.set_len(self.position.offset) {
                tracing::warn!("cut off a torn record of {}: {error}", self.path.display());
            }
        }
    }
}

/// One of the two pipes.
#[derive(Debug)]
struct Source {
    stream: Stream,
    /// `None` once every writer is gone.
    pipe: Option<AsyncFd<OwnedFd>>,
}

impl Source {
    async fn readable(&self) {
        match &self.pipe {
            // An error shows in the read that follows.
            Some(pipe) => pipe.readable().await.map(|mut guard| guard.retain_ready()).unwrap_or(()),
            None => std::future::pending().await,
        }
    }

    /// Reads up to `room` bytes to the end of `buffer`; returns how many, and notices the end.
    fn read(&mut self, room: usize, buffer: &mut Vec<u8>) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        let start = buffer.len();
        let end = start + room;
        while buffer.len() < end {
            let space = (end - buffer.len()).min(if buffer.len() == start { SIP } else { BATCH });
            buffer.reserve(space);
            let asked = buffer.capacity() - buffer.len();
            match rustix::io::read(pipe.as_fd(), rustix::buffer::spare_capacity(buffer)) {
                Ok(0) => {
                    self.pipe = None;
                    break;
                }
                Ok(read) if read < asked => {
                    self.clear_ready();
                    break;
                }
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    self.clear_ready();
                    break;
                }
                Err(errno) => {
                    tracing::warn!("read the container's {:?}: {errno}", self.stream);
                    self.pipe = None;
                    break;
                }
            }
        }
        buffer.len() - start
    }

    /// Forgets that the pipe was readable. Nothing is missed: it is empty, and the next byte is a new
    /// edge that no one has seen, because only this thread asks epoll.
    fn clear_ready(&self) {
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        let ready = self.pipe.as_ref().map(|pipe| pipe.poll_read_ready(&mut context));
        if let Some(std::task::Poll::Ready(Ok(mut guard))) = ready {
            guard.clear_ready();
        }
    }

    /// How many bytes wait in the pipe.
    fn waiting(&self) -> usize {
        let pipe = self.pipe.as_ref();
        pipe.and_then(|pipe| rustix::io::ioctl_fionread(pipe).ok()).unwrap_or(0).try_into().unwrap_or(0)
    }
}

/// The pump of one container.
#[derive(Debug)]
pub(crate) struct Pump {
    writer: Writer,
    sources: [Source; 2],
    progress: watch::Sender<Progress>,
    /// What was read and is not formatted yet.
    batch: Vec<u8>,
}

/// The order to finish: what is in the pipes now is logged, then the answer tells whether all of it was.
pub(crate) type Drain = oneshot::Sender<bool>;

impl Pump {
    /// A pump into the log at `path`, going on behind what is there.
    pub(crate) fn new(
        path: &Path,
        seen: LogPosition,
        stdout: OwnedFd,
        stderr: OwnedFd,
    ) -> Result<(Self, watch::Receiver<Progress>)> {
        let writer = Writer::open(path, seen.rotation)?;
        let (progress, receiver) = watch::channel(Progress { position: writer.position, ended: false });
        let source = |stream, pipe: OwnedFd| -> Result<Source> {
            rustix::io::ioctl_fionbio(&pipe, true).map_err(|errno| Error::os("prepare a pipe", errno))?;
            Ok(Source { stream, pipe: Some(fd::watch(pipe, "a pipe")?) })
        };
        let sources = [source(Stream::Stdout, stdout)?, source(Stream::Stderr, stderr)?];
        Ok((Self { writer, sources, progress, batch: Vec::new() }, receiver))
    }

    /// Pumps until told to drain.
    pub(crate) async fn run(mut self, mut drain: oneshot::Receiver<Drain>) {
        let done = loop {
            let [stdout, stderr] = &self.sources;
            tokio::select! {
                biased;
                done = &mut drain => break done,
                () = stdout.readable() => {}
                () = stderr.readable() => {}
            }
            let read = self.step(BATCH);
            tokio::select! {
                biased;
                done = &mut drain => break done,
                () = self.settle() => {}
            }
            if read < SIP {
                self.batch = Vec::new();
                self.writer.pending = BytesMut::new();
            }
        };
        let drained = self.drain();
        self.progress.send_replace(Progress { position: self.writer.position, ended: true });
        if let Ok(done) = done {
            let _ = done.send(drained);
        }
    }

    /// One batch: reads, formats, writes. Returns how many bytes were read.
    fn step(&mut self, room: usize) -> usize {
        let stamp = Stamp::of(Timestamp::now());
        let mut total = 0;
        for source in &mut self.sources {
            self.batch.clear();
            total += source.read(room, &mut self.batch);
            if !self.batch.is_empty() {
                line::format(&stamp, source.stream, &self.batch, &mut self.writer.pending);
            }
        }
        total
    }

    /// Writes what is pending, however long that takes, and lets others have their turn.
    async fn settle(&mut self) {
        let mut pause = RETRY.0;
        loop {
            match self.writer.flush() {
                Ok(()) => break,
                Err(error) => {
                    if pause == RETRY.0 {
                        tracing::warn!("{error}: the container's output waits");
                    }
                    self.publish();
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
        self.publish();
        tokio::task::yield_now().await;
    }

    fn publish(&self) {
        let position = self.writer.position;
        self.progress.send_if_modified(|progress| {
            let grown = progress.position != position;
            progress.position = position;
            grown
        });
    }

    /// Logs what is in the pipes now, and no more, so that a process that still writes cannot hold
    /// up the end.
    fn drain(&mut self) -> bool {
        let mut waiting = self.sources.each_ref().map(Source::waiting);
        while waiting.iter().any(|waiting| *waiting > 0) {
            let stamp = Stamp::of(Timestamp::now());
            for (source, waiting) in self.sources.iter_mut().zip(&mut waiting) {
                self.batch.clear();
                let read = source.read((*waiting).min(BATCH), &mut self.batch);
                *waiting = if read == 0 { 0 } else { waiting.saturating_sub(read) };
                line::format(&stamp, source.stream, &self.batch, &mut self.writer.pending);
            }
            if self.flush_or_abandon().is_err() {
                return false;
            }
        }
        self.flush_or_abandon().is_ok()
    }

    fn flush_or_abandon(&mut self) -> Result<()> {
        self.writer.flush().inspect_err(|error| {
            tracing::warn!("{error}: the container's last output is lost");
            self.writer.abandon();
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use podrun::log::line::Record;

    /// Runs `test` where a shim's tasks run.
    fn in_loop<T>(test: impl Future<Output = T>) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, test)
    }

    struct Bed {
        dir: tempfile::TempDir,
        stdout: Option<OwnedFd>,
        stderr: Option<OwnedFd>,
        progress: watch::Receiver<Progress>,
        order: oneshot::Sender<Drain>,
    }

    impl Bed {
        fn new() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (stdout_reader, stdout) = rustix::pipe::pipe().unwrap();
            let (stderr_reader, stderr) = rustix::pipe::pipe().unwrap();
            let (pump, progress) =
                Pump::new(&dir.path().join("log"), LogPosition::default(), stdout_reader, stderr_reader)
                    .unwrap();
            let (order, drain) = oneshot::channel();
            tokio::task::spawn_local(pump.run(drain));
            Self { dir, stdout: Some(stdout), stderr: Some(stderr), progress, order }
        }

        fn say(&self, text: &[u8]) {
            assert_eq!(rustix::io::write(self.stdout.as_ref().unwrap(), text).unwrap(), text.len());
        }

        async fn drained(self) -> (bool, Vec<u8>) {
            let (done, drained) = oneshot::channel();
            self.order.send(done).unwrap();
            let drained = drained.await.unwrap();
            (drained, std::fs::read(self.dir.path().join("log")).unwrap())
        }
    }

    fn payloads(log: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        for line in log.split_inclusive(|byte| *byte == b'\n') {
            let record = Record::parse(&line[..line.len() - 1]).unwrap();
            text.extend_from_slice(record.payload);
            if record.tag == line::Tag::Full {
                text.push(b'\n');
            }
        }
        text
    }

    #[test]
    fn output_is_logged_before_anyone_asks_for_it() {
        in_loop(async {
            let mut bed = Bed::new();
            bed.say(b"one\ntw");
            bed.progress.wait_for(|now| now.position.offset > 0).await.unwrap();
            bed.say(b"o\nthree");
            bed.stdout = None;
            bed.stderr = None;
            let (drained, log) = bed.drained().await;
            assert!(drained);
            assert_eq!(payloads(&log), b"one\ntwo\nthree");
        });
    }

    #[test]
    fn a_writer_that_stays_does_not_hold_up_the_end() {
        in_loop(async {
            let bed = Bed::new();
            bed.say(b"last words\n");
            let writer = bed.stdout.as_ref().unwrap().try_clone().unwrap();
            let (drained, log) = bed.drained().await;
            assert!(drained);
            assert_eq!(payloads(&log), b"last words\n");
            drop(writer);
        });
    }

    #[test]
    fn a_full_disk_holds_the_output_back_and_loses_only_what_cannot_wait() {
        // RLIMIT_FSIZE would do, but it is the whole process's; /dev/full is the disk that is full.
        let mut writer = Writer {
            file: OpenOptions::new().write(true).open("/dev/full").unwrap(),
            path: "/dev/full".into(),
            position: LogPosition::default(),
            pending: BytesMut::from(&b"2026-01-01T00:00:00.000000000Z stdout F x\n"[..]),
            torn: 0,
        };
        let error = writer.flush().unwrap_err();
        assert_eq!(error.errno(), Some(Errno::NOSPC));
        assert!(!writer.pending.is_empty(), "it is kept for the next try");
        writer.abandon();
        assert!(writer.pending.is_empty());
    }
}
