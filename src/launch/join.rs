//! Namespaces of others, joined by path.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::LinuxNamespaceType;
use rustix::fs::{Mode, OFlags};
use rustix::process::{Signal, WaitId, WaitIdOptions, pidfd_send_signal, waitid};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::plan::Plan;
use crate::error::{Error, Result};
use crate::sys::Cloned;

/// Joins all that `plan` names but the pid namespace, which only a child is born in.
pub(super) fn others(plan: &Plan) -> Result<()> {
    for (kind, path) in &plan.namespaces.joined {
        let failed = |errno| Error::at(&format!("join the {kind} namespace"), path, errno);
        let kind = match kind {
            LinuxNamespaceType::Network => LinkNameSpaceType::Network,
            LinuxNamespaceType::Ipc => LinkNameSpaceType::InterProcessCommunication,
            LinuxNamespaceType::Uts => LinkNameSpaceType::HostNameAndNISDomainName,
            LinuxNamespaceType::Time => LinkNameSpaceType::Time,
            // The plan lets no other through.
            _ => LinkNameSpaceType::ControlGroup,
        };
        let namespace =
            rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
        move_into_link_name_space(namespace.as_fd(), Some(kind)).map_err(failed)?;
    }
    Ok(())
}

/// Runs `spawn` while this process's children are born in the pid namespace that `path` stands for.
pub(super) fn in_pid_namespace(
    path: &Path,
    spawn: impl FnOnce() -> std::io::Result<Cloned>,
) -> Result<Cloned> {
    let failed = |errno| Error::at("join the pid namespace", path, errno);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let theirs = rustix::fs::open(path, flags, Mode::empty()).map_err(failed)?;
    let ours = rustix::fs::open(c"/proc/self/ns/pid", flags, Mode::empty())
        .map_err(|errno| Error::at("open", "/proc/self/ns/pid", errno))?;
    let enter = |namespace: &OwnedFd| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::ProcessID)).map_err(failed)
    };
    enter(&theirs)?;
    let spawned = spawn();
    let back = enter(&ours);
    if let (Err(_), Ok(child)) = (&back, &spawned) {
        // Nobody would ever hear of it.
        let _ = pidfd_send_signal(&child.pidfd, Signal::KILL);
        let _ = waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED);
    }
    back?;
    spawned.map_err(|error| Error::io("start a process in the pid namespace", path, &error))
}
