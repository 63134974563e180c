//! What the shim and the worker tell each other, over a socketpair that keeps messages apart.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use podrun::error::{Error, Result};
use podrun::protocol::LogPosition;
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair};

/// From the shim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Command {
    /// Report as soon as the log has grown beyond this.
    Tell(LogPosition),
    /// Log what there is, and end.
    Drain,
}

/// From the worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Report {
    /// How far the log has come.
    Position(LogPosition),
    /// What there was is in the log, or not all of it.
    Drained(bool),
}

/// The two ends.
pub(super) fn pair() -> Result<(OwnedFd, OwnedFd)> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
        .map_err(|errno| Error::os("create a socket", errno))
}

const LENGTH: usize = 17;

fn pack(kind: u8, position: LogPosition) -> [u8; LENGTH] {
    let mut message = [kind; LENGTH];
    message[1..9].copy_from_slice(&position.rotation.to_ne_bytes());
    message[9..].copy_from_slice(&position.offset.to_ne_bytes());
    message
}

/// `None`: there is nothing now. An error: there never will be.
fn unpack(socket: BorrowedFd<'_>) -> Result<Option<(u8, LogPosition)>, Errno> {
    let mut message = [0; LENGTH];
    loop {
        return match recv(socket, &mut message, RecvFlags::DONTWAIT) {
            Ok((_, LENGTH)) => {
                let (words, _) = message[1..].as_chunks();
                let position = LogPosition {
                    rotation: u64::from_ne_bytes(words[0]),
                    offset: u64::from_ne_bytes(words[1]),
                };
                Ok(Some((message[0], position)))
            }
            Ok(_) => Err(Errno::PIPE),
            Err(Errno::INTR) => continue,
            Err(Errno::AGAIN) => Ok(None),
            Err(errno) => Err(errno),
        };
    }
}

fn transmit(socket: BorrowedFd<'_>, message: &[u8]) -> Result<(), Errno> {
    send(socket.as_fd(), message, SendFlags::NOSIGNAL | SendFlags::DONTWAIT).map(drop)
}

impl Command {
    pub(super) fn send(self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let message = match self {
            Self::Tell(position) => pack(b't', position),
            Self::Drain => pack(b'd', LogPosition::default()),
        };
        transmit(socket, &message)
    }

    pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        Ok(unpack(socket)?.map(|(kind, position)| match kind {
            b't' => Self::Tell(position),
            _ => Self::Drain,
        }))
    }
}

impl Report {
    pub(super) fn send(self, socket: BorrowedFd<'_>) -> Result<(), Errno> {
        let message = match self {
            Self::Position(position) => pack(b'p', position),
            Self::Drained(complete) => pack(b'd', LogPosition { rotation: u64::from(complete), offset: 0 }),
        };
        transmit(socket, &message)
    }

    pub(super) fn receive(socket: BorrowedFd<'_>) -> Result<Option<Self>, Errno> {
        Ok(unpack(socket)?.map(|(kind, position)| match kind {
            b'p' => Self::Position(position),
            _ => Self::Drained(position.rotation == 1),
        }))
    }
}
