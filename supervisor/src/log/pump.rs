//! The loop from the sources to the file.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use jiff::Timestamp;
use podrun::error::Result;
use podrun::log::line::{self, Stamp, Stream};
use podrun::protocol::LogPosition;
use tokio::sync::{oneshot, watch};

use super::source::{BATCH, SIP, Source};
use super::writer::Writer;
use super::{Drain, Progress};

/// The first pause after a failed write, and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// The pump of one container.
#[derive(Debug)]
pub(crate) struct Pump {
    writer: Writer,
    sources: Vec<Source>,
    progress: watch::Sender<Progress>,
    /// What was read and is not formatted yet.
    batch: Vec<u8>,
}

impl Pump {
    /// A pump into the log at `path`, going on behind what is there.
    pub(crate) fn new(
        path: &Path,
        seen: LogPosition,
        sources: Vec<(Stream, OwnedFd)>,
    ) -> Result<(Self, watch::Receiver<Progress>)> {
        let writer = Writer::open(path, seen.rotation)?;
        let (progress, receiver) = watch::channel(Progress { position: writer.position, ended: false });
        let sources =
            sources.into_iter().map(|(stream, fd)| Source::new(stream, fd)).collect::<Result<_>>()?;
        Ok((Self { writer, sources, progress, batch: Vec::new() }, receiver))
    }

    /// Pumps until told to drain.
    pub(crate) async fn run(mut self, mut drain: oneshot::Receiver<Drain>) {
        let done = loop {
            tokio::select! {
                biased;
                done = &mut drain => break done,
                () = any_readable(&self.sources) => {}
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
        let mut waiting = self.sources.iter().map(Source::waiting).collect::<Vec<_>>();
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

/// Waits until one of `sources` has something to read.
async fn any_readable(sources: &[Source]) {
    let mut waits: Vec<_> = sources.iter().map(|source| Box::pin(source.readable())).collect();
    std::future::poll_fn(|context| {
        let ready = waits.iter_mut().any(|wait| wait.as_mut().poll(context).is_ready());
        if ready { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use podrun::log::line::{self, Record};

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
            let sources = vec![(Stream::Stdout, stdout_reader), (Stream::Stderr, stderr_reader)];
            let (pump, progress) =
                Pump::new(&dir.path().join("log"), LogPosition::default(), sources).unwrap();
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
}
