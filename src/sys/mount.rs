//! `mount_setattr(2)` and `MOUNT_ATTR_*`.

use std::io;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc;

/// `MOUNT_ATTR_RDONLY`
pub const RDONLY: u64 = 0x1;
/// `MOUNT_ATTR_NOSUID`
pub const NOSUID: u64 = 0x2;
/// `MOUNT_ATTR_NODEV`
pub const NODEV: u64 = 0x4;
/// `MOUNT_ATTR_NOEXEC`
pub const NOEXEC: u64 = 0x8;
/// `MOUNT_ATTR__ATIME`: the mask of the three access time modes below; clear it to set one.
pub const ATIME: u64 = 0x70;
/// `MOUNT_ATTR_NOATIME`
pub const NOATIME: u64 = 0x10;
/// `MOUNT_ATTR_STRICTATIME`
pub const STRICTATIME: u64 = 0x20;
/// `MOUNT_ATTR_NODIRATIME`
pub const NODIRATIME: u64 = 0x80;
/// `MOUNT_ATTR_IDMAP`: on a detached mount only, with a user namespace (Linux 5.12).
pub const IDMAP: u64 = 0x10_0000;
/// `MOUNT_ATTR_NOSYMFOLLOW`
pub const NOSYMFOLLOW: u64 = 0x20_0000;

/// `struct mount_attr`: what to change of a mount.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear, before.
    pub clear: u64,
    /// `MS_PRIVATE`, `MS_SLAVE`, `MS_SHARED` or `MS_UNBINDABLE`; 0 leaves it.
    pub propagation: u64,
    /// Only with `MOUNT_ATTR_IDMAP`.
    pub userns: u64,
}

/// Changes the mount that `mount` stands for, and with `recursive` every mount below it.
#[expect(unsafe_code, reason = "neither rustix nor nix wraps mount_setattr")]
pub fn mount_setattr(mount: impl AsFd, recursive: bool, attr: &MountAttr) -> io::Result<()> {
    let recursive = if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a C string, `attr` is a live struct of the size given, and the kernel
    // only reads both.
    super::check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | recursive,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}
