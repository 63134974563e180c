//! A user namespace: root inside is nobody outside.
//!
//! The namespace is made by the same clone as all others, so that they belong to it. Its maps are
//! written from outside, and what needs rights over the host (its files, idmapped mounts, an overlay,
//! namespaces of others) is done before by a builder, who then makes init in a copy of its mounts:
//!
//! ```text
//!  parent ──clone3(mount)──▶ builder: joins, stages root and volumes
//!     │                         └──clone3(user, mount, pid, …, PARENT)──▶ init: waits for its maps
//!     │ ◀──── init's pid ───────┘ ends                                      ▲
//!     └── maps, limits, pipes ──────────────────────────────────────────────┘ takes what is staged ▸
//!                                                                 root inside ▸ proc, /dev, … ▸ pivot_root
//! ```
//!
//! A pid namespace of others is joined so by the children of the builder alone, init and one that mounts its procfs
//! ([`sources`]); the builder itself stays where the host's numbers are known.
//!
//! The root filesystem is shown through an idmapped mount, so that nothing in it changes its owner
//! (Linux 5.12; below an overlay 5.19).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use rustix::thread;

use super::credentials::{self, ProcessPlan};
use super::plan::Plan;
use super::{Stdio, join, sources, usher};
use crate::error::{Error, Result};
use crate::spec::idmap;
use crate::sys::mount::{IDMAP, MountAttr};
use crate::sys::{Clone3, Cloned, clone, mount_setattr};

/// How IDs inside become IDs outside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Maps {
    pub(super) uids: Vec<LinuxIdMapping>,
    pub(super) gids: Vec<LinuxIdMapping>,
}

impl Maps {
    /// Those of the container's own user namespace.
    pub(super) fn of(spec: &Spec) -> Option<Self> {
        let linux = spec.linux().as_ref()?;
        let ranges = |ranges: &Option<Vec<LinuxIdMapping>>| ranges.clone().unwrap_or_default();
        let maps = Self { uids: ranges(linux.uid_mappings()), gids: ranges(linux.gid_mappings()) };
        (!maps.uids.is_empty()).then_some(maps)
    }

    /// Root inside, outside.
    fn root(&self) -> (Option<Uid>, Option<Gid>) {
        let uid = idmap::to_host(&self.uids, 0).map(Uid::from_raw);
        (uid, idmap::to_host(&self.gids, 0).map(Gid::from_raw))
    }

    /// Writes them for the user namespace of `pid`, a child of this process that was not waited for.
    fn write(&self, pid: i32) -> Result<()> {
        let dir = PathBuf::from(format!("/proc/{pid}"));
        for (name, ranges) in [("gid_map", &self.gids), ("uid_map", &self.uids)] {
            let path = dir.join(name);
            std::fs::write(&path, idmap::map_file(ranges)).map_err(|error| {
                Error::io("write", &path, &error)
                    .hint("the ranges have to exist in podrun's own user namespace as well")
            })?;
        }
        Ok(())
    }
}

/// A user namespace that nobody is in: it only says how an idmapped mount shows its files.
pub(super) fn namespace_of(maps: &Maps) -> Result<OwnedFd> {
    let failed = |error: &std::io::Error| Error::io("make", "a user namespace", error);
    let (theirs, ours) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
        .map_err(|errno| Error::os("make a pipe", errno))?;
    let keep = [theirs.as_fd()];
    let clone = Clone3 { namespaces: NEWUSER, cgroup: None, keep: &keep };
    let child = clone.spawn(&theirs, wait_for_end).map_err(|error| failed(&error))?;
    let namespace = maps.write(child.pid).and_then(|()| open_namespace(child.pid));
    drop(ours);
    let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    namespace
}

/// `CLONE_NEWUSER`; `as`: a small positive constant.
const NEWUSER: u64 = libc::CLONE_NEWUSER as u64;

fn wait_for_end(pipe: &OwnedFd) -> ! {
    let _ = rustix::io::retry_on_intr(|| rustix::io::read(pipe, &mut [0_u8]));
    clone::exit(0)
}

fn open_namespace(pid: i32) -> Result<OwnedFd> {
    let path = format!("/proc/{pid}/ns/user");
    rustix::fs::open(path.as_str(), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|errno| Error::at("open", &path, errno))
}

/// Shows the files of the detached mount `tree`, which is one of `path`, as `namespace` has them.
pub(super) fn idmap(tree: &OwnedFd, recursive: bool, namespace: BorrowedFd<'_>, path: &Path) -> Result<()> {
    use std::os::fd::AsRawFd;
    let userns = u64::from(namespace.as_raw_fd().unsigned_abs());
    let attr = MountAttr { set: IDMAP, userns, ..MountAttr::default() };
    mount_setattr(tree, recursive, &attr).map_err(|error| {
        let error = Error::io("map the owners of", path, &error);
        match error.errno() {
            Some(Errno::INVAL) => error.hint(
                "its file system, or one mounted below, cannot be idmapped by this kernel; ext4, xfs and \
                 btrfs can, tmpfs since Linux 6.3",
            ),
            Some(Errno::PERM) => error.hint("is it idmapped already?"),
            _ => error,
        }
    })
}

/// What the builder is told: what to stage, and whom to make then.
struct Builder<'a, T> {
    plan: &'a Plan,
    maps: &'a sources::OwnMaps,
    /// One like init's, which does not exist yet.
    namespace: OwnedFd,
    answer: OwnedFd,
    clone: &'a Clone3<'a>,
    argument: &'a T,
    main: fn(&T) -> !,
}

/// Makes init by way of a builder, who is gone when this returns. Init waits to be [`mapped`](map).
pub(super) fn by_builder<T>(
    plan: &Plan,
    maps: &sources::OwnMaps,
    own: &Maps,
    clone: &Clone3<'_>,
    argument: &T,
    main: fn(&T) -> !,
) -> Result<Cloned> {
    let (answer, theirs) = usher::channel()?;
    let builder =
        Builder { plan, maps, namespace: namespace_of(own)?, answer: theirs, clone, argument, main };
    let mut keep = clone.keep.to_vec();
    keep.extend([builder.namespace.as_fd(), builder.answer.as_fd()]);
    keep.extend(clone.cgroup);
    // `as`: a small positive constant.
    let made = Clone3 { namespaces: libc::CLONE_NEWNS as u64, cgroup: None, keep: &keep };
    let made = made.spawn(&builder, build::<T>);
    let made = made.map_err(|error| Error::io("start", "a builder of mounts", &error))?;
    usher::outcome(&made, &answer, "build the root filesystem")
}

fn build<T>(builder: &Builder<'_, T>) -> ! {
    rustix::process::umask(Mode::empty());
    // Some of its children are born where others may look at them.
    let made = credentials::hide_from_tracers()
        // From the new user namespace nobody could join them; and what is mounted tells of them.
        .and_then(|()| join::others(builder.plan))
        .and_then(|()| sources::stage(builder.plan, builder.maps, builder.namespace.as_fd()))
        .and_then(|()| {
            let init = || builder.clone.spawn_sibling(builder.argument, builder.main);
            match &builder.plan.namespaces.pid {
                // This process itself stays outside, and so has the host's number of init.
                Some(path) => join::in_pid_namespace(path, init),
                None => init().map_err(|error| Error::io("start", "init", &error)),
            }
        });
    usher::answer(&builder.answer, made.map(|made| made.pid))
}

/// Gives the user namespace of `init` its maps, and init what only somebody outside can give it, which is
/// then told over `tell` to go on.
pub(super) fn map(init: &Cloned, own: &Maps, plan: &Plan, stdio: &Stdio, tell: &OwnedFd) -> Result<()> {
    own.write(init.pid)?;
    from_outside(init.pid, &plan.process);
    give_pipes(own, stdio)?;
    rustix::io::write(tell, &[1])
        .map(drop)
        .map_err(|errno| Error::os("tell init of its user namespace", errno))
}

/// Init: waits for that. False where the parent has died or failed.
pub(super) fn wait_until_mapped(told: &OwnedFd) -> bool {
    rustix::io::retry_on_intr(|| rustix::io::read(told, &mut [0_u8])) == Ok(1)
}

/// What a process in a user namespace may not do for itself: raise a limit, be worth more to the OOM
/// killer. Best effort, as without a user namespace: this process may not either.
fn from_outside(pid: i32, process: &ProcessPlan) {
    if let Some(score) = process.oom_score_adj {
        let _ = std::fs::write(format!("/proc/{pid}/oom_score_adj"), score.to_string());
    }
    for (resource, limit) in &process.rlimits {
        let _ = rustix::process::prlimit(Pid::from_raw(pid), *resource, *limit);
    }
}

/// A pipe belongs to who made it: only from outside can root inside become its owner, and then pass it
/// on to the user that the process will be.
pub(super) fn give_pipes(maps: &Maps, stdio: &Stdio) -> Result<()> {
    let (uid, gid) = maps.root();
    for fd in stdio.fds() {
        if credentials::is_pipe(fd)? {
            rustix::fs::fchown(fd, uid, gid)
                .map_err(|errno| Error::os("give standard output to the container's user", errno))?;
        }
    }
    Ok(())
}

/// Until now this process was root of the host, whom the new namespace does not know.
pub(super) fn become_root() -> Result<()> {
    let failed = |errno| Error::os("become root of the user namespace", errno);
    let (uid, gid) = (Uid::from_raw(0), Gid::from_raw(0));
    thread::set_thread_groups(&[]).map_err(failed)?;
    thread::set_thread_res_gid(gid, gid, gid).map_err(failed)?;
    thread::set_thread_res_uid(uid, uid, uid).map_err(failed)?;
    // The change of user has made it so already, unless the host's setting says otherwise.
    credentials::hide_from_tracers()
}
