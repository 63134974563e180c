//! A process that joins a container without a shim: this command is its parent.

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::create::inherited_stdio;
use super::{not_running, open_init};
use crate::cgroup::Cgroup;
use crate::error::{Error, Kind, Result};
use crate::launch::{self, Process, gate};
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::spec::{Spec, validate};
use crate::state::publish::{self, Durability};
use crate::state::{Ending, Status, store};
use crate::sys::signal as sys_signal;

/// A process inside a container, as its parent sees it.
#[derive(Debug)]
pub struct Running(OwnedFd);

impl Running {
    /// Sends it a signal; one that has ended hears nothing.
    pub fn signal(&self, signal: i32) {
        let _ = sys_signal::send(&self.0, signal);
    }

    /// How it ended; waits for that.
    pub fn wait(self) -> Result<Ending> {
        loop {
            match waitid(WaitId::PidFd(self.0.as_fd()), WaitIdOptions::EXITED) {
                Ok(status) => {
                    return status
                        .as_ref()
                        .and_then(Ending::of)
                        .ok_or_else(|| Error::failed("exec", "the process ended in no known way"));
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(Error::os("wait for the process", errno)),
            }
        }
    }
}

/// Readable once it has ended.
impl AsFd for Running {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Runs `wanted` inside container `id`, on this command's own standard input and output, with
/// `preserved` from descriptor 3 on. Returns once it was executed and `pid_file` has its pid on the host.
pub fn exec(
    roots: &Roots,
    id: &ContainerId,
    wanted: &Process,
    preserved: Vec<OwnedFd>,
    pid_file: Option<&Path>,
) -> Result<Running> {
    let state = store::view(roots, id)?.state;
    let refused = |why: String| Err(Error::new(Kind::WrongState, format!("exec in {id}"), why));
    match state.status {
        Status::Running | Status::Created => {}
        // What is born in a frozen cgroup never comes to `execve`.
        Status::Paused => return refused("container is paused".to_owned()),
        status => return refused(format!("container not running: it is {status}")),
    }
    let spec = read_spec(&roots.container(id))?;
    if let Some(process) = &wanted.base {
        validate::process(process)?;
        if process.terminal().unwrap_or(false) {
            return Err(Error::usage("config process.terminal", "exec without a shim has no terminal yet"));
        }
    }
    let mut plan = launch::plan_exec(&spec, wanted)?;
    plan.preserve(preserved);
    let gone = || not_running(&state);
    let init = open_init(&state)?.ok_or_else(gone)?;
    let cgroup = Cgroup::open(&state.cgroup_path)?.ok_or_else(gone)?;
    let execed = launch::exec(plan, init.as_fd(), &cgroup, inherited_stdio()?, None)?;
    let running = Running(execed.pidfd);
    let mut report = Vec::new();
    let read = File::from(execed.report).read_to_end(&mut report);
    let outcome = read
        .map_err(|error| Error::io("read the outcome of", "exec", &error))
        .and_then(|_| gate::outcome(&report))
        .and_then(|()| match pid_file {
            Some(file) => publish::bytes(file, execed.pid.to_string().as_bytes(), Durability::Atomic),
            None => Ok(()),
        });
    match outcome {
        Ok(()) => Ok(running),
        Err(error) => {
            // Nobody would know of it.
            running.signal(nix::libc::SIGKILL);
            running.wait()?;
            Err(error)
        }
    }
}

fn read_spec(paths: &ContainerPaths) -> Result<Spec> {
    let path = paths.spec();
    publish::read_json(&path)?.ok_or_else(|| Error::at("read", &path, rustix::io::Errno::NOENT))
}
