//! What a container is made of and its own processes may not make: mounts of the host's files.
//!
//! Without a user namespace init takes them itself. With one a builder does, before init exists, and stages
//! them:
//!
//! ```text
//!  builder: root, volumes ──attached──▶ stage/root stage/0 stage/3 …      its mount namespace
//!                                          │ copied by clone3, and locked
//!  init ◀──────── open_tree ────────── ./root ./0 ./3 …                   init's own
//! ```

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags};
use rustix::mount::{OpenTreeFlags, open_tree};
use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
use rustix::process::{
    Signal, WaitId, WaitIdOptions, pidfd_send_signal, set_parent_process_death_signal, waitid,
};

use super::mounts::{self, Source, attach};
use super::plan::{Mount, Plan};
use super::root::{self, Target};
use super::{gate, join, rootfs, userns};
use crate::error::{Error, Result};
use crate::sys::mount::{NODEV, NOEXEC, NOSUID};
use crate::sys::{Clone3, clone, pass};

/// For each mount of a plan the user namespace of its own map, where it has one.
pub(super) type OwnMaps = Vec<Option<OwnedFd>>;

/// The user namespaces of the maps that single mounts have. Made by the parent: who is in a pid
/// namespace does not find its children in the host's `/proc`.
pub(super) fn own_maps(plan: &Plan) -> Result<OwnMaps> {
    let own = |mount: &Mount| {
        let own = mount.idmap.as_ref().and_then(|idmap| idmap.own.as_ref());
        own.map(userns::namespace_of).transpose()
    };
    plan.mounts.iter().map(own).collect()
}

/// What `plan` mounts of the host; idmapped mounts without a map of their own are mapped as `namespace`
/// has it. To be taken before this process's mounts are cut off from the host's: what shall go on
/// hearing of mounts there (`rslave`, `rshared`) could not any more.
pub(super) fn open(
    plan: &Plan,
    maps: &OwnMaps,
    namespace: Option<BorrowedFd<'_>>,
) -> Result<Vec<Option<Source>>> {
    let mut sources = Vec::new();
    for (mount, own) in plan.mounts.iter().zip(maps) {
        let source = if mount.options.bind {
            Some(mounts::bind(mount, own.as_ref().map(AsFd::as_fd).or(namespace))?)
        } else if namespace.is_some() && shows_the_hosts(plan, mount) {
            let tree = match plan.namespaces.pid.as_deref().filter(|_| mount.kind == "proc") {
                Some(path) => procfs_of(path, mount)?,
                None => mounts::file_system(mount)?,
            };
            Some((tree, Target::Directory))
        } else {
            None
        };
        sources.push(source);
    }
    Ok(sources)
}

/// Where the child that mounts a procfs passes it on.
struct There<'a> {
    mount: &'a Mount,
    socket: &'a OwnedFd,
}

/// A procfs of the pid namespace that `path` stands for. A procfs is of the processes among whom it is mounted, and
/// this process is not one of them: a child that is does it, and is gone when this returns. It is the host's root:
/// whoever may trace there with the host's own rights (CAP_SYS_PTRACE, and no user namespace) has those anyway.
fn procfs_of(path: &Path, mount: &Mount) -> Result<OwnedFd> {
    let pair = socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let (ours, theirs) = pair.map_err(|errno| Error::os("make a socket pair", errno))?;
    let there = There { mount, socket: &theirs };
    let clone = Clone3 { namespaces: 0, cgroup: None, keep: &[theirs.as_fd()] };
    let child = join::in_pid_namespace(path, || clone.spawn(&there, mount_there))?;
    drop(theirs);
    // Who lives there may stop it at any moment; what it says, it says at once.
    let answers = gate::speaks_within(&ours, gate::PATIENCE);
    let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    let (report, fds) = gate::read_report(&ours, child.pid)?;
    fds.into_iter().next().ok_or_else(|| {
        let why = if answers { "the process for it died" } else { "the process for it was stopped" };
        let died = || Error::failed(format!("mount proc of {}", path.display()), why);
        gate::outcome(&report).err().unwrap_or_else(died)
    })
}

fn mount_there(there: &There<'_>) -> ! {
    // Its parent ends it, or its parent's end does.
    let bound = set_parent_process_death_signal(Some(Signal::KILL));
    let made = bound
        .map_err(|errno| Error::os("be bound to the parent", errno))
        .and_then(|()| mounts::file_system(there.mount))
        .and_then(|tree| {
            let sent = pass::send(there.socket, &[0], &[tree.as_fd()]);
            sent.map_err(|errno| Error::os("pass a procfs on", errno))
        });
    if let Err(error) = made {
        gate::report(there.socket, &error);
    }
    clone::exit(0)
}

/// Whether a file system tells about a namespace that is not the container's own. The root of another user namespace
/// may not mount it.
fn shows_the_hosts(plan: &Plan, mount: &Mount) -> bool {
    use oci_spec::runtime::LinuxNamespaceType::{Ipc, Network, Pid};
    match mount.kind.as_str() {
        _ if mount.options.remount => false,
        "sysfs" => !plan.namespaces.is_new(Network),
        "mqueue" => !plan.namespaces.is_new(Ipc),
        "proc" => !plan.namespaces.is_new(Pid),
        "cgroup" | "cgroup2" => !plan.namespaces.cgroup,
        _ => false,
    }
}

/// Builder: attaches the root and everything else where init finds it in the copy of this mount namespace
/// that it is born with. That copy is another user namespace's, and so the kernel locks in it what each
/// mount forbids (`mount_namespaces(7)`): whoever has CAP_SYS_ADMIN inside cannot take a `ro` back, nor
/// have a mount of his own appear on the host.
pub(super) fn stage(plan: &Plan, maps: &OwnMaps, namespace: BorrowedFd<'_>) -> Result<()> {
    let sources = open(plan, maps, Some(namespace))?;
    let failed = |errno| Error::os("prepare the container's mounts", errno);
    rootfs::isolate()?;
    let stage = mounts::new_file_system("tmpfs", &[("mode", Some("0700"))], NOSUID | NODEV | NOEXEC)?;
    // Not upon the root: nobody makes a user namespace in what looks like a chroot (`user_namespaces(7)`).
    let dir =
        rustix::fs::open(&plan.stage, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    attach(&stage, &dir.map_err(|errno| Error::at("open", &plan.stage, errno))?).map_err(failed)?;
    let make = |name: &str, target| root::make_target(&stage, Path::new(name), target, true).map_err(failed);
    rootfs::build(plan, Some((namespace, &stage)))?;
    for (index, source) in sources.iter().enumerate() {
        if let Some((tree, target)) = source {
            attach(tree, make(&index.to_string(), *target)?).map_err(failed)?;
        }
    }
    // Where a process stands is translated into its copy of the namespace.
    rustix::process::fchdir(&stage).map_err(failed)
}

/// Init: takes what the builder has staged for it.
pub(super) fn take(plan: &Plan) -> Result<(OwnedFd, Vec<Option<Source>>)> {
    let mut sources = Vec::new();
    for (index, mount) in plan.mounts.iter().enumerate() {
        let staged = mount.options.bind || shows_the_hosts(plan, mount);
        sources.push(staged.then(|| take_one(&index.to_string())).transpose()?);
    }
    Ok((take_one(rootfs::STAGED)?.0, sources))
}

fn take_one(name: &str) -> Result<Source> {
    let failed = |errno| Error::os("take over the container's mounts", errno);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = open_tree(CWD, name, flags | OpenTreeFlags::AT_RECURSIVE).map_err(failed)?;
    let kind = mounts::kind_of(&tree).map_err(failed)?;
    Ok((tree, kind))
}
