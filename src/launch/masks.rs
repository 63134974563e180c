//! What of the kernel's own file systems the container must not see or must not write, and the
//! settings that are written for it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{FileType, OFlags};
use rustix::io::Errno;

use super::mounts::{attach, copy_tree, new_file_system};
use super::plan::Plan;
use super::{dev, root, rootfs};
use crate::error::{Error, Result};
use crate::sys::mount::{MountAttr, RDONLY};
use crate::sys::mount_setattr;

/// Hides each masked path that exists: a file behind the null device, a directory behind an empty one.
pub(super) fn hide(root: &OwnedFd, plan: &Plan) -> Result<()> {
    let (mut null, mut empty) = (None, None);
    for path in &plan.masked {
        let failed = |errno| Error::at("mask", path, errno);
        let target = match root::open(root, path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            other => other.map_err(failed)?,
        };
        let stat = rustix::fs::fstat(&target).map_err(failed)?;
        let is_directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let cover = if is_directory { &mut empty } else { &mut null };
        let make = || if is_directory { rootfs::empty(plan.label.as_deref()) } else { dev::null(root, plan) };
        // Before Linux 6.15 only an attached mount can be copied: the first of each kind is
        // attached, the others are its copies.
        let tree = match cover {
            None => cover.insert(make()?).try_clone().map_err(|error| Error::io("mask", path, &error))?,
            Some(first) => copy_tree(first, false).map_err(failed)?,
        };
        attach(tree, target).map_err(failed)?;
    }
    Ok(())
}

/// Makes each of `paths` that exists read-only, with all below.
pub(super) fn read_only(root: &OwnedFd, paths: &[PathBuf]) -> Result<()> {
    for path in paths {
        let failed = |errno| Error::at("make read-only", path, errno);
        let target = match root::open(root, path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            other => other.map_err(failed)?,
        };
        let tree = copy_tree(&target, true).map_err(failed)?;
        mount_setattr(&tree, true, &MountAttr { set: RDONLY, ..MountAttr::default() })
            .map_err(|error| Error::io("make read-only", path, &error))?;
        attach(tree, target).map_err(failed)?;
    }
    Ok(())
}

/// Writes the kernel settings of the container's namespaces, through a procfs that nobody else
/// can see or mount upon (CVE-2025-52881).
pub(super) fn write_sysctls(sysctls: &[(String, String)]) -> Result<()> {
    if sysctls.is_empty() {
        return Ok(());
    }
    let proc = new_file_system("proc", &[], 0)?;
    for (name, value) in sysctls {
        let failed = |errno| Error::os(format!("set sysctl {name}"), errno);
        let file = Path::new("sys").join(name.replace('.', "/"));
        let file = root::open_no_links(&proc, &file, OFlags::WRONLY).map_err(failed)?;
        rustix::io::write(&file, value.as_bytes()).map_err(failed)?;
    }
    Ok(())
}
