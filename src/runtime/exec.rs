//! A process that joins a container without a shim: this command is its parent.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Process as OciProcess;
use rustix::process::{Rlimit, WaitId, WaitIdOptions, waitid};

use super::console::Console;
use super::create::inherited_stdio;
use super::{not_running, open_init};
use crate::cgroup::Cgroup;
use crate::error::{Error, Kind, Result};
use crate::events::{What, emit};
use crate::launch::{self, Process, Stdio, gate};
use crate::paths::{ContainerId, Roots};
use crate::spec::terminal::WindowSize;
use crate::spec::validate;
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

/// What goes with a process.
#[derive(Debug, Default)]
pub struct Beside<'a> {
    /// Its descriptors from 3 on.
    pub preserved: Vec<OwnedFd>,
    /// What will have its pid on the host.
    pub pid_file: Option<&'a Path>,
    /// Who receives the master of its terminal: needed with one, and of no use without.
    pub console_socket: Option<&'a Path>,
    /// What limits its stack where nothing else does.
    pub stack: Option<Rlimit>,
}

/// Runs `wanted` inside container `id`, on a terminal or on this command's own standard input and
/// output. Returns once it was executed and all that goes with it is where it belongs.
pub fn exec(roots: &Roots, id: &ContainerId, wanted: &Process, beside: Beside<'_>) -> Result<Running> {
    let state = store::view(roots, id)?.state;
    let refused = |why: String| Err(Error::new(Kind::WrongState, format!("exec in {id}"), why));
    match state.status {
        Status::Running | Status::Created => {}
        // What is born in a frozen cgroup never comes to `execve`.
        Status::Paused => return refused("container is paused".to_owned()),
        status => return refused(format!("container not running: it is {status}")),
    }
    let spec = store::spec(&roots.container(id))?;
    if let Some(process) = &wanted.base {
        validate::process(process)?;
    }
    let of_base = |process: &OciProcess| process.terminal().unwrap_or(false);
    let terminal = wanted.terminal || wanted.base.as_ref().is_some_and(of_base);
    let console = Console::matching(terminal, beside.console_socket)?;
    let stdio = match terminal {
        true => Stdio::Terminal { size: wanted.base.as_ref().and_then(WindowSize::of) },
        false => inherited_stdio()?,
    };
    let mut plan = launch::plan_exec(&spec, wanted)?;
    plan.tell_container(&state);
    plan.preserve(beside.preserved);
    plan.limit_stack(beside.stack);
    let gone = || not_running(&state);
    let init = open_init(&state)?.ok_or_else(gone)?;
    let cgroup = Cgroup::open(&state.cgroup_path)?;
    if cgroup.is_none() && state.has_cgroup() {
        return Err(gone());
    }
    if cgroup.as_ref().is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false)) {
        return refused("container is paused".to_owned());
    }
    let execed = launch::exec(plan, init.as_fd(), cgroup.as_ref(), stdio, None)?;
    let (pid, running) = (execed.pid, Running(execed.pidfd));
    let outcome = gate::read_report(&execed.report, execed.pid)
        .and_then(|(report, fds)| gate::outcome(&report).map(|()| gate::terminal(fds)))
        .and_then(|terminal| match (console, terminal) {
            (Some(console), Some(terminal)) => console.send(&terminal.master),
            _ => Ok(()),
        })
        .and_then(|()| match beside.pid_file {
            Some(file) => publish::bytes(file, execed.pid.to_string().as_bytes(), Durability::Atomic),
            None => Ok(()),
        });
    match outcome {
        Ok(()) => {
            let of_base = || wanted.base.as_ref().and_then(|base| base.args().clone()).unwrap_or_default();
            let args = if wanted.args.is_empty() { of_base() } else { wanted.args.clone() };
            emit(roots, id, What::Exec { pid, command: args.join(" ") });
            Ok(running)
        }
        Err(error) => {
            // Nobody would know of it.
            running.signal(nix::libc::SIGKILL);
            running.wait()?;
            Err(error)
        }
    }
}
