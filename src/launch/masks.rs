//! What of the kernel's own file systems the container must not see or must not write, and the
//! settings that are written for it.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, OFlags, makedev};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mounts::{attach, copy_tree, new_file_system};
use super::{root, rootfs};
use crate::error::{Error, Result};
use crate::sys::mount::{MountAttr, RDONLY};
use crate::sys::mount_setattr;

/// Hides each of `paths` that exists: a file behind the null device, a directory behind an empty one.
pub(super) fn hide(root: &OwnedFd, paths: &[PathBuf]) -> Result<()> {
    let (mut null, mut empty) = (None, None);
    for path in paths {
        let failed = |errno| Error::at("mask", path, errno);
        let target = match root::open(root, path, OFlags::PATH) {
            Err(Errno::NOENT | Errno::NOTDIR) => continue,
            other => other.map_err(failed)?,
        };
        let stat = rustix::fs::fstat(&target).map_err(failed)?;
        let (cover, make): (&mut Option<OwnedFd>, fn() -> Result<OwnedFd>) =
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::Directory => (&mut empty, rootfs::empty),
                _ => (&mut null, null_device),
            };
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

/// The host's null device: what an image calls `/dev/null` is anything it likes (CVE-2025-31133).
fn null_device() -> Result<OwnedFd> {
    let failed = |errno| Error::at("open", "/dev/null", errno);
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let null = open_tree(CWD, c"/dev/null", flags).map_err(failed)?;
    let stat = rustix::fs::fstat(&null).map_err(failed)?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == makedev(1, 3) {
        return Ok(null);
    }
    Err(Error::failed("open /dev/null", "the host's is not the null device"))
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
