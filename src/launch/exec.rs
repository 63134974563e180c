//! A process that joins a running container.
//!
//! ```text
//!  shim: setns(init, pid) ▸ clone3(cgroup) ▸ setns(back)
//!          └─ child: undumpable ▸ setns(init, all others) ▸ identity ▸ which command ▸ execve
//! ```
//!
//! A pid namespace is entered by children only, hence the first step; everything else the child joins
//! by one call on init's pidfd, so that no other process's namespaces can be meant.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{LinuxNamespaceType, Spec, User};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{LinkNameSpaceType, ThreadNameSpaceType};
use rustix::thread::{move_into_link_name_space, move_into_thread_name_spaces};

use super::child::{assert_single_threaded, execute, take_stdio};
use super::credentials::{self, ProcessPlan};
use super::plan::Namespaces;
use super::userns::{self, Maps};
use super::{Stdio, command, gate};
use crate::cgroup::Cgroup;
use crate::error::{Error, Kind, Result};
use crate::sys::{Clone3, Cloned, clone};

/// What a process that joins is asked to be; the rest is as in the container's own process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// The command and its arguments; not empty.
    pub args: Vec<String>,
    /// `KEY=VALUE`, on top of the container's own environment.
    pub env: Vec<String>,
    /// The working directory; the container's own where absent.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`, by name or number; the container's own where absent.
    pub user: Option<String>,
}

/// Everything that a joining process will do. Made by [`plan_exec`].
#[derive(Debug)]
pub struct ExecPlan {
    process: ProcessPlan,
    /// The container has a pid namespace of its own.
    pid: bool,
    /// The maps of the container's user namespace, where it has one.
    userns: Option<Maps>,
    /// The other namespaces it does not share with the host.
    join: ThreadNameSpaceType,
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct Execed {
    /// Its pid on the host.
    pub pid: i32,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
    /// Read to its end and given to [`gate::outcome`](super::gate::outcome), it says whether the
    /// command was executed.
    pub report: OwnedFd,
}

/// The plan for `wanted` in the container that `spec` describes.
pub fn plan_exec(spec: &Spec, wanted: &Process) -> Result<ExecPlan> {
    let process = spec.process().as_ref().ok_or_else(|| Error::usage("process", "is missing"))?;
    let mut process = process.clone();
    let mut env = process.env().clone().unwrap_or_default();
    let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
    for entry in &wanted.env {
        env.retain(|old| name(old) != name(entry));
        env.push(entry.clone());
    }
    process.set_env(Some(env)).set_args(Some(wanted.args.clone()));
    if let Some(cwd) = &wanted.cwd {
        process.set_cwd(cwd.into());
    }
    if let Some(user) = &wanted.user {
        // Another user has other groups, and another home.
        let umask = process.user().umask();
        let mut named = User::default();
        named.set_username(Some(user.clone())).set_umask(umask);
        process.set_user(named);
    }
    let owned = Namespaces::of(spec)?.owned;
    let pid = Namespaces::flag(LinuxNamespaceType::Pid);
    Ok(ExecPlan {
        process: ProcessPlan::of(&process)?,
        pid: owned & pid != 0,
        userns: Maps::of(spec),
        join: ThreadNameSpaceType::from_bits_retain(owned & !pid),
    })
}

struct Child<'a> {
    plan: ExecPlan,
    stdio: Stdio,
    init: BorrowedFd<'a>,
    report: OwnedFd,
}

/// Starts the process of `plan` beside the init that `init` stands for. Returns at once: what came
/// of it is in [`Execed::report`].
pub fn exec(plan: ExecPlan, init: BorrowedFd<'_>, cgroup: &Cgroup, stdio: Stdio) -> Result<Execed> {
    assert_single_threaded()?;
    let (report, theirs) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Error::os("make a pipe", errno))?;
    if let Some(maps) = &plan.userns {
        userns::give_pipes(maps, &stdio)?;
    }
    let child = Child { plan, stdio, init, report: theirs };
    let Stdio { stdin, stdout, stderr } = &child.stdio;
    let keep = [stdin.as_fd(), stdout.as_fd(), stderr.as_fd(), init, child.report.as_fd()];
    let clone = Clone3 { namespaces: 0, cgroup: Some(cgroup.as_fd()), keep: &keep };
    let Cloned { pid, pidfd } = if child.plan.pid {
        in_pid_namespace(init, || clone.spawn(&child, main))?
    } else {
        clone.spawn(&child, main).map_err(|error| clone_error(&error))?
    };
    Ok(Execed { pid, pidfd, report })
}

/// Runs `spawn` while this process's children are born in the pid namespace of `init`.
fn in_pid_namespace(init: BorrowedFd<'_>, spawn: impl FnOnce() -> std::io::Result<Cloned>) -> Result<Cloned> {
    let failed = |errno| match errno {
        Errno::SRCH => not_running(),
        errno => Error::os("enter the container's pid namespace", errno),
    };
    let ours = rustix::fs::open(c"/proc/self/ns/pid", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::at("open", "/proc/self/ns/pid", errno))?;
    move_into_thread_name_spaces(init, ThreadNameSpaceType::PROCESS_ID).map_err(failed)?;
    let spawned = spawn();
    move_into_link_name_space(ours.as_fd(), Some(LinkNameSpaceType::ProcessID)).map_err(failed)?;
    spawned.map_err(|error| clone_error(&error))
}

fn clone_error(error: &std::io::Error) -> Error {
    match Errno::from_io_error(error) {
        // The init of the pid namespace is gone (ENOMEM is how the kernel says that), or the
        // cgroup is (ENODEV).
        Some(Errno::NOMEM | Errno::SRCH | Errno::NODEV) => not_running(),
        _ => Error::io("start a process in", "the container", error),
    }
}

fn not_running() -> Error {
    Error::new(Kind::WrongState, "exec", "container not running")
}

fn main(child: &Child<'_>) -> ! {
    let error = match join(child) {
        Ok(error) | Err(error) => error,
    };
    gate::report(&child.report, &error);
    clone::exit(credentials::failure_status(&error))
}

/// Joins and becomes the command; comes back only with the reason why not.
fn join(child: &Child<'_>) -> Result<Error> {
    let mut process = child.plan.process.clone();
    take_stdio(&child.stdio)?;
    credentials::new_session()?;
    credentials::hide_from_tracers()?;
    credentials::set_oom_score(process.oom_score_adj)?;
    move_into_thread_name_spaces(child.init, child.plan.join).map_err(|errno| match errno {
        Errno::SRCH => not_running(),
        errno => Error::os("join the container's namespaces", errno),
    })?;
    // Joining a mount namespace leaves this process at its root.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).map_err(|errno| Error::at("open", "/", errno))?;
    credentials::assume(&mut process, &root)?;
    let file = command::find(&process.args[0], process.path())?;
    Ok(execute(&process, &file))
}
