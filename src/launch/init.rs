//! `--init`: a PID 1 that starts the command, hands its signals on, reaps what nobody waits for,
//! and ends as the command ended.
//!
//! The kernel treats PID 1 of a namespace specially: signals without a handler are dropped, orphans
//! become its children. A command that does not expect that gets a PID of its own here.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::libc;
use rustix::fs::{Mode, OFlags};
use rustix::process::{WaitOptions, WaitStatus};

use super::child::execute;
use super::credentials::{self, ProcessPlan};
use super::{gate, terminal};
use crate::error::Error;
use crate::sys::{Clone3, clone, fd, signal};

/// The command that the minimal init starts.
pub(super) struct Command<'a> {
    pub(super) process: &'a ProcessPlan,
    pub(super) file: &'a CString,
    /// Where labels are written, where there are some.
    pub(super) proc: Option<&'a OwnedFd>,
    /// Where what comes of `execve` is told.
    pub(super) gate: BorrowedFd<'a>,
    /// Its standard input is a terminal, which it shall control: PID 1 does not.
    pub(super) terminal: bool,
}

/// Starts the command and stays as its init. What comes of `execve` is told by the command's own
/// process over `gate`. Comes back only if there is no process.
pub(super) fn run(command: &Command<'_>, ending: BorrowedFd<'_>) -> Error {
    let stdio = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let proc = command.proc.map(AsFd::as_fd);
    let keep: Vec<_> = stdio.into_iter().chain([command.gate]).chain(proc).collect();
    match (Clone3 { namespaces: 0, cgroup: None, keep: &keep }).spawn(command, main) {
        Ok(child) => supervise(command, child.pid, ending),
        Err(error) => Error::io("start", command.file.to_string_lossy().as_ref(), &error),
    }
}

fn main(command: &Command<'_>) -> ! {
    let ready = credentials::new_session().and_then(|()| match command.terminal {
        true => terminal::control(),
        false => Ok(()),
    });
    let error = match ready {
        Ok(()) => execute(command.process, command.file, command.proc),
        Err(error) => error,
    };
    gate::report(command.gate, &error);
    clone::exit(credentials::failure_status(&error))
}

/// Nothing of the container is open here any more: neither the gate (its end of file means that
/// the command was executed) nor the output (its end of file means that nobody writes any more).
fn supervise(started: &Command<'_>, command: i32, ending: BorrowedFd<'_>) -> ! {
    // It may be looked into as far as the command may, and is no way around the profile.
    if started.proc.is_some_and(|proc| started.process.labels.take_on(proc).is_err()) {
        clone::exit(125);
    }
    // Where it is no PID 1, orphans come to it all the same.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    // Every signal has been blocked since before the clone, so that none was missed.
    if fd::close_all_but(&[ending]).is_err() {
        clone::exit(125);
    }
    // 0, 1 and 2 stay occupied, where the container has a null device: the lowest free numbers.
    for _ in 0..3 {
        if let Ok(null) = rustix::fs::open(c"/dev/null", OFlags::RDWR, Mode::empty()) {
            std::mem::forget(null);
        }
    }
    let Ok(signals) = signal::Incoming::new() else { clone::exit(125) };
    // From here on it only reads, waits, signals and writes.
    if credentials::settle(started.process).is_err() {
        clone::exit(125);
    }
    loop {
        match signals.wait() {
            libc::SIGCHLD => {
                if let Some(status) = reap(command) {
                    let _ = rustix::io::write(ending, &status.as_raw().to_le_bytes());
                    let signaled = status.terminating_signal().map(|signal| 128 + signal);
                    clone::exit(status.exit_status().or(signaled).unwrap_or(125));
                }
            }
            // The command may be a zombie already: then there is nobody to hear it.
            other => drop(signal::kill(command, other)),
        }
    }
}

/// Takes every child that has ended; the command's own end where it is among them.
fn reap(command: i32) -> Option<WaitStatus> {
    let mut ending = None;
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        if pid.as_raw_nonzero().get() == command {
            ending = Some(status);
        }
    }
    ending
}
