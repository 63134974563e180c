//! Taking over a container from outside, where its keeper died with its shim.
//!
//! ```text
//!  state.json ─▶ init, by pid and start time ─▶ its pipes, by inode, among the container's descriptors
//! ```
//!
//! What the container has open is the container's to choose: its processes may have closed a pipe, put
//! another one at its number, or made a FIFO that would hold whoever opens it. So every descriptor of
//! every process is looked at, opened without effect (`O_PATH`), and taken only where it is the very
//! pipe that was made at launch. One that nobody has any more will bring nothing more.

use std::os::fd::{AsRawFd, OwnedFd};

use podrun::cgroup::Cgroup;
use podrun::error::{Error, Result};
use podrun::paths::{ContainerPaths, Roots};
use podrun::protocol::socket;
use podrun::state::process::boot_id;
use podrun::state::{FileRef, ProcessRef, State, Status};
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::keep::Keep;
use crate::machine::Memory;
use crate::owned::{Facts, Owned};
use crate::streams::Streams;

/// Everything of the container of `state` that can be had again.
pub(crate) fn adopt(
    roots: Roots,
    paths: &ContainerPaths,
    mut state: State,
    lock: OwnedFd,
    keep: &Keep,
) -> Result<Owned> {
    let gone = || Error::failed(format!("adopt container {}", state.id), "its init is gone");
    if state.boot_id != boot_id() {
        return Err(gone());
    }
    let init = state.init.ok_or_else(gone)?;
    let pidfd = Pid::from_raw(init.pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
    // Looked at after it was opened: what the start time fits is what the pidfd stands for.
    let pidfd = pidfd.filter(|_| ProcessRef::of(init.pid) == Some(init)).ok_or_else(gone)?;
    let mut pids = vec![init.pid];
    if let Some(cgroup) = Cgroup::open(&state.cgroup_path)? {
        pids.extend(cgroup.procs()?);
    }
    let found = |pipe: Option<FileRef>| pipe.and_then(|pipe| find(&pids, pipe));
    let (stdout, stderr) = (found(state.pipes.stdout), found(state.pipes.stderr));
    // Init may have ended since it was looked at, and taken what was in its pipes along.
    state.pipes.lost |= stdout.is_none() || stderr.is_none();
    let (stdout, stderr) = (stdout.map_or_else(closed, Ok)?, stderr.map_or_else(closed, Ok)?);
    let ending = state.pipes.ending.map(|ending| found(Some(ending)).map_or_else(closed, Ok)).transpose()?;
    if state.status == Status::Created {
        // It was executed, or it would have ended when its gate closed; when, nobody wrote down.
        state.status = Status::Running;
        state.started_at = Some(jiff::Timestamp::now());
    }
    state.shim = ProcessRef::of(rustix::process::getpid().as_raw_nonzero().get());
    state.keeper = keep.pid().and_then(ProcessRef::of);
    state.reason = None;
    state.adoptions += 1;
    let listener = socket::listen(&paths.socket())?;
    let facts = Facts { roots, state, memory: Memory::default(), kill_at: None };
    // The master of a terminal is nobody's any more: the kernel has hung up on the container.
    let streams = Streams::Pipes { stdout, stderr, stdin: None };
    Ok(Owned { facts, lock, listener, pidfd, streams, gate: None, ending })
}

/// The reading end of `pipe`, if a process of `pids` has it.
fn find(pids: &[i32], pipe: FileRef) -> Option<OwnedFd> {
    pids.iter().find_map(|pid| {
        let entries = std::fs::read_dir(format!("/proc/{pid}/fd")).ok()?;
        entries.flatten().find_map(|entry| {
            let flags = OFlags::PATH | OFlags::CLOEXEC;
            let place = rustix::fs::open(entry.path(), flags, Mode::empty()).ok()?;
            is_it(&rustix::fs::fstat(&place).ok()?, pipe).then_some(())?;
            let path = format!("/proc/self/fd/{}", place.as_raw_fd());
            let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
            rustix::fs::open(path, flags, Mode::empty()).ok()
        })
    })
}

fn is_it(stat: &Stat, pipe: FileRef) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Fifo && FileRef::of(stat) == pipe
}

/// A pipe that is at its end.
fn closed() -> Result<OwnedFd> {
    let (reader, _writer) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Error::os("create a pipe", errno))?;
    Ok(reader)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_found_among_the_descriptors_of_a_process_and_no_other_in_its_place() {
        let (reader, writer) = rustix::pipe::pipe().unwrap();
        let wanted = FileRef::of(&rustix::fs::fstat(&writer).unwrap());
        let own = rustix::process::getpid().as_raw_nonzero().get();
        // A FIFO that nobody writes would hold whoever opens it to read.
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(format!("pipe:[{}]", wanted.inode));
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let planted = std::fs::File::options().read(true).write(true).open(&path).unwrap();
        let found = find(&[own], wanted).unwrap();
        rustix::io::write(&writer, b"x").unwrap();
        let mut byte = [0];
        assert_eq!(rustix::io::read(&found, &mut byte), Ok(1));
        drop((found, reader, writer, planted));
        assert!(find(&[own], wanted).is_none());
        assert_eq!(rustix::io::read(closed().unwrap(), &mut byte), Ok(0));
    }
}
