//! Our own stdin on its way to the container's, without ever blocking.

use std::os::fd::{AsFd, OwnedFd};

use podrun::error::{Error, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;

const BUFFER: usize = 64 << 10;

/// The pump. It holds at most one buffer: a container that does not read holds up our own stdin and
/// nothing else.
#[derive(Debug)]
pub(super) struct Stdin {
    /// The container's end; closing it is its end of file.
    writer: Option<OwnedFd>,
    buffer: Vec<u8>,
    pending: std::ops::Range<usize>,
}

impl Stdin {
    pub(super) fn new(writer: OwnedFd) -> Result<Self> {
        // The open file is ours alone: the container has the other end.
        let flags = fcntl_getfl(&writer).and_then(|flags| fcntl_setfl(&writer, flags | OFlags::NONBLOCK));
        flags.map_err(|errno| Error::os("stdin", errno))?;
        Ok(Self { writer: Some(writer), buffer: vec![0; BUFFER], pending: 0..0 })
    }

    /// What to poll: our own stdin while there is nothing to write.
    pub(super) fn poll_own(&self) -> Option<PollFd<'static>> {
        let wanted = self.writer.is_some() && self.pending.is_empty();
        wanted.then(|| PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN))
    }

    /// What to poll: the container's end, always, for it may be closed.
    pub(super) fn poll_writer(&self) -> Option<PollFd<'_>> {
        let flags = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        self.writer.as_ref().map(|writer| PollFd::from_borrowed_fd(writer.as_fd(), flags))
    }

    /// Our own stdin has something to say.
    pub(super) fn read(&mut self) {
        match rustix::io::read(rustix::stdio::stdin(), &mut self.buffer[..]) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal that went away, a descriptor that was never open: the end.
            Ok(0) | Err(_) => self.writer = None,
            Ok(length) => self.pending = 0..length,
        }
        self.write(PollFlags::empty());
    }

    /// The container's end can be written, or has gone.
    pub(super) fn write(&mut self, ready: PollFlags) {
        let Some(writer) = &self.writer else { return };
        if ready.contains(PollFlags::ERR) {
            self.writer = None;
        } else if !self.pending.is_empty() {
            match rustix::io::write(writer, &self.buffer[self.pending.clone()]) {
                Ok(written) => self.pending.start += written,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.writer = None,
            }
        }
    }
}
