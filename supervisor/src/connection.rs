//! One client's connection: frames and descriptors, asynchronous, on tokio's socket.
//!
//! What a client may do to the shim is bounded here: one frame's worth of bytes is buffered, and
//! nothing more is read while a request is being worked on.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use bytes::BytesMut;
use podrun::error::{Error, Result};
use podrun::protocol::frame::{self, MAX_BODY, MAX_FDS};
use podrun::protocol::{Hello, Reply, Request, socket};
use tokio::io::Interest;
use tokio::net::UnixStream;

/// The most descriptors that may wait for their frame.
const MAX_WAITING_FDS: usize = 2 * MAX_FDS;

/// A connected client.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: UnixStream,
    buffer: BytesMut,
    fds: VecDeque<OwnedFd>,
}

impl Connection {
    /// A connection on `stream`, with what was already received from it.
    pub(crate) fn new(stream: UnixStream, buffer: BytesMut) -> Self {
        Self { stream, buffer, fds: VecDeque::new() }
    }

    /// Exchanges the hellos. `false`: the client left, or speaks another protocol and was told so.
    pub(crate) async fn greet(&mut self) -> Result<bool> {
        let Some(hello) = self.next_frame::<Hello>().await? else { return Ok(false) };
        self.send_frame(&Hello::ours(), &[]).await?;
        match hello.agree() {
            Ok(_) => Ok(true),
            Err(error) => {
                self.send(&Reply::Refused(error), &[]).await?;
                Ok(false)
            }
        }
    }

    /// The next request; `None` where the client closed.
    pub(crate) async fn next(&mut self) -> Result<Option<Request>> {
        self.next_frame().await
    }

    /// The `N` oldest descriptors that came beside the request.
    pub(crate) fn take_fds<const N: usize>(&mut self) -> Result<[OwnedFd; N]> {
        let fds: Vec<OwnedFd> = self.fds.drain(..N.min(self.fds.len())).collect();
        fds.try_into()
            .map_err(|_| Error::failed("control socket", format!("the request needs {N} descriptors")))
    }

    /// The same connection in another descriptor.
    pub(crate) fn duplicate(&self) -> Result<OwnedFd> {
        let copy = self.stream.as_fd().try_clone_to_owned();
        copy.map_err(|error| Error::io("duplicate", "a connection", &error))
    }

    /// Closes what came beside a request that is not carried out.
    pub(crate) fn close_fds(&mut self) {
        self.fds.clear();
    }

    /// Waits until the client closes, whatever it sends before.
    pub(crate) async fn closed(&mut self) {
        while self.buffer.len() <= MAX_BODY {
            match self.receive().await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
        // More than one frame behind an unanswered request: leave it in the socket.
        std::future::pending().await
    }

    /// Sends a reply.
    pub(crate) async fn send(&mut self, reply: &Reply, fds: &[BorrowedFd<'_>]) -> Result<()> {
        self.send_frame(reply, fds).await
    }

    async fn next_frame<T: serde::de::DeserializeOwned>(&mut self) -> Result<Option<T>> {
        loop {
            if let Some(message) = frame::decode(&mut self.buffer)? {
                return Ok(Some(message));
            }
            match self.receive().await {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) => return Err(Error::io("read", "the control socket", &error)),
            }
        }
    }

    async fn receive(&mut self) -> io::Result<usize> {
        loop {
            self.stream.readable().await?;
            let mut passed = Vec::new();
            let buffer = &mut self.buffer;
            let stream = &self.stream;
            let result = stream
                .try_io(Interest::READABLE, || Ok(socket::receive(stream.as_fd(), buffer, &mut passed)?));
            match result {
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                other => {
                    // Beyond what any request needs: closed at once.
                    self.fds.extend(passed);
                    self.fds.truncate(MAX_WAITING_FDS);
                    return other;
                }
            }
        }
    }

    async fn send_frame<T: serde::Serialize>(&mut self, message: &T, fds: &[BorrowedFd<'_>]) -> Result<()> {
        let mut bytes = BytesMut::new();
        frame::encode(message, &mut bytes)?;
        let mut fds = fds;
        let failed = |error: io::Error| Error::io("write", "the control socket", &error);
        while !bytes.is_empty() {
            self.stream.writable().await.map_err(failed)?;
            let stream = &self.stream;
            let result = stream.try_io(Interest::WRITABLE, || Ok(socket::send(stream.as_fd(), &bytes, fds)?));
            match result {
                Ok(sent) => {
                    bytes::Buf::advance(&mut bytes, sent);
                    fds = &[];
                }
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }
}
