//! A terminal of the container's own: a pty in the container's own devpts, made by the child that
//! will use it.
//!
//! ```text
//!  /dev/pts (verified: devpts) ─▶ ptmx ─▶ master ──gate──▶ parent
//!                                  └─ TIOCGPTPEER ─▶ slave ─▶ 0, 1, 2, controlling terminal
//!                                                      └─ copy of its mount ─▶ /dev/console
//! ```
//!
//! No path of the container is trusted: `/dev/pts` is opened without links and must be a devpts,
//! `ptmx` is opened in that very mount, and the slave comes from the master, not from a name. What an
//! image or a process inside puts at `/dev/pts/N` is never looked at (CVE-2025-52565).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{Mode, OFlags, ResolveFlags, Uid, openat2};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt};

use super::mounts::attach;
use super::root::{self, Target};
use crate::error::{Error, Result};
use crate::spec::terminal::WindowSize;

/// `DEVPTS_SUPER_MAGIC` (`linux/magic.h`).
const DEVPTS_MAGIC: u64 = 0x1cd1;

/// Both ends of a pty.
#[derive(Debug)]
pub struct Terminal {
    /// What is written here is typed, what is read was printed.
    pub master: OwnedFd,
    /// The process's own end. While anybody has it open the master does not hang up.
    pub slave: OwnedFd,
}

/// Makes a pty in the devpts below `root`, of this size, for the user `owner`.
pub(super) fn open(root: impl AsFd, size: Option<WindowSize>, owner: u32) -> Result<Terminal> {
    let failed = |errno| Error::os("open a terminal in the container", errno);
    let dir = root::open_no_links(root, Path::new("/dev/pts"), OFlags::PATH | OFlags::DIRECTORY)
        .map_err(|errno| no_devpts(Some(errno)))?;
    // `as`: the type differs between architectures, the number is small.
    if rustix::fs::fstatfs(&dir).map_err(failed)?.f_type as u64 != DEVPTS_MAGIC {
        return Err(no_devpts(None));
    }
    // Nobody can make a file in a devpts, and nothing that is mounted over this one is entered.
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_XDEV | ResolveFlags::NO_SYMLINKS;
    let master = openat2(&dir, "ptmx", flags, Mode::empty(), resolve)
        .map_err(|errno| Error::at("open", "/dev/pts/ptmx", errno))?;
    unlockpt(&master).map_err(failed)?;
    let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = ioctl_tiocgptpeer(&master, flags).map_err(failed)?;
    if let Some(size) = size {
        rustix::termios::tcsetwinsize(&slave, size.into()).map_err(failed)?;
    }
    // The group stays the one of the mount's `gid=` option: `tty`, whom `write` and `wall` belong to.
    rustix::fs::fchown(&slave, Some(Uid::from_raw(owner)), None).map_err(failed)?;
    Ok(Terminal { master, slave })
}

fn no_devpts(errno: Option<Errno>) -> Error {
    let what = "open a terminal in the container";
    let error = match errno {
        Some(errno) => Error::os(format!("{what}: /dev/pts"), errno),
        None => Error::failed(what, "/dev/pts is not a devpts"),
    };
    error.hint("a terminal needs a mount of type devpts on /dev/pts")
}

/// Shows the terminal as `/dev/console`, as the OCI runtime specification asks.
pub(super) fn bind_console(root: impl AsFd, slave: &OwnedFd) -> Result<()> {
    let failed = |errno| Error::at("mount the terminal on", "/dev/console", errno);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(slave, c"", flags | OpenTreeFlags::AT_EMPTY_PATH).map_err(failed)?;
    let place = root::make_target(root, Path::new("/dev/console"), Target::File, true).map_err(failed)?;
    attach(tree, place).map_err(failed)
}

/// The terminal becomes 0, 1 and 2.
pub(super) fn become_stdio(slave: &OwnedFd) -> Result<()> {
    dup_to_stdio(slave.as_fd())
}

/// `placeholder`, a descriptor above 2, keeps the numbers 0, 1 and 2 until there is a terminal.
pub(super) fn hold_stdio(placeholder: &OwnedFd) -> Result<()> {
    dup_to_stdio(placeholder.as_fd())
}

fn dup_to_stdio(fd: BorrowedFd<'_>) -> Result<()> {
    rustix::stdio::dup2_stdin(fd)
        .and_then(|()| rustix::stdio::dup2_stdout(fd))
        .and_then(|()| rustix::stdio::dup2_stderr(fd))
        .map_err(|errno| Error::os("set up standard input and output", errno))
}

/// Makes standard input the controlling terminal of this process's session, which it leads.
pub(super) fn control() -> Result<()> {
    rustix::process::ioctl_tiocsctty(rustix::stdio::stdin())
        .map_err(|errno| Error::os("take the controlling terminal", errno))
}
