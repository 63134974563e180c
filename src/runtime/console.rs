//! `--console-socket`: where an engine receives the master of a container's terminal.
//!
//! The engine listens on a unix socket; the master arrives as SCM_RIGHTS beside the name `/dev/ptmx`,
//! as runc sends it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::protocol::socket;
use crate::spec::Spec;

/// What travels with the descriptor: something must, and receivers take it for a name.
const NAME: &[u8] = b"/dev/ptmx";

/// A connected console socket.
#[derive(Debug)]
pub struct Console {
    socket: OwnedFd,
    path: PathBuf,
}

impl Console {
    /// Connects to the console socket of a container: with a terminal it needs one, without it must not
    /// be given one.
    pub fn of(spec: &Spec, path: Option<&Path>) -> Result<Option<Self>> {
        let terminal = spec.process().as_ref().is_some_and(|process| process.terminal().unwrap_or(false));
        Self::matching(terminal, path)
    }

    /// The same for a process of which it is known whether it has a terminal.
    pub fn matching(terminal: bool, path: Option<&Path>) -> Result<Option<Self>> {
        match (terminal, path) {
            (false, None) => Ok(None),
            (true, None) => {
                Err(Error::usage("process.terminal", "is true, but there is no --console-socket")
                    .hint("the terminal's master goes to whoever listens there: name that socket"))
            }
            (false, Some(path)) => {
                let what = format!("--console-socket {}", path.display());
                Err(Error::usage(what, "is given, but process.terminal is not true"))
            }
            (true, Some(path)) => {
                let path = std::path::absolute(path).map_err(|error| Error::io("resolve", path, &error))?;
                match socket::connect(&path)? {
                    Some(socket) => Ok(Some(Self { socket, path })),
                    None => {
                        Err(Error::failed(format!("connect to {}", path.display()), "nobody listens there"))
                    }
                }
            }
        }
    }

    /// Sends the master over it.
    pub fn send(self, master: &OwnedFd) -> Result<()> {
        let sent = rustix::io::retry_on_intr(|| socket::send(&self.socket, NAME, &[master.as_fd()]));
        sent.map(drop).map_err(|errno| Error::at("send the terminal over", &self.path, errno))
    }
}
