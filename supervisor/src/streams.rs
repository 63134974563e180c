//! The shim's ends of the container's stdio: pipes, or one terminal.
//!
//! ```text
//!  pipes      stdout, stderr ─▶ log        stdin ◀── handed to the client that carries it
//!  terminal   master ─▶ log (as stdout)    master ◀─ handed to whoever attaches
//! ```
//!
//! A terminal's output goes to its clients by way of the log, as a pipe's does: a slow or vanished
//! client then holds up nobody, the container least of all, and each client sees every byte.

use std::os::fd::OwnedFd;

use podrun::error::{Error, Result};
use podrun::launch::Terminal;
use podrun::log::line::Stream;

use crate::keep::Slot;

/// The shim's ends.
#[derive(Debug)]
pub(crate) enum Streams {
    /// A pipe for each.
    Pipes {
        /// The reading end of stdout.
        stdout: OwnedFd,
        /// The reading end of stderr.
        stderr: OwnedFd,
        /// The writing end of stdin (`-i`).
        stdin: Option<OwnedFd>,
    },
    /// One terminal (`-t`). The shim holds the slave too, so that the master does not hang up while
    /// nobody inside has it open: an init may close it and open `/dev/console` later.
    Terminal(Terminal),
}

/// What goes where.
#[derive(Debug)]
pub(crate) struct Split {
    /// For the pump.
    pub(crate) sources: Vec<(Stream, OwnedFd)>,
    /// The writing end of stdin.
    pub(crate) stdin: Option<OwnedFd>,
    /// The terminal, for those who attach.
    pub(crate) terminal: Option<Terminal>,
}

impl Streams {
    /// The descriptors, each with its place in the keeper.
    pub(crate) fn slots(&self) -> Vec<(Slot, &OwnedFd)> {
        match self {
            Self::Pipes { stdout, stderr, stdin } => {
                let both = [(Slot::Stdout, stdout), (Slot::Stderr, stderr)];
                both.into_iter().chain(stdin.as_ref().map(|stdin| (Slot::Stdin, stdin))).collect()
            }
            Self::Terminal(Terminal { master, slave }) => vec![(Slot::Master, master), (Slot::Slave, slave)],
        }
    }

    /// The inverse of [`Streams::slots`]; `None` where one is missing.
    pub(crate) fn from_slots(take: &mut impl FnMut(Slot) -> Option<OwnedFd>) -> Option<Self> {
        if let (Some(master), Some(slave)) = (take(Slot::Master), take(Slot::Slave)) {
            return Some(Self::Terminal(Terminal { master, slave }));
        }
        Some(Self::Pipes {
            stdout: take(Slot::Stdout)?,
            stderr: take(Slot::Stderr)?,
            stdin: take(Slot::Stdin),
        })
    }

    /// Output apart from input.
    pub(crate) fn split(self) -> Result<Split> {
        Ok(match self {
            Self::Pipes { stdout, stderr, stdin } => {
                let sources = vec![(Stream::Stdout, stdout), (Stream::Stderr, stderr)];
                Split { sources, stdin, terminal: None }
            }
            Self::Terminal(terminal) => {
                let master = terminal.master.try_clone();
                let master = master.map_err(|error| Error::io("duplicate", "the terminal", &error))?;
                Split { sources: vec![(Stream::Stdout, master)], stdin: None, terminal: Some(terminal) }
            }
        })
    }
}
