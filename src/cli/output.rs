//! A container's output on its way to our own stdout and stderr, without ever blocking.
//!
//! Our descriptors are shared with whoever started us, so O_NONBLOCK is not ours to set. A pipe that
//! `poll` calls writable has room for [`STEP`] bytes: so much is written at once, and what remains
//! waits here.

use std::os::fd::BorrowedFd;

use podrun::error::{Error, Result};
use podrun::log::line::Stream;
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

/// PIPE_BUF: what a writable pipe takes without blocking (`pipe(7)`).
const STEP: usize = 4096;

/// One of our two descriptors.
#[derive(Debug)]
struct Lane {
    pending: Vec<u8>,
    sent: usize,
    /// Nobody reads it any more.
    closed: bool,
    /// A regular file never makes anybody wait for a reader.
    regular: bool,
}

/// Both.
#[derive(Debug)]
pub(super) struct Output {
    lanes: [Lane; 2],
    /// stdout and stderr are one file: through one lane the order of the lines is kept.
    merged: bool,
    /// There was something to write that nobody reads any more.
    refused: bool,
    failure: Option<Error>,
}

fn fd(stream: Stream) -> BorrowedFd<'static> {
    match stream {
        Stream::Stdout => rustix::stdio::stdout(),
        Stream::Stderr => rustix::stdio::stderr(),
    }
}

impl Output {
    pub(super) fn new() -> Self {
        let stats = Stream::ALL.map(|stream| fstat(fd(stream)).ok());
        let lanes = stats.map(|stat| Lane {
            pending: Vec::new(),
            sent: 0,
            closed: false,
            regular: stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile),
        });
        let merged = matches!(stats, [Some(a), Some(b)] if (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino));
        Self { lanes, merged, refused: false, failure: None }
    }

    fn lane(&self, stream: Stream) -> usize {
        if self.merged { Stream::Stdout as usize } else { stream as usize }
    }

    /// Adds `bytes` to what is to be written.
    pub(super) fn push(&mut self, stream: Stream, bytes: &[u8]) {
        let lane = self.lane(stream);
        let lane = &mut self.lanes[lane];
        if lane.closed {
            self.refused = true;
        } else {
            lane.pending.extend_from_slice(bytes);
        }
    }

    /// Everything was written.
    pub(super) fn is_empty(&self) -> bool {
        self.lanes.iter().all(|lane| lane.pending.is_empty())
    }

    /// Nobody reads stdout any more.
    pub(super) fn is_closed(&self) -> bool {
        self.lanes[Stream::Stdout as usize].closed
    }

    /// Whether a process that had written to our descriptors itself would have got SIGPIPE.
    pub(super) fn is_refused(&self) -> bool {
        self.refused
    }

    /// What to poll for a stream. Where nothing is to be written `poll` still tells that its
    /// reader has gone.
    pub(super) fn poll(&self, stream: Stream) -> Option<PollFd<'static>> {
        let lane = &self.lanes[stream as usize];
        if lane.closed || lane.regular && lane.pending.is_empty() {
            return None;
        }
        let flags = if lane.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        Some(PollFd::from_borrowed_fd(fd(stream), flags))
    }

    /// Writes what can be written after `poll` said `ready`.
    pub(super) fn write(&mut self, stream: Stream, ready: PollFlags) {
        let lane = &mut self.lanes[stream as usize];
        if lane.pending.is_empty() {
            lane.closed |= ready.intersects(PollFlags::ERR | PollFlags::NVAL | PollFlags::HUP);
            return;
        }
        let rest = &lane.pending[lane.sent..];
        let chunk = if lane.regular { rest } else { &rest[..rest.len().min(STEP)] };
        match rustix::io::write(fd(stream), chunk) {
            Ok(written) => lane.sent += written,
            Err(Errno::INTR | Errno::AGAIN) => {}
            Err(errno) => {
                lane.closed = true;
                self.refused = errno == Errno::PIPE;
                if errno != Errno::PIPE {
                    let name = if stream == Stream::Stdout { "write stdout" } else { "write stderr" };
                    self.failure.get_or_insert(Error::os(name, errno));
                }
            }
        }
        if lane.closed || lane.sent == lane.pending.len() {
            lane.pending.clear();
            lane.sent = 0;
        }
    }

    /// Whether everything that was not refused by a closed reader was written.
    pub(super) fn finish(self) -> Result<()> {
        self.failure.map_or(Ok(()), Err)
    }
}
