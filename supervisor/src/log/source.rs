//! Where output comes from: a pipe of the container, or the master of its terminal.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podrun::error::{Error, Result};
use podrun::log::line::Stream;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};
use rustix::termios::isatty;

use super::journal::{BATCH, Journal, Phase};

/// What a terminal's first byte is taken not to be: nothing looks at it before it is read, and no text
/// in UTF-8 contains this.
const NO_TEXT: u8 = 0xff;

/// More than a pty ever holds: the kernel stops a writer at 64 KiB (`TTYB_DEFAULT_MEM_LIMIT`).
const TERMINAL_HOLDS: usize = 256 << 10;

/// One source, as its writer sees it.
#[derive(Debug)]
pub(super) struct Source<'a> {
    pub(super) stream: Stream,
    /// `None` once nothing will ever come.
    pub(super) fd: Option<BorrowedFd<'a>>,
}

/// What came of an attempt to take a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// The journal has one.
    Batch(usize),
    /// There is none now.
    Nothing,
}

impl Source<'_> {
    /// Nobody has it open for writing: with nothing in it, that is its end.
    pub(super) fn hung_up(&mut self) {
        if self.waiting() == 0 {
            self.fd = None;
        }
    }

    /// No more than so many bytes were written to it by now.
    pub(super) fn owed(&self) -> usize {
        match self.fd {
            Some(fd) if isatty(fd) => TERMINAL_HOLDS,
            _ => self.waiting(),
        }
    }

    /// How many bytes wait.
    pub(super) fn waiting(&self) -> usize {
        self.fd.map_or(0, waiting)
    }

    /// Moves up to `room` bytes into the journal.
    pub(super) fn take(
        &mut self,
        room: usize,
        nanos: u64,
        peek: &Peek,
        journal: &mut Journal,
    ) -> Result<Taken> {
        let Some(fd) = self.fd else { return Ok(Taken::Nothing) };
        // It can only become more: nobody else reads here.
        let length = waiting(fd).min(room).min(BATCH);
        if length == 0 {
            return Ok(Taken::Nothing);
        }
        let mark = peek.first(fd).map_or(NO_TEXT, |byte| !byte);
        journal.room()[0] = mark;
        journal.commit(|slot| {
            slot.phase = Phase::Reading;
            // `as`: the number of a variant.
            slot.stream = self.stream as u64;
            slot.length = length as u64;
            slot.mark = mark;
            slot.nanos = nanos;
        });
        let result = rustix::io::read(fd, &mut journal.room()[..length]);
        match result {
            Ok(read) if read > 0 => {
                journal.commit(|slot| {
                    slot.phase = Phase::Writing;
                    slot.length = read as u64;
                });
                Ok(Taken::Batch(read))
            }
            result => {
                journal.commit(|slot| slot.phase = Phase::Idle);
                match result {
                    Err(Errno::AGAIN | Errno::INTR) => {}
                    // EIO is how a terminal says that nobody has it open any more.
                    Ok(_) | Err(Errno::IO) => self.fd = None,
                    Err(errno) => {
                        tracing::warn!("read the container's {:?}: {errno}", self.stream);
                        self.fd = None;
                    }
                }
                Ok(Taken::Nothing)
            }
        }
    }
}

/// How many bytes wait in `fd`; of a terminal, how many of them can be had at once.
pub(super) fn waiting(fd: BorrowedFd<'_>) -> usize {
    let count =
        || rustix::io::ioctl_fionread(fd).ok().and_then(|waiting| waiting.try_into().ok()).unwrap_or(0);
    match count() {
        // The kernel passes a terminal's output on some time later, or at once to who polls.
        0 if is_ready(fd) => count(),
        waiting => waiting,
    }
}

fn is_ready(fd: BorrowedFd<'_>) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::IN)];
    poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok_and(|ready| ready > 0)
}

/// A pipe of one's own, to look at what another holds without taking it.
#[derive(Debug)]
pub(super) struct Peek {
    reader: OwnedFd,
    writer: OwnedFd,
}

impl Peek {
    pub(super) fn new() -> Result<Self> {
        let (reader, writer) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)
            .map_err(|errno| Error::os("create a pipe", errno))?;
        Ok(Self { reader, writer })
    }

    /// The first byte that waits in `pipe`; `None` where it is no pipe.
    fn first(&self, pipe: BorrowedFd<'_>) -> Option<u8> {
        let mut byte = [0];
        rustix::pipe::tee(pipe, &self.writer, 1, SpliceFlags::NONBLOCK).ok()?;
        rustix::io::read(self.reader.as_fd(), &mut byte).ok()?;
        Some(byte[0])
    }
}
