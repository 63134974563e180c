//! A user namespace: root inside is nobody outside.
//!
//! The namespace is made by the same clone as all others, so that they belong to it. Its maps are
//! written from outside, and what needs rights over the host (its files, idmapped mounts, an overlay)
//! is done by a builder, a child with a mount namespace of its own, which hands init the mounts:
//!
//! ```text
//!  parent ──clone3(user, mount, pid, …)──▶ init: waits for mounts
//!     │ maps, limits, pipes                  ▲
//!     └──clone3(mount)──▶ builder ───────────┤ root, volumes: detached mounts, by SCM_RIGHTS
//!                            ▼ ends          ▼ root inside ▸ proc, /dev, … ▸ pivot_root
//! ```
//!
//! The root filesystem is shown through an idmapped mount, so that nothing in it changes its owner
//! (Linux 5.12; below an overlay 5.19).

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::libc;
use oci_spec::runtime::{LinuxIdMapping, Spec};
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread;

use super::Stdio;
use super::credentials::{self, ProcessPlan};
use super::plan::Plan;
use super::sources;
use crate::cgroup::Cgroup;
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

/// What the builder is told.
struct Builder<'a> {
    plan: &'a Plan,
    maps: &'a sources::OwnMaps,
    namespace: OwnedFd,
    to: OwnedFd,
}

/// Makes the user namespace of `init`, which waits for it, and starts the builder. To be ended by
/// [`finish`].
pub(super) fn prepare(
    init: &Cloned,
    plan: &Plan,
    maps: &sources::OwnMaps,
    cgroup: Option<&Cgroup>,
    stdio: &Stdio,
    to: OwnedFd,
) -> Result<Option<Cloned>> {
    let Some(own) = &plan.userns else { return Ok(None) };
    own.write(init.pid)?;
    from_outside(init.pid, &plan.process);
    give_pipes(own, stdio)?;
    let builder = Builder { plan, maps, namespace: open_namespace(init.pid)?, to };
    let mut keep = vec![builder.namespace.as_fd(), builder.to.as_fd()];
    keep.extend(maps.iter().flatten().map(AsFd::as_fd));
    // `as`: a small positive constant.
    let namespaces = libc::CLONE_NEWNS as u64;
    let clone = Clone3 { namespaces, cgroup: cgroup.map(AsFd::as_fd), keep: &keep };
    let builder = clone.spawn(&builder, build);
    builder.map(Some).map_err(|error| Error::io("start", "a builder of mounts", &error))
}

/// Reaps the builder, which has ended unless `init` failed before it.
pub(super) fn finish(builder: Option<Cloned>) {
    let Some(builder) = builder else { return };
    let _ = pidfd_send_signal(&builder.pidfd, Signal::KILL);
    let _ = waitid(WaitId::PidFd(builder.pidfd.as_fd()), WaitIdOptions::EXITED);
}

fn build(builder: &Builder<'_>) -> ! {
    rustix::process::umask(Mode::empty());
    let namespace = builder.namespace.as_fd();
    let sent = sources::build(builder.plan, builder.maps, namespace)
        .and_then(|(root, mounts)| sources::send(&builder.to, &root, &mounts));
    if let Err(error) = sent {
        sources::send_error(&builder.to, &error);
    }
    clone::exit(0)
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
