//! Where a built init waits until it is released, and how a child tells what came of it.
//!
//! ```text
//!  init                              supervisor, or `start`
//!    'N', a netlink socket ────────▶ devices, hooks of the parent (while it is created, if any)
//!        ◀────────────────────────── 'G'
//!    'B', its terminal ────────────▶ built                       (while it is created)
//!        ◀────────────────────────── 'G'                         go
//!    execve closes it ─────────────▶ EOF: executed
//!    or: Error as JSON, EOF ───────▶ not executed, and why
//! ```
//!
//! Supervised, that is one socketpair. In OCI mode init tells `create` over a socketpair that it is
//! built, and then accepts on a unix socket, one starter after the other: one that dies
//! before its 'G' changes nothing. A process that joins tells over a socketpair, too: 'T' with its
//! terminal beside it where it has one, then what came of `execve`.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use procfs::process::Process;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::SocketFlags;

use super::Terminal;
use crate::error::{Error, Result};
use crate::state::process::is_stopped;
use crate::sys::{pass, signal};

/// What init says once only `execve` is left.
const BUILT: u8 = b'B';
/// What comes before everything else a joining process reports, with its terminal.
const TERMINAL: u8 = b'T';
/// What it says before: its namespaces and mounts are there, it waits for what its parent does then. The socket
/// that speaks for its network namespace is beside it where its parent needs one.
const ISOLATED: u8 = b'N';
/// What releases it.
const GO: u8 = b'G';
/// No error is longer.
const MAX_REPORT: usize = 64 << 10;

/// How init is released.
#[derive(Debug)]
pub enum Gate {
    /// By its parent, over a socketpair.
    Socketpair,
    /// By whoever connects to this bound and listening unix socket (OCI mode).
    Listen(OwnedFd),
}

/// Releases the init that waits at the other end of `gate`.
pub fn go(gate: impl AsFd) -> Result<()> {
    // Not by write: a dead init must be an error, not a SIGPIPE.
    match rustix::net::send(gate, &[GO], rustix::net::SendFlags::NOSIGNAL) {
        Ok(_) => Ok(()),
        Err(Errno::PIPE | Errno::CONNRESET) => Err(gone()),
        Err(errno) => Err(Error::os("release init", errno)),
    }
}

/// What came of a child, from all that it wrote until end of file: nothing means executed.
pub fn outcome(bytes: &[u8]) -> Result<()> {
    let bytes = bytes.strip_prefix(&[TERMINAL]).unwrap_or(bytes);
    if bytes.is_empty() {
        return Ok(());
    }
    Err(serde_json::from_slice(bytes).unwrap_or_else(|_| {
        Error::failed("start", format!("unreadable report: {:?}", String::from_utf8_lossy(bytes)))
    }))
}

fn gone() -> Error {
    Error::failed("start", "init ended before it was released").hint("was it killed? see `podrun state`")
}

/// Reads until the child, process `pid`, says that it waits for its parent, or why it does not. Its netlink socket
/// comes with the good news, where it was asked for.
pub(super) fn wait_until_isolated(gate: &OwnedFd, pid: i32) -> Result<Option<OwnedFd>> {
    wait_for(gate, pid, ISOLATED).map(|fds| fds.into_iter().next())
}

/// Reads until the child, process `pid`, says that it is built, or why it is not. Its terminal comes with the good
/// news.
pub(super) fn wait_until_built(gate: &OwnedFd, pid: i32) -> Result<Option<Terminal>> {
    wait_for(gate, pid, BUILT).map(terminal)
}

/// How long a child may be silent before somebody looks whether it [was stopped](check_going).
pub const PATIENCE: Duration = Duration::from_secs(10);

/// An error where the child `pid` was stopped, or a child of its own that executes what it does: the command of a
/// minimal init, before it is one, or what is to be a hook. Until it has executed its command it takes as long as it
/// does; but whoever shares its pid namespace can stop it, and then nothing would ever come of it.
pub fn check_going(pid: i32) -> Result<()> {
    let children = Process::new(pid).and_then(|process| process.task_main_thread()?.children());
    let children = children.unwrap_or_default().into_iter().filter_map(|child| child.try_into().ok());
    let program = |pid: i32| {
        let file = std::fs::metadata(format!("/proc/{pid}/exe")).ok()?;
        Some((file.dev(), file.ino()))
    };
    let own = program(pid);
    let waited_for = children.filter(|child| own.is_some() && program(*child) == own);
    if !std::iter::once(pid).chain(waited_for).any(is_stopped) {
        return Ok(());
    }
    Err(Error::failed(format!("process {pid}"), "it was stopped before its command was executed")
        .hint("whoever shares its pid namespace can do that"))
}

/// Whether something, or the end, comes from `socket` in that time.
pub(super) fn speaks_within(socket: impl AsFd, time: Duration) -> bool {
    let mut fds = [PollFd::from_borrowed_fd(socket.as_fd(), PollFlags::IN)];
    let time = Timespec::try_from(time).ok();
    rustix::io::retry_on_intr(|| poll(&mut fds, time.as_ref())) != Ok(0)
}

/// Waits for the next word of process `pid`, or its end.
fn hear(socket: impl AsFd, pid: i32) -> Result<()> {
    while !speaks_within(&socket, PATIENCE) {
        check_going(pid)?;
    }
    Ok(())
}

fn wait_for(gate: &OwnedFd, pid: i32, word: u8) -> Result<Vec<OwnedFd>> {
    let (mut first, mut fds) = ([0], Vec::new());
    let failed = |errno| Error::os("wait for init", errno);
    hear(gate, pid)?;
    let read = rustix::io::retry_on_intr(|| pass::receive(gate, &mut first, &mut fds)).map_err(failed)?;
    if read == 1 && first[0] == word {
        return Ok(fds);
    }
    let mut report = first[..read].to_vec();
    read_to_end(gate, pid, &mut report, &mut fds)?;
    outcome(&report)?;
    Err(Error::failed("create", "init ended before it was built")
        .hint("something killed it: the kernel's OOM killer, for one"))
}

/// All that the joining process `pid` reports, and the descriptors beside it; waits for the end.
pub fn read_report(socket: impl AsFd, pid: i32) -> Result<(Vec<u8>, Vec<OwnedFd>)> {
    let (mut report, mut fds) = (Vec::new(), Vec::new());
    read_to_end(socket, pid, &mut report, &mut fds)?;
    Ok((report, fds))
}

/// What comes of init, process `pid`, after it was released over `gate`. One that was stopped before is ended.
pub fn read_outcome(gate: impl AsFd, pid: i32, pidfd: impl AsFd) -> Result<()> {
    let (mut report, mut fds) = (Vec::new(), Vec::new());
    let end = read_to_end(gate, pid, &mut report, &mut fds).inspect_err(|_| {
        let _ = signal::send(pidfd, nix::libc::SIGKILL);
    })?;
    match end {
        End::Reset if report.is_empty() => Err(gone()),
        End::Reset | End::OfFile => outcome(&report),
    }
}

/// How a child's last word is followed by none.
enum End {
    OfFile,
    /// It was ended before it had heard everything.
    Reset,
}

fn read_to_end(socket: impl AsFd, pid: i32, report: &mut Vec<u8>, fds: &mut Vec<OwnedFd>) -> Result<End> {
    let mut chunk = [0; 512];
    while report.len() < MAX_REPORT {
        hear(&socket, pid)?;
        match pass::receive(&socket, &mut chunk, fds) {
            Ok(0) => break,
            Ok(length) => report.extend_from_slice(&chunk[..length]),
            Err(Errno::CONNRESET) => return Ok(End::Reset),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("read a child's report", errno)),
        }
    }
    Ok(End::OfFile)
}

/// The terminal that the descriptors beside a report are, if they are one.
pub fn terminal(fds: Vec<OwnedFd>) -> Option<Terminal> {
    let mut fds = fds.into_iter();
    Some(Terminal { master: fds.next()?, slave: fds.next()? })
}

/// Child: says that it is built. Its terminal is the parent's from now on.
pub(super) fn built(gate: impl AsFd, terminal: Option<Terminal>) -> Result<()> {
    tell(gate, BUILT, terminal)
}

/// Child that joins: hands over its terminal.
pub(super) fn opened(gate: impl AsFd, terminal: Terminal) -> Result<()> {
    tell(gate, TERMINAL, Some(terminal))
}

fn tell(gate: impl AsFd, what: u8, terminal: Option<Terminal>) -> Result<()> {
    let fds: Vec<_> =
        terminal.iter().flat_map(|terminal| [terminal.master.as_fd(), terminal.slave.as_fd()]).collect();
    pass::send(gate, &[what], &fds).map(drop).map_err(|errno| Error::os("report to the parent", errno))
}

/// Child: says that its namespaces and mounts are there, and waits for what its parent does then, for which it has
/// its `netlink` socket. False where nobody is left who could.
pub(super) fn isolated(gate: &OwnedFd, netlink: Option<OwnedFd>) -> Result<bool> {
    let fds: Vec<_> = netlink.iter().map(AsFd::as_fd).collect();
    pass::send(gate, &[ISOLATED], &fds).map_err(|errno| Error::os("report to the parent", errno))?;
    drop(netlink);
    wait_for_go(gate.as_fd())
}

/// Child: waits until it is released over `gate`. False where nobody is left who could.
pub(super) fn wait_for_go(gate: BorrowedFd<'_>) -> Result<bool> {
    let mut byte = [0];
    match rustix::io::retry_on_intr(|| rustix::io::read(gate, &mut byte)) {
        Ok(read) => Ok(read == 1 && byte[0] == GO),
        Err(Errno::CONNRESET) => Ok(false),
        // Somebody is there, and would take an end without a word for success.
        Err(errno) => Err(Error::os("wait for start", errno)),
    }
}

/// Child: waits until somebody connects and says go; that connection is where the outcome goes.
pub(super) fn accept_go(listener: &OwnedFd) -> Result<OwnedFd> {
    loop {
        match rustix::net::accept_with(listener, SocketFlags::CLOEXEC) {
            Ok(connection) if wait_for_go(connection.as_fd()).unwrap_or(false) => return Ok(connection),
            Ok(_) | Err(Errno::INTR | Errno::CONNABORTED) => {}
            Err(errno) => return Err(Error::os("wait for start", errno)),
        }
    }
}

/// Child: reports why it failed. Nobody may be there to read it any more.
pub(super) fn report(gate: impl AsFd, error: &Error) {
    if let Ok(bytes) = serde_json::to_vec(error) {
        let mut rest = bytes.as_slice();
        while !rest.is_empty() {
            // Not by write: to nobody, that would be a SIGPIPE.
            match rustix::net::send(&gate, rest, rustix::net::SendFlags::NOSIGNAL) {
                Ok(written) => rest = &rest[written..],
                Err(Errno::INTR) => {}
                Err(_) => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_success_and_an_error_arrives_as_it_was() {
        outcome(b"").unwrap();
        let error = Error::at("mount proc on", "/proc", Errno::PERM).hint("h");
        assert_eq!(outcome(&serde_json::to_vec(&error).unwrap()).unwrap_err(), error);
        assert!(outcome(b"{").unwrap_err().why.starts_with("unreadable"));
    }
}
