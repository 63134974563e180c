//! One connection to a shim: requests out, replies in, descriptors beside them; blocking, or for a
//! poll loop.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};
use rustix::io::Errno;
use rustix::net::Shutdown;

use super::BUSY;
use crate::error::{Error, Result};
use crate::paths::ContainerPaths;
use crate::protocol::{Hello, Reply, Request, frame, socket};
use crate::state::ProcessRef;

/// What a nonblocking receive found.
#[derive(Debug)]
pub enum Received {
    /// A reply, and the descriptors beside it.
    Reply(Box<Reply>, Vec<OwnedFd>),
    /// Nothing whole yet.
    NotYet,
    /// The shim closed.
    Closed,
}

/// A connected control socket.
#[derive(Debug)]
pub struct Client {
    socket: OwnedFd,
    greeted: bool,
    pub(super) welcomed: bool,
    /// The shim has gone, and had not received all that was sent.
    pub(super) unheard: bool,
    buffer: BytesMut,
    fds: Vec<OwnedFd>,
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Client {
    pub(super) fn new(socket: OwnedFd) -> Self {
        Self {
            socket,
            greeted: false,
            welcomed: false,
            unheard: false,
            buffer: BytesMut::new(),
            fds: Vec::new(),
        }
    }

    /// Connects to the shim of a container; `None` where there is none.
    pub fn connect(paths: &ContainerPaths) -> Result<Option<Self>> {
        let socket = socket::connect(&paths.socket())?;
        let found = if socket.is_some() { "connected to" } else { "nobody listens on" };
        tracing::debug!("{found} {}", paths.socket().display());
        Ok(socket.map(Self::new))
    }

    /// Sends a request, with `fds` beside it. A shim that is gone shows in the receive that follows.
    pub fn send(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut bytes = BytesMut::new();
        self.greet(&mut bytes)?;
        // Descriptors belong to the request: the hello goes alone.
        if !fds.is_empty() {
            self.write(&mut bytes, &[])?;
        }
        frame::encode(request, &mut bytes)?;
        self.write(&mut bytes, fds)
    }

    /// Adds the hello, which comes before everything else and once.
    fn greet(&mut self, bytes: &mut BytesMut) -> Result<()> {
        match std::mem::replace(&mut self.greeted, true) {
            true => Ok(()),
            false => frame::encode(&Hello::ours(), bytes),
        }
    }

    /// Whether a shim answers. One that says nothing for long, but does not close, is there as well.
    pub(super) fn is_welcome(&mut self) -> Result<bool> {
        let mut bytes = BytesMut::new();
        self.greet(&mut bytes)?;
        self.write(&mut bytes, &[])?;
        while !self.welcomed {
            if !self.is_ready_within(BUSY)? {
                return Ok(true);
            }
            if self.fill(false)?.is_none() {
                return Ok(false);
            }
            self.next()?;
        }
        Ok(true)
    }

    fn write(&mut self, bytes: &mut BytesMut, mut fds: &[BorrowedFd<'_>]) -> Result<()> {
        while !bytes.is_empty() {
            match socket::send(&self.socket, bytes, fds) {
                Ok(sent) => {
                    bytes.advance(sent);
                    fds = &[];
                }
                Err(Errno::INTR) => {}
                Err(Errno::PIPE | Errno::CONNRESET) => {
                    self.unheard = true;
                    return Ok(());
                }
                Err(errno) => return Err(Error::os("write to the shim", errno)),
            }
        }
        Ok(())
    }

    /// Waits for the next reply for so long.
    pub(super) fn receive_within(&mut self, time: Duration) -> Result<Received> {
        let deadline = Instant::now() + time;
        loop {
            match self.try_receive()? {
                Received::NotYet => {}
                other => return Ok(other),
            }
            if !self.is_ready_within(deadline.saturating_duration_since(Instant::now()))? {
                return Ok(Received::NotYet);
            }
        }
    }

    /// Waits for the next reply; `None` where the shim closed.
    pub fn receive(&mut self) -> Result<Option<(Reply, Vec<OwnedFd>)>> {
        loop {
            match self.next()? {
                Received::Reply(reply, fds) => return Ok(Some((*reply, fds))),
                Received::Closed => return Ok(None),
                Received::NotYet => {
                    if self.fill(false)?.is_none() {
                        return Ok(None);
                    }
                }
            }
        }
    }

    /// The next reply if it is there.
    pub fn try_receive(&mut self) -> Result<Received> {
        loop {
            match self.next()? {
                Received::NotYet => match self.fill(true)? {
                    None => return Ok(Received::Closed),
                    Some(0) => return Ok(Received::NotYet),
                    Some(_) => {}
                },
                other => return Ok(other),
            }
        }
    }

    fn next(&mut self) -> Result<Received> {
        if !self.welcomed {
            let Some(hello) = frame::decode::<Hello>(&mut self.buffer).map_err(|_| not_a_shim())? else {
                return Ok(Received::NotYet);
            };
            hello.agree()?;
            self.welcomed = true;
        }
        Ok(match frame::decode(&mut self.buffer)? {
            Some(reply) => Received::Reply(Box::new(reply), std::mem::take(&mut self.fds)),
            None => Received::NotYet,
        })
    }

    /// Receives what is there, `Some(0)` if that is nothing; `None` where the shim closed.
    fn fill(&mut self, nonblocking: bool) -> Result<Option<usize>> {
        if nonblocking {
            let mut poll = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
            let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
            match rustix::event::poll(&mut poll, Some(&now)) {
                Ok(0) | Err(Errno::INTR) => return Ok(Some(0)),
                Ok(_) => {}
                Err(errno) => return Err(Error::os("wait for the shim", errno)),
            }
        }
        match socket::receive(&self.socket, &mut self.buffer, &mut self.fds) {
            Ok(0) => Ok(None),
            Err(Errno::CONNRESET) => {
                self.unheard = true;
                Ok(None)
            }
            Ok(received) => Ok(Some(received)),
            Err(Errno::INTR) => Ok(Some(0)),
            Err(errno) => Err(Error::os("read from the shim", errno)),
        }
    }

    /// Sends a request and waits for its reply, a refusal being an error; `None` where the shim
    /// closed without one: reread the disk.
    pub fn call(&mut self, request: &Request) -> Result<Option<Reply>> {
        tracing::debug!("asks the shim to {}", name(request));
        self.send(request, &[])?;
        let reply = self.receive()?.map(|(reply, _)| reply);
        tracing::debug!("the shim says {}", reply.as_ref().map_or("nothing: it is gone".to_owned(), name));
        match reply {
            Some(Reply::Refused(error)) => Err(error),
            other => Ok(other),
        }
    }

    /// Who listened first on the socket: the shim, where none has taken over.
    pub(super) fn listener(&self) -> Option<ProcessRef> {
        let peer = rustix::net::sockopt::socket_peercred(&self.socket).ok()?;
        let pid = peer.pid.as_raw_nonzero().get();
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
        ProcessRef::of(pid).filter(|_| name.trim_end() == "podrun-shim")
    }

    /// Whether something comes within `time`.
    pub(super) fn is_ready_within(&self, time: Duration) -> Result<bool> {
        let deadline = Instant::now() + time;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left = rustix::event::Timespec::try_from(left).ok();
            let mut poll = [rustix::event::PollFd::new(&self.socket, rustix::event::PollFlags::IN)];
            match rustix::event::poll(&mut poll, left.as_ref()) {
                Ok(ready) => return Ok(ready > 0),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(Error::os("wait for the shim", errno)),
            }
        }
    }

    /// Acknowledges the last reply and waits until the shim is gone: with `--rm`, until the container
    /// is.
    pub fn wait_gone(mut self) -> Result<()> {
        let _ = rustix::net::shutdown(&self.socket, Shutdown::Write);
        while self.receive()?.is_some() {}
        Ok(())
    }
}

/// What a request or a reply is called: what is in one may be secret.
pub(super) fn name(value: &impl std::fmt::Debug) -> String {
    format!("{value:?}").chars().take_while(char::is_ascii_alphanumeric).collect()
}

pub(super) fn not_a_shim() -> Error {
    Error::failed("control socket", "what answers is not a podrun-shim")
        .hint("install podrun and podrun-shim of the same release")
}
