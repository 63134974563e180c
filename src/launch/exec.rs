//! A process that joins a running container.
//!
//! ```text
//!  shim ──clone3──▶ usher: setns(init) ──clone3(PARENT, cgroup)──▶ child: identity ▸ which command ▸ execve
//!   │  ◀── its pid ────┘ exits                                        │
//!   └──────────────────────────── a child of the shim ────────────────┘
//! ```
//!
//! All namespaces are joined by calls on init's pidfd, so that no other process's can be meant. A pid
//! namespace is entered by children only: whoever made its child there directly would show it to the
//! container while it still has the host's root and everything the shim has open, and CAP_SYS_PTRACE
//! inside would be enough to take both (CVE-2016-9962). So an usher goes first, whom nobody inside can see;
//! and where somebody inside may have CAP_SYS_PTRACE, it leaves nothing to the child but to execute: see
//! `unseen`.

mod unseen;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::{Capability, LinuxNamespaceType, Process as OciProcess, Spec, User};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::Rlimit;
use rustix::thread::{CapabilitySet, ThreadNameSpaceType, move_into_thread_name_spaces};

use super::child::{assert_single_threaded, execute, take_stdio, take_terminal};
use super::credentials::{self, CapabilityPlan, ProcessPlan};
use super::plan::Namespaces;
use super::scheduling::Cpus;
use super::seccomp::{Notify, Wanted};
use super::userns::{self, Maps};
use super::{Stdio, command, gate, usher};
use crate::cgroup::Cgroup;
use crate::cgroup::v1::Entrance;
use crate::error::{Error, Kind, Result};
use crate::spec::settings::Settings;
use crate::spec::walls;
use crate::state::State;
use crate::sys::spawn::aside;
use crate::sys::{Clone3, Cloned, clone, fd, process, program};

/// What a process that joins is asked to be; the rest is as in [`base`](Self::base).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// What it is otherwise; the container's own process where absent.
    pub base: Option<OciProcess>,
    /// The command and its arguments; those of [`base`](Self::base) where empty.
    pub args: Vec<String>,
    /// `KEY=VALUE`, on top of the container's own environment.
    pub env: Vec<String>,
    /// The working directory; the container's own where absent.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`, by name or number; the container's own where absent.
    pub user: Option<String>,
    /// Capabilities beyond its own.
    pub capabilities: Vec<Capability>,
    /// Every capability, and neither filter nor AppArmor profile. The container's namespaces, mounts and
    /// devices stay what they are.
    pub privileged: bool,
    /// It has a terminal, and so needs a TERM.
    pub terminal: bool,
}

impl Process {
    /// The whole process, in the container that `spec` describes.
    fn complete(&self, spec: &Spec) -> Result<OciProcess> {
        let own = self.base.as_ref().or(spec.process().as_ref());
        let mut process = own.ok_or_else(|| Error::usage("process", "is missing"))?.clone();
        let mut env = process.env().clone().unwrap_or_default();
        let name = |entry: &str| entry.split('=').next().unwrap_or_default().to_owned();
        for entry in &self.env {
            env.retain(|old| name(old) != name(entry));
            env.push(entry.clone());
        }
        if self.terminal && !env.iter().any(|entry| name(entry) == "TERM") {
            env.push(crate::spec::TERM.to_owned());
        }
        process.set_env(Some(env));
        if !self.args.is_empty() {
            process.set_args(Some(self.args.clone()));
        }
        if let Some(cwd) = &self.cwd {
            process.set_cwd(cwd.into());
        }
        if let Some(user) = &self.user {
            // Another user has other groups, and another home.
            let umask = process.user().umask();
            let mut named = User::default();
            named.set_username(Some(user.clone())).set_umask(umask);
            process.set_user(named);
        }
        if self.privileged {
            process.set_capabilities(Some(walls::every_capability()));
            process.set_no_new_privileges(Some(false)).set_apparmor_profile(None);
        } else if !self.capabilities.is_empty() {
            let mut sets = process.capabilities().clone().unwrap_or_default();
            let more =
                |set: &Option<_>| Some(set.iter().flatten().chain(&self.capabilities).copied().collect());
            sets.set_bounding(more(sets.bounding()));
            sets.set_permitted(more(sets.permitted()));
            sets.set_effective(more(sets.effective()));
            process.set_capabilities(Some(sets));
        }
        Ok(process)
    }
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
    preserved: Vec<OwnedFd>,
    /// It must not be seen before it is what it will be.
    unseen: bool,
}

impl ExecPlan {
    /// The process also gets `fds`, which are this process's own 3, 4 and so on, at those numbers.
    pub fn preserve(&mut self, fds: Vec<OwnedFd>) {
        self.process.preserved = fds.len();
        self.preserved = fds;
    }

    /// The container that it joins, for those who are told of its processes.
    pub fn tell_container(&mut self, state: &State) {
        if let Some(notify) = &mut self.process.notify {
            notify.tell_container(&state.id, &state.bundle, state.init.map(|init| init.pid));
        }
    }

    /// Limits the process's stack, unless the process names a limit of its own.
    pub fn limit_stack(&mut self, limit: Option<Rlimit>) {
        self.process.limit_stack(limit);
    }
}

/// A process that was started in a container.
#[derive(Debug)]
pub struct Execed {
    /// Its pid on the host.
    pub pid: i32,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
    /// Read to its end and given to [`gate::outcome`](super::gate::outcome), it says whether the
    /// command was executed. A socket: its terminal is beside the first byte, for
    /// [`gate::terminal`](super::gate::terminal).
    pub report: OwnedFd,
}

/// The plan for `wanted` in the container that `spec` describes.
pub fn plan_exec(spec: &Spec, wanted: &Process) -> Result<ExecPlan> {
    let process = wanted.complete(spec)?;
    let namespaces = Namespaces::of(spec)?;
    let owned = namespaces.owned;
    let pid = Namespaces::flag(LinuxNamespaceType::Pid);
    let mut process = ProcessPlan::of(&process, spec, &Settings::of(spec)?)?;
    if wanted.privileged {
        (process.wanted_filter, process.notify) = (None, None);
    }
    process.filter = process.wanted_filter.as_ref().map_or(Ok(None), Wanted::own)?;
    let theirs = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let theirs = theirs.map(CapabilityPlan::of).map(|plan| plan.bounding);
    // Who has CAP_SYS_ADMIN as well gains nothing by tracing. In a pid namespace of others there may be anybody.
    let may_trace = theirs.is_some_and(|theirs| {
        theirs.contains(CapabilitySet::SYS_PTRACE) && !theirs.contains(CapabilitySet::SYS_ADMIN)
    });
    // A user namespace's capabilities are none over a process that was not executed in it.
    let is_hosts = owned & Namespaces::flag(LinuxNamespaceType::User) == 0;
    let unseen = owned & pid != 0 && (is_hosts && may_trace || namespaces.pid.is_some());
    if unseen && process.notify.is_some() {
        // It is filtered before it has its number.
        let why = match namespaces.pid {
            Some(_) => "SCMP_ACT_NOTIFY cannot be had in a pid namespace of others, who may trace",
            None => {
                "SCMP_ACT_NOTIFY cannot be had where processes of the container may trace (CAP_SYS_PTRACE)"
            }
        };
        return Err(Error::usage("exec", why));
    }
    Ok(ExecPlan {
        unseen,
        process,
        pid: owned & pid != 0,
        userns: Maps::of(spec),
        join: ThreadNameSpaceType::from_bits_retain(owned & !pid),
        preserved: Vec::new(),
    })
}

struct Child<'a> {
    plan: ExecPlan,
    stdio: Stdio,
    init: BorrowedFd<'a>,
    report: OwnedFd,
    witness: Option<OwnedFd>,
    /// What it has to enter, being born in the cgroup alone.
    entrances: Vec<Entrance>,
}

/// Starts the process of `plan` beside the init that `init` stands for. Returns at once: what came
/// of it is in [`Execed::report`].
///
/// Over the socket `witness` the process itself tells that there is one, before all else.
pub fn exec(
    mut plan: ExecPlan,
    init: BorrowedFd<'_>,
    cgroup: Option<&Cgroup>,
    stdio: Stdio,
    witness: Option<OwnedFd>,
) -> Result<Execed> {
    assert_single_threaded()?;
    plan.process.connect_listener()?;
    let (report, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::os("make a socket pair", errno))?;
    if let Some(maps) = &plan.userns {
        userns::give_pipes(maps, &stdio)?;
    }
    let entrances = cgroup.map(Cgroup::entrances).transpose()?.unwrap_or_default();
    let stdio = stdio.shielded()?;
    program::know_own();
    // The child has for a moment what its maker has. Of the cgroup that is a view without a way up.
    let view = cgroup.map(Cgroup::view).transpose()?;
    let mut child = Child { plan, stdio, init, report: theirs, witness, entrances };
    let made = child.make(view);
    // Where its first thread has ended, another one stands for a process that lives.
    let thread = match &made {
        Err(error) if error.kind == Kind::WrongState => process::another_thread(init),
        _ => None,
    };
    let Cloned { pid, pidfd } = match &thread {
        Some(thread) => {
            child.init = thread.as_fd();
            child.make(view)?
        }
        None => made?,
    };
    if child.plan.process.notify.is_some() {
        // It has no other way to learn its number here. Where it is gone already, its report says why.
        let _ = rustix::net::send(&report, &pid.to_ne_bytes(), rustix::net::SendFlags::NOSIGNAL);
    }
    tracing::debug!("process {pid} joins the container");
    Ok(Execed { pid, pidfd, report })
}

/// What an usher has of the shim.
struct Usher<'a> {
    child: &'a Child<'a>,
    clone: &'a Clone3<'a>,
    answer: &'a OwnedFd,
}

/// Makes the child by way of an usher, who is gone when this returns. Both are quick: nothing that the
/// container decides can hold them up.
fn usher(child: &Child<'_>, clone: &Clone3<'_>) -> Result<Cloned> {
    // A time namespace is joined by whoever shares its memory with nobody.
    if !child.plan.unseen && !child.plan.join.contains(ThreadNameSpaceType::TIME) {
        let mut show = Show { child, clone, made: None };
        aside(&mut show, |show| show.made = Some(show_in(show.child, show.clone, None)))
            .map_err(|error| clone_error(&error))?;
        return usher::child(show.made.unwrap_or_else(|| Err(not_running()))?);
    }
    let (answer, theirs) = usher::channel()?;
    let mut keep = clone.keep.to_vec();
    keep.extend(clone.cgroup);
    keep.push(theirs.as_fd());
    let usher = Usher { child, clone, answer: &theirs };
    let made = match child.plan.unseen {
        true => Clone3 { namespaces: 0, cgroup: clone.cgroup, keep: &keep }.spawn(&usher, unseen::prepare),
        false => Clone3 { namespaces: 0, cgroup: None, keep: &keep }.spawn(&usher, show),
    };
    usher::outcome(&made.map_err(|error| clone_error(&error))?, &answer, "exec")
}

/// An usher in the shim's own memory, and what it has made.
struct Show<'a> {
    child: &'a Child<'a>,
    clone: &'a Clone3<'a>,
    made: Option<Result<i32>>,
}

/// The namespaces that the child itself joins: cloning into a cgroup is a matter of where the cloning process
/// stands in both.
const BY_CHILD: ThreadNameSpaceType = ThreadNameSpaceType::CONTROL_GROUP.union(ThreadNameSpaceType::USER);

/// The whole life of an usher with memory of its own.
fn show(usher: &Usher<'_>) -> ! {
    usher::answer(usher.answer, show_in(usher.child, usher.clone, Some(usher.answer.as_fd())))
}

/// Usher: makes the child where it belongs. Its pid.
fn show_in(child: &Child<'_>, clone: &Clone3<'_>, answer: Option<BorrowedFd<'_>>) -> Result<i32> {
    credentials::set_oom_score(child.plan.process.oom_score_adj)?;
    // The child begins in the container's cgroup: its first CPUs are those of its maker.
    child.plan.process.scheduling.affinity.initial.map_or(Ok(()), Cpus::apply)?;
    let mut join = child.plan.join.difference(BY_CHILD);
    join.set(ThreadNameSpaceType::PROCESS_ID, child.plan.pid);
    let keep: Vec<BorrowedFd<'_>> = clone.keep.iter().copied().chain(clone.cgroup).chain(answer).collect();
    fd::close_all_but(&keep).map_err(|error| clone_error(&error))?;
    join_namespaces(child.init, join)?;
    let made = clone.spawn_sibling(child, main).map_err(|error| clone_error(&error))?;
    Ok(made.pid)
}

fn join_namespaces(init: BorrowedFd<'_>, which: ThreadNameSpaceType) -> Result<()> {
    if which.is_empty() {
        return Ok(());
    }
    move_into_thread_name_spaces(init, which).map_err(|errno| match errno {
        Errno::SRCH => not_running(),
        errno => Error::os("join the container's namespaces", errno),
    })
}

fn clone_error(error: &std::io::Error) -> Error {
    match Errno::from_io_error(error) {
        // The init of the pid namespace is gone (ENOMEM is how the kernel says that), or the
        // cgroup is (ENODEV).
        Some(Errno::NOMEM | Errno::SRCH | Errno::NODEV) => not_running(),
        Some(errno @ Errno::AGAIN) => Error::os("start a process in the container", errno)
            .hint("it has as many processes as its limit allows: `podrun update ID --pids-limit COUNT`"),
        _ => Error::io("start a process in", "the container", error),
    }
}

fn not_running() -> Error {
    Error::new(Kind::WrongState, "exec", "container not running")
}

impl Child<'_> {
    /// Makes it, in the cgroup of `view`.
    fn make(&self, view: Option<BorrowedFd<'_>>) -> Result<Cloned> {
        let fixed = [self.init, self.report.as_fd()];
        let witness = self.witness.as_ref().map(AsFd::as_fd);
        let others =
            self.plan.preserved.iter().map(AsFd::as_fd).chain(self.entrances.iter().map(AsFd::as_fd));
        let notify = self.plan.process.notify.as_ref().and_then(Notify::fd);
        let others = others.chain(notify);
        let keep: Vec<BorrowedFd<'_>> = self.stdio.fds().chain(fixed).chain(witness).chain(others).collect();
        usher(self, &Clone3 { namespaces: 0, cgroup: view, keep: &keep })
    }

    /// Tells that there is one.
    fn tell_witness(&self) {
        if let Some(witness) = &self.witness {
            // Nobody may be there to see it any more.
            let _ = rustix::net::send(witness, b"I", rustix::net::SendFlags::NOSIGNAL);
        }
    }
}

fn main(child: &Child<'_>) -> ! {
    child.tell_witness();
    let error = match join(child) {
        Ok(error) | Err(error) => error,
    };
    gate::report(&child.report, &error);
    // Where the shim is gone, the client finds it here.
    child.witness.iter().for_each(|witness| gate::report(witness, &error));
    clone::exit(credentials::failure_status(&error))
}

/// What its maker says is its pid on the host.
fn told_number(report: &OwnedFd) -> Result<i32> {
    let mut number = [0; 4];
    let (read, _) = rustix::net::recv(report, &mut number, rustix::net::RecvFlags::WAITALL)
        .map_err(|errno| Error::os("receive this process's number", errno))?;
    match read {
        4 => Ok(i32::from_ne_bytes(number)),
        // Nobody is left to whom anything could be told.
        _ => clone::exit(0),
    }
}

/// Joins and becomes the command; comes back only with the reason why not.
fn join(child: &Child<'_>) -> Result<Error> {
    let mut process = child.plan.process.clone();
    child.entrances.iter().try_for_each(Entrance::enter)?;
    take_stdio(&child.stdio, &child.report)?;
    if let Some(notify) = &mut process.notify {
        notify.prepare(told_number(&child.report)?)?;
    }
    credentials::new_session()?;
    credentials::hide_from_tracers()?;
    credentials::new_keyring()?;
    join_namespaces(child.init, child.plan.join.intersection(BY_CHILD))?;
    // Joining a mount namespace leaves this process at its root.
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(c"/", flags, Mode::empty()).map_err(|errno| Error::at("open", "/", errno))?;
    if let Stdio::Terminal { size } = child.stdio {
        // A terminal belongs to who opens it, and has to belong to somebody whom the namespace knows.
        if child.plan.join.contains(ThreadNameSpaceType::USER) {
            userns::become_root()?;
        }
        gate::opened(&child.report, take_terminal(&root, &process, size, true)?)?;
    }
    let proc = process.labels.prepare()?;
    process.scheduling.affinity.last.map_or(Ok(()), Cpus::apply)?;
    credentials::assume(&mut process, &root)?;
    let file = command::find(&process.args[0], process.path())?;
    Ok(execute(&process, &file, proc.as_ref()))
}
