//! Whether this host can do what a launch does: asked of the kernel, and nothing is left of it.

use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::CWD;
use rustix::mount::{FsOpenFlags, OpenTreeFlags, fsopen, open_tree};

use super::mounts::new_file_system;
use super::userns::{self, Maps};
use crate::error::{Error, Result};
use crate::spec::idmap;
use crate::sys::mount::{MountAttr, RDONLY};
use crate::sys::mount_setattr;

/// Mounts by descriptor.
pub fn mounts() -> Result<()> {
    new_file_system("tmpfs", &[], RDONLY)?;
    let tree = open_tree(CWD, "/", copy()).map_err(|errno| Error::at("open_tree", "/", errno))?;
    let attr = MountAttr { set: RDONLY, ..MountAttr::default() };
    mount_setattr(&tree, false, &attr).map_err(|error| Error::io("mount_setattr", "/", &error))
}

/// A file system of this type; a module of it is loaded by that.
pub fn file_system(kind: &str) -> Result<()> {
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC);
    context.map(drop).map_err(|errno| Error::os(format!("open the file system {kind}"), errno))
}

/// Idmapped mounts of what `dir` is on.
pub fn idmap(dir: &Path) -> Result<()> {
    let maps = Maps { uids: vec![idmap::one(0, 1, 1)], gids: vec![idmap::one(0, 1, 1)] };
    let namespace = userns::namespace_of(&maps)?;
    let tree = open_tree(CWD, dir, copy()).map_err(|errno| Error::at("open_tree", dir, errno))?;
    userns::idmap(&tree, false, namespace.as_fd(), dir)
}

fn copy() -> OpenTreeFlags {
    OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC
}
