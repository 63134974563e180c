//! Our own stdin on its way to the container's, without ever blocking.

use std::os::fd::{AsFd, OwnedFd};

use podrun::error::{Error, Result};
use rustix::event::{PollFd, PollFlags};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::io::Errno;
use rustix::termios::{SpecialCodeIndex, isatty, tcgetattr};

use super::detach::DetachKeys;

const BUFFER: usize = 64 << 10;

/// The pump. It holds at most one buffer: a container that does not read holds up our own stdin and
/// nothing else.
#[derive(Debug)]
pub(super) struct Stdin {
    /// The container's end; closing it is its end of file.
    writer: Option<OwnedFd>,
    /// Our own stdin has not ended.
    reads: bool,
    pending: Vec<u8>,
    sent: usize,
    /// What leaves the container alone, where that is possible.
    keys: Option<DetachKeys>,
    detached: bool,
    /// The terminal's key for the end of input, and what was typed last: closing a terminal tells
    /// nobody anything.
    end: Option<(u8, u8)>,
}

impl Stdin {
    /// From our stdin to `writer`: a pipe, or a terminal's master.
    pub(super) fn new(writer: OwnedFd) -> Result<Self> {
        // The open file is not shared with anyone who minds: the container has the other end, and
        // the shim itself never blocks on it.
        let flags = fcntl_getfl(&writer).and_then(|flags| fcntl_setfl(&writer, flags | OFlags::NONBLOCK));
        flags.map_err(|errno| Error::os("stdin", errno))?;
        // Our own terminal ends by going away, and that is not typed.
        let end = match isatty(&writer) && !isatty(rustix::stdio::stdin()) {
            true => {
                tcgetattr(&writer).ok().map(|termios| (termios.special_codes[SpecialCodeIndex::VEOF], b'\n'))
            }
            false => None,
        };
        Ok(Self { writer: Some(writer), end, ..Self::nowhere() })
    }

    /// Goes on to another writer, which is like the one before.
    pub(super) fn renew(&mut self, writer: OwnedFd) -> Result<()> {
        let next = Self::new(writer)?;
        (self.writer, self.sent) = (next.writer, 0);
        self.pending.clear();
        Ok(())
    }

    /// From our stdin to nowhere: all that matters is the keys to detach.
    pub(super) fn nowhere() -> Self {
        Self {
            writer: None,
            reads: true,
            pending: Vec::new(),
            sent: 0,
            keys: None,
            detached: false,
            end: None,
        }
    }

    /// With keys that leave the container alone.
    pub(super) fn detachable(self, keys: DetachKeys) -> Self {
        Self { keys: Some(keys), ..self }
    }

    /// The keys to detach were typed.
    pub(super) fn is_detached(&self) -> bool {
        self.detached
    }

    /// What to poll: our own stdin while there is nothing to write.
    pub(super) fn poll_own(&self) -> Option<PollFd<'static>> {
        let wanted = self.reads && self.pending.is_empty() && (self.writer.is_some() || self.keys.is_some());
        wanted.then(|| PollFd::from_borrowed_fd(rustix::stdio::stdin(), PollFlags::IN))
    }

    /// What to poll: the container's end, always, for it may be closed.
    pub(super) fn poll_writer(&self) -> Option<PollFd<'_>> {
        let flags = if self.pending.is_empty() { PollFlags::empty() } else { PollFlags::OUT };
        self.writer.as_ref().map(|writer| PollFd::from_borrowed_fd(writer.as_fd(), flags))
    }

    /// Our own stdin has something to say.
    pub(super) fn read(&mut self) {
        let mut typed = Vec::with_capacity(BUFFER);
        match rustix::io::read(rustix::stdio::stdin(), rustix::buffer::spare_capacity(&mut typed)) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal that went away, a descriptor that was never open: the end.
            Ok(0) | Err(_) => self.end(),
            Ok(_) => match &mut self.keys {
                Some(keys) => self.detached |= keys.pass(&typed, &mut self.pending),
                None => self.pending = typed,
            },
        }
        if let (Some((_, last)), Some(byte)) = (&mut self.end, self.pending.last()) {
            *last = *byte;
        }
        self.write(PollFlags::empty());
    }

    fn end(&mut self) {
        self.reads = false;
        match self.end {
            // In the middle of a line the first one only sends the line off (`termios(3)`).
            Some((key, last)) => self.pending = vec![key; if last == b'\n' { 1 } else { 2 }],
            None => self.writer = None,
        }
    }

    /// The container's end can be written, or has gone.
    pub(super) fn write(&mut self, ready: PollFlags) {
        let Some(writer) = &self.writer else {
            self.pending.clear();
            return;
        };
        if ready.intersects(PollFlags::ERR | PollFlags::HUP) {
            self.writer = None;
        } else if !self.pending.is_empty() {
            match rustix::io::write(writer, &self.pending[self.sent..]) {
                Ok(written) => self.sent += written,
                Err(Errno::INTR | Errno::AGAIN) => {}
                Err(_) => self.writer = None,
            }
        }
        if self.writer.is_none() || self.sent == self.pending.len() {
            self.pending.clear();
            self.sent = 0;
        }
    }
}
