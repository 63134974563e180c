//! Init: made by [`create`], built by itself, then waiting, then the container's command.

use std::ffi::CString;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::sched::CloneFlags;
use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{WaitId, WaitIdOptions, waitid};

use super::credentials::{self, ProcessPlan};
use super::gate::{self, Gate};
use super::hooks::Hooks;
use super::net_devices::Waiting;
use super::plan::Plan;
use super::seccomp::{Notify, Wanted};
use super::{
    Init, Stdio, Terminal, command, dev, identity, init, join, masks, mounts, net_devices, network, rootfs,
    sources, terminal, time, userns,
};
use crate::cgroup::Cgroup;
use crate::cgroup::v1::Entrance;
use crate::error::{Error, Result};
use crate::spec::terminal::WindowSize;
use crate::sys::mount::{MountAttr, RDONLY};
use crate::sys::{Clone3, clone, fd, is_single_threaded, mount_setattr, signal};

/// What the child has of its parent: the plan, and the only descriptors it keeps.
struct Child {
    plan: Plan,
    stdio: Stdio,
    gate: OwnedFd,
    listener: Option<OwnedFd>,
    ending: Option<OwnedFd>,
    maps: sources::OwnMaps,
    /// Where it hears that its user namespace has its maps.
    mapped: Option<OwnedFd>,
    /// What it has to enter, being born in the cgroup alone.
    entrances: Vec<Entrance>,
}

/// Makes the container of `plan` in `cgroup`, or in this process's own, and returns once its init waits to be
/// released. On failure nothing is left of it.
pub fn create(mut plan: Plan, cgroup: Option<&Cgroup>, stdio: Stdio, gate: Gate) -> Result<Init> {
    assert_single_threaded()?;
    plan.process.connect_listener()?;
    let devices = Waiting::find(&plan)?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::os("make the launch gate", errno))?;
    let (ending, theirs_ending) = match plan.init {
        true => {
            let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .map_err(|errno| Error::os("make a pipe", errno))?;
            (Some(read), Some(write))
        }
        false => (None, None),
    };
    let listener = match gate {
        Gate::Socketpair => None,
        Gate::Listen(listener) => Some(listener),
    };
    let supervised = listener.is_none();
    let maps = sources::own_maps(&plan)?;
    let (mapped, tell) = match plan.userns {
        Some(_) => {
            let pipe = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC);
            let (mapped, tell) = pipe.map_err(|errno| Error::os("make a pipe", errno))?;
            (Some(mapped), Some(tell))
        }
        None => (None, None),
    };
    let entrances = cgroup.map(Cgroup::entrances).transpose()?.unwrap_or_default();
    let stdio = stdio.shielded()?;
    let child = Child { plan, stdio, gate: theirs, listener, ending: theirs_ending, maps, mapped, entrances };
    let mut keep: Vec<BorrowedFd<'_>> = child.stdio.fds().collect();
    keep.push(child.gate.as_fd());
    keep.extend(
        child
            .listener
            .iter()
            .chain(&child.ending)
            .chain(&child.mapped)
            .chain(&child.plan.preserved)
            .map(AsFd::as_fd),
    );
    keep.extend(child.plan.process.notify.as_ref().and_then(Notify::fd));
    keep.extend(child.maps.iter().flatten().map(AsFd::as_fd));
    keep.extend(child.entrances.iter().map(AsFd::as_fd));
    let clone =
        Clone3 { namespaces: child.plan.namespaces.new, cgroup: cgroup.map(AsFd::as_fd), keep: &keep };
    let spawn = || clone.spawn(&child, main);
    let init = match (&child.plan.userns, child.plan.namespaces.pid.as_deref()) {
        (Some(own), _) => userns::by_builder(&child.plan, &child.maps, own, &clone, &child, main)?,
        (None, Some(path)) => join::in_pid_namespace(path, spawn)?,
        (None, None) => spawn().map_err(|error| {
            let place = cgroup.map_or(Path::new("podrun's own cgroup"), Cgroup::path);
            Error::io("start init in", place, &error)
        })?,
    };
    tracing::debug!("init is process {}, which builds the container", init.pid);
    let mapped = match (&child.plan.userns, tell) {
        (Some(own), Some(tell)) => userns::map(&init, own, &child.plan, &child.stdio, &tell),
        _ => Ok(()),
    };
    // While the child builds: the kernel takes its time (0.1 to 0.5 ms) to look at a program, and nothing of
    // the container runs before it is built.
    let resources = child.plan.resources.as_ref();
    let restricted = cgroup.map_or(Ok(()), |cgroup| cgroup.restrict_devices(resources));
    // The child's ends: with them open here, its end would not be an end of file.
    let work = child.plan.waits_for_parent().then(|| (devices, child.plan.hooks.clone()));
    drop(child);
    let built = mapped.and(restricted).and_then(|()| attend(&ours, work, init.pid));
    let terminal = built.inspect_err(|_| {
        let _ = signal::send(&init.pidfd, nix::libc::SIGKILL);
        let _ = waitid(WaitId::PidFd(init.pidfd.as_fd()), WaitIdOptions::EXITED);
    })?;
    tracing::debug!("the container is built: init {} waits at its gate", init.pid);
    Ok(Init { pid: init.pid, pidfd: init.pidfd, gate: supervised.then_some(ours), ending, terminal })
}

/// Does the parent's part while init, process `pid`, is built.
fn attend(gate: &OwnedFd, work: Option<(Option<Waiting>, Hooks)>, pid: i32) -> Result<Option<Terminal>> {
    let Some((devices, hooks)) = work else { return gate::wait_until_built(gate, pid) };
    let there = gate::wait_until_isolated(gate, pid)?;
    // Before the hooks, which may be there to set up what else the network needs.
    let moved = match (devices, there) {
        (Some(devices), Some(there)) => Some(devices.move_to(pid, there)?),
        (Some(_), None) => return Err(Error::failed("receive a netlink socket of init's", "there is none")),
        (None, _) => None,
    };
    hooks.create_runtime(pid)?;
    gate::go(gate)?;
    let terminal = gate::wait_until_built(gate, pid)?;
    if let Some(moved) = moved {
        moved.keep();
    }
    Ok(terminal)
}

/// A child of a process with threads may wait for ever for a lock that another thread held.
pub(super) fn assert_single_threaded() -> Result<()> {
    match is_single_threaded() {
        Ok(true) => Ok(()),
        Ok(false) => Err(Error::failed("clone", "this process has more than one thread")),
        Err(error) => Err(Error::io("read", "/proc/self/task", &error)),
    }
}

/// The child's whole life.
fn main(child: &Child) -> ! {
    let mut process = child.plan.process.clone();
    let built = build(child, &mut process).and_then(|(file, proc, terminal)| {
        let proc = if is_watched(child) { put_down(&mut process, proc)? } else { proc };
        Ok((file, proc, wait(child, terminal)?))
    });
    let (error, connection) = match built {
        Ok((file, proc, connection)) => {
            let gate = connection.as_ref().unwrap_or(&child.gate).as_fd();
            let proc = proc.as_ref();
            let error = match (child.plan.hooks.start_container(), &child.ending) {
                (Err(error), _) => error,
                (Ok(()), None) => execute(&process, &file, proc),
                (Ok(()), Some(ending)) => {
                    let terminal = has_terminal(child);
                    let command = init::Command { process: &process, file: &file, proc, gate, terminal };
                    init::run(&command, ending.as_fd())
                }
            };
            (error, connection)
        }
        Err(error) => (error, None),
    };
    gate::report(connection.as_ref().unwrap_or(&child.gate), &error);
    clone::exit(credentials::failure_status(&error))
}

/// Whether it waits where others, whom nobody knows, may see and trace it: in a pid namespace of theirs. What comes
/// between the wait and `execve` must then be no more than podrun's own filter lets through.
fn is_watched(child: &Child) -> bool {
    let own = !matches!(child.plan.process.wanted_filter, Some(Wanted::Configured(_)));
    child.plan.namespaces.pid.is_some()
        && own
        && child.ending.is_none()
        && child.plan.hooks.start_container.is_empty()
}

/// Does before the wait what else is done after it: whoever traces this process from now on gets what the command
/// will have, and no more.
///
/// What remains is the time until then, a few milliseconds: a process that is born in the namespace has to mount
/// its procfs, which takes CAP_SYS_ADMIN, and one with CAP_SYS_PTRACE there may trace it while it has that. Only
/// those who are trusted with the host should have CAP_SYS_PTRACE in a pid namespace that others join.
fn put_down(process: &mut ProcessPlan, proc: Option<OwnedFd>) -> Result<Option<OwnedFd>> {
    if let Some(proc) = &proc {
        process.labels.write(proc)?;
    }
    credentials::filter_and_put_down(process)?;
    process.filter = None;
    Ok(None)
}

fn has_terminal(child: &Child) -> bool {
    matches!(child.stdio, Stdio::Terminal { .. })
}

/// Waits to be released; with a listener, returns the connection over which that happened.
fn wait(child: &Child, terminal: Option<Terminal>) -> Result<Option<OwnedFd>> {
    gate::built(&child.gate, terminal)?;
    match &child.listener {
        Some(listener) => gate::accept_go(listener).map(Some),
        None if gate::wait_for_go(child.gate.as_fd())? => Ok(None),
        // Nobody is left who could ever release it.
        None => clone::exit(0),
    }
}

/// What a built container has for its last steps: the command's file, what [`execute`] needs for
/// labels, and the terminal whose master is to be handed on.
type Ready = (CString, Option<OwnedFd>, Option<Terminal>);

/// This process's pid, as the procfs at `/proc` has it.
fn number_on_the_host() -> Result<i32> {
    let failed = |errno| Error::at("read", "/proc/self", errno);
    let link = rustix::fs::readlink(c"/proc/self", Vec::new()).map_err(failed)?;
    link.to_str().ok().and_then(|number| number.parse().ok()).ok_or_else(|| failed(rustix::io::Errno::INVAL))
}

/// Builds everything up to the command.
fn build(child: &Child, process: &mut ProcessPlan) -> Result<Ready> {
    let plan = &child.plan;
    // Before all else: what it uses is counted, and a cgroup namespace begins here.
    child.entrances.iter().try_for_each(Entrance::enter)?;
    take_stdio(&child.stdio, &child.gate)?;
    if let Some(notify) = &mut process.notify {
        // The host's procfs is still here: to it this process has the host's number.
        notify.prepare(number_on_the_host()?)?;
    }
    credentials::new_session()?;
    credentials::hide_from_tracers()?;
    if !plan.no_new_keyring {
        credentials::new_keyring()?;
    }
    credentials::set_oom_score(process.oom_score_adj)?;
    rustix::process::umask(Mode::empty());
    namespaces(plan)?;
    let (root, sources) = match &child.mapped {
        None => {
            let sources = sources::open(plan, &child.maps, None)?;
            (rootfs::build(plan, None)?, sources)
        }
        Some(mapped) => {
            if !userns::wait_until_mapped(mapped) {
                // Nobody is left to whom anything could be told.
                clone::exit(0);
            }
            let (root, sources) = sources::take(plan)?;
            userns::become_root()?;
            rootfs::cover(&root)?;
            (root, sources)
        }
    };
    for (mount, source) in plan.mounts.iter().zip(sources) {
        mounts::perform(&root, mount, source)?;
    }
    dev::fill(&root, plan)?;
    let terminal = match child.stdio {
        Stdio::Files(_) => None,
        Stdio::Terminal { size } => Some(take_terminal(&root, process, size, !plan.init)?),
    };
    if let Some(terminal) = &terminal {
        terminal::bind_console(&root, &terminal.slave)?;
    }
    if plan.waits_for_parent() {
        let devices = !plan.net_devices.is_empty();
        let netlink = devices.then(net_devices::open_there).transpose()?;
        if !gate::isolated(&child.gate, netlink)? {
            // Nobody is left to whom anything could be told.
            clone::exit(0);
        }
    }
    plan.hooks.create_container()?;
    masks::write_sysctls(&plan.sysctls)?;
    masks::read_only(&root, &plan.read_only_paths)?;
    masks::hide(&root, plan)?;
    seal(plan, &root)?;
    let proc = process.labels.prepare()?;
    rootfs::enter(plan, &root)?;
    let propagation = plan.propagation.attr.propagation;
    if propagation != 0 {
        let attr = MountAttr { propagation, ..MountAttr::default() };
        // Of the root alone: each mount in it has its own.
        mount_setattr(&root, false, &attr)
            .map_err(|error| Error::io("set the propagation of", "/", &error))?;
    }
    credentials::assume(process, &root)?;
    Ok((command::find(&process.args[0], process.path())?, proc, terminal))
}

/// Opens a terminal below `root` and makes it this process's own: with `control`, also its
/// controlling one.
pub(super) fn take_terminal(
    root: &OwnedFd,
    process: &ProcessPlan,
    size: Option<WindowSize>,
    control: bool,
) -> Result<Terminal> {
    let owner = identity::resolve(&process.who, &process.groups, root)?.uid;
    let terminal = terminal::open(root, size, owner)?;
    terminal::become_stdio(&terminal.slave)?;
    if control {
        terminal::control()?;
    }
    Ok(terminal)
}

/// The stdio descriptors become 0, 1 and 2; where a terminal shall, `placeholder` does for now: nothing
/// of the container is opened for that.
pub(super) fn take_stdio(stdio: &Stdio, placeholder: &OwnedFd) -> Result<()> {
    let Stdio::Files([stdin, stdout, stderr]) = stdio else { return terminal::hold_stdio(placeholder) };
    rustix::stdio::dup2_stdin(stdin)
        .and_then(|()| rustix::stdio::dup2_stdout(stdout))
        .and_then(|()| rustix::stdio::dup2_stderr(stderr))
        .map_err(|errno| Error::os("set up standard input and output", errno))
}

fn namespaces(plan: &Plan) -> Result<()> {
    if plan.userns.is_none() {
        join::others(plan)?;
    }
    if plan.namespaces.cgroup {
        // Not by clone3: the namespace would begin at the parent's cgroup.
        nix::sched::unshare(CloneFlags::CLONE_NEWCGROUP)
            .map_err(|errno| Error::failed("make a cgroup namespace", errno.desc()))?;
    }
    if let Some(offsets) = &plan.namespaces.time {
        time::enter_new(offsets)?;
    }
    if plan.namespaces.is_new(LinuxNamespaceType::Network) {
        network::loopback_up()?;
    }
    if let Some(name) = &plan.hostname {
        rustix::system::sethostname(name.as_bytes())
            .map_err(|errno| Error::os(format!("set the hostname {name}"), errno))?;
    }
    if let Some(name) = &plan.domainname {
        rustix::system::setdomainname(name.as_bytes())
            .map_err(|errno| Error::os(format!("set the domain name {name}"), errno))?;
    }
    Ok(())
}

/// Makes the root read-only, after the last mount point was made in it.
fn seal(plan: &Plan, root: &OwnedFd) -> Result<()> {
    if !plan.read_only {
        return Ok(());
    }
    mount_setattr(root, false, &MountAttr { set: RDONLY, ..MountAttr::default() })
        .map_err(|error| Error::io("make read-only", Path::new("/"), &error))
}

/// Becomes the command; comes back only with the reason why not. `proc` is what
/// [`Labels::prepare`](super::labels::Labels::prepare) gave.
pub(super) fn execute(process: &ProcessPlan, file: &CString, proc: Option<&OwnedFd>) -> Error {
    if let Some(proc) = proc
        && let Err(error) = process.labels.write(proc)
    {
        return error;
    }
    if let Err(error) = close_all(process) {
        return error;
    }
    if let Some(filter) = &process.filter
        && let Err(error) = filter.load(process.notify.as_ref())
    {
        return error;
    }
    become_command(process, file)
}

/// Nothing but what the command gets survives its `execve`, and no signal means anything special.
pub(super) fn close_all(process: &ProcessPlan) -> Result<()> {
    fd::only_stdio_survives_exec(process.preserved)
        .map_err(|error| Error::io("close descriptors of", "podrun", &error))?;
    signal::reset();
    Ok(())
}

/// The last step: comes back only with the reason why not.
pub(super) fn become_command(process: &ProcessPlan, file: &CString) -> Error {
    let Err(errno) = nix::unistd::execve(file, &process.args, &process.env);
    command::exec_failed(file, rustix::io::Errno::from_raw_os_error(errno as i32))
}
