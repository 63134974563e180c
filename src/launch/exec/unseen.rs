//! A process that joins a container whose own processes may trace (CAP_SYS_PTRACE): not even that it is not
//! dumpable keeps them from it (CVE-2016-9962). So it becomes who it will be where nobody inside can see it:
//!
//! ```text
//!  shim ──clone3(cgroup)──▶ usher: setns(init) ▸ identity ▸ filter ──clone(PARENT)──▶ child: execve
//! ```
//!
//! The usher is in the container's cgroup, but not in its pid namespace. What is born there has no right and
//! no descriptor that its command will not have.

use std::ffi::CString;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::thread::ThreadNameSpaceType;

use super::{Child, Usher, join_namespaces};
use crate::error::{Error, Result};
use crate::launch::child::{become_command, close_all, take_stdio, take_terminal};
use crate::launch::credentials::{self, ProcessPlan};
use crate::launch::scheduling::Cpus;
use crate::launch::{Stdio, command, gate, terminal, userns, usher};
use crate::sys::{clone, fd};

/// All that is left to the child.
struct Ready<'a> {
    child: &'a Child<'a>,
    process: &'a ProcessPlan,
    file: &'a CString,
}

/// The usher's whole life.
pub(super) fn prepare(usher: &Usher<'_>) -> ! {
    usher::answer(usher.answer, make(usher.child, usher.answer))
}

fn make(child: &Child<'_>, answer: &OwnedFd) -> Result<i32> {
    let mut process = child.plan.process.clone();
    credentials::hide_from_tracers()?;
    credentials::set_oom_score(process.oom_score_adj)?;
    process.scheduling.affinity.initial.map_or(Ok(()), Cpus::apply)?;
    credentials::new_keyring()?;
    // Before the container's root is: no descriptor is opened by a name of the container's.
    take_stdio(&child.stdio, &child.report)?;
    join_namespaces(child.init, child.plan.join | ThreadNameSpaceType::PROCESS_ID)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).map_err(|errno| Error::at("open", "/", errno))?;
    if let Stdio::Terminal { size } = child.stdio {
        // A terminal belongs to who opens it, and has to belong to somebody whom the namespace knows.
        if child.plan.join.contains(ThreadNameSpaceType::USER) {
            userns::become_root()?;
        }
        gate::opened(&child.report, take_terminal(&root, &process, size, false)?)?;
    }
    let proc = process.labels.prepare()?;
    process.scheduling.affinity.last.map_or(Ok(()), Cpus::apply)?;
    credentials::assume(&mut process, &root)?;
    let file = command::find(&process.args[0], process.path())?;
    // It is the child's as well.
    proc.as_ref().map_or(Ok(()), |proc| process.labels.write(proc))?;
    drop((root, proc));
    // What the child has of the shim until it executes is where it reports, and nothing else.
    let stdio = [rustix::stdio::stdin(), rustix::stdio::stdout(), rustix::stdio::stderr()];
    let witness = child.witness.as_ref().map(AsFd::as_fd);
    let preserved = child.plan.preserved.iter().map(AsFd::as_fd);
    let reports = [child.report.as_fd(), answer.as_fd()];
    let keep: Vec<_> = stdio.into_iter().chain(reports).chain(witness).chain(preserved).collect();
    fd::close_all_but(&keep).map_err(|error| Error::io("close descriptors of", "podrun", &error))?;
    close_all(&process)?;
    credentials::filter_and_put_down(&process)?;
    let ready = Ready { child, process: &process, file: &file };
    clone::fork_sibling(&ready, execute).map_err(|error| super::clone_error(&error))
}

/// The child's whole life.
fn execute(ready: &Ready<'_>) -> ! {
    ready.child.tell_witness();
    let error = match session(ready.child) {
        Ok(()) => become_command(ready.process, ready.file),
        Err(error) => error,
    };
    gate::report(&ready.child.report, &error);
    clone::exit(credentials::failure_status(&error))
}

fn session(child: &Child<'_>) -> Result<()> {
    credentials::new_session()?;
    match child.stdio {
        Stdio::Terminal { .. } => terminal::control(),
        Stdio::Files(_) => Ok(()),
    }
}
