//! Where output comes from: a pipe of the container, or the master of its terminal.

use std::os::fd::{AsFd, OwnedFd};

use podrun::error::{Error, Result};
use podrun::log::line::Stream;
use rustix::io::Errno;
use tokio::io::unix::AsyncFd;

use crate::fd;

/// The most that is read from one pipe before it is written: what a processor's own cache holds,
/// together with the records it becomes.
pub(super) const BATCH: usize = 256 << 10;
/// What is read first: a quiet container costs no large buffer.
pub(super) const SIP: usize = 8 << 10;

/// One source.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) stream: Stream,
    /// `None` once every writer is gone.
    pipe: Option<AsyncFd<OwnedFd>>,
}

impl Source {
    /// What comes out of `pipe` was written to `stream`.
    pub(super) fn new(stream: Stream, pipe: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&pipe, true).map_err(|errno| Error::os("prepare a pipe", errno))?;
        Ok(Self { stream, pipe: Some(fd::watch(pipe, "a pipe")?) })
    }

    /// Waits until there is something to read.
    pub(super) async fn readable(&self) {
        match &self.pipe {
            // An error shows in the read that follows.
            Some(pipe) => pipe.readable().await.map(|mut guard| guard.retain_ready()).unwrap_or(()),
            None => std::future::pending().await,
        }
    }

    /// Reads up to `room` bytes to the end of `buffer`; returns how many, and notices the end.
    pub(super) fn read(&mut self, room: usize, buffer: &mut Vec<u8>) -> usize {
        let Some(pipe) = &self.pipe else { return 0 };
        let start = buffer.len();
        let end = start + room;
        while buffer.len() < end {
            let space = (end - buffer.len()).min(if buffer.len() == start { SIP } else { BATCH });
            buffer.reserve(space);
            let asked = buffer.capacity() - buffer.len();
            match rustix::io::read(pipe.as_fd(), rustix::buffer::spare_capacity(buffer)) {
                // EIO is how a terminal says that nobody has it open any more.
                Ok(0) | Err(Errno::IO) => {
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
    pub(super) fn waiting(&self) -> usize {
        let pipe = self.pipe.as_ref();
        pipe.and_then(|pipe| rustix::io::ioctl_fionread(pipe).ok()).unwrap_or(0).try_into().unwrap_or(0)
    }
}
