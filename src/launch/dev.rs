//! `/dev`: the devices and links that shells and tools take for granted.

use std::ffi::OsStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};
use std::sync::{Mutex, PoisonError};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{CWD, Dev, FileType, Gid, Mode, OFlags, Uid, makedev, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mounts::{self, attach, copy_tree};
use super::plan::Plan;
use super::root::{self, Target};
use crate::error::{Error, Result};
use crate::sys::mount::{MountAttr, NOEXEC, NOSUID, RDONLY};
use crate::sys::mount_setattr;

/// Those that every process may expect (`linux/devices.txt`): name, major, minor.
const DEVICES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    // The devpts of the container has a ptmx of its own; the host's would hand out the host's ptys.
    ("ptmx", "pts/ptmx"),
];

/// Fills the container's `/dev`, where that is a file system of its own, and makes the devices that the
/// configuration names, wherever they are. The umask is 0.
pub(super) fn fill(root: &OwnedFd, plan: &Plan) -> Result<()> {
    let is_own = is_own(plan);
    if is_own {
        let dev = root::open_no_links(root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| Error::at("open", "/dev", errno))?;
        for (name, major, minor) in DEVICES {
            let node = Node::of_everybody(major, minor);
            make(&dev, OsStr::new(name), Path::new("/dev").join(name).as_path(), node)?;
        }
        for (name, target) in LINKS {
            match symlinkat(target, &dev, name) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(errno) => return Err(Error::at("link", Path::new("/dev").join(name), errno)),
            }
        }
    }
    // Engines that pass on all devices of the host name this one, too.
    let is_linked = |device: &&LinuxDevice| is_own && device.path() == Path::new("/dev/ptmx");
    let mut devices = plan.devices.iter().filter(|device| !is_linked(device));
    devices.try_for_each(|device| make_configured(root, device))
}

/// Whether `/dev` is a file system of the container's own.
fn is_own(plan: &Plan) -> bool {
    let own = |mount: &super::plan::Mount| {
        mount.destination == Path::new("/dev") && !mount.options.bind && !mount.options.remount
    };
    plan.mounts.iter().any(own)
}

/// A null device to show in other places, detached. It is the container's own, or else the host's: what an image
/// calls `/dev/null` is anything it likes (CVE-2025-31133).
pub(super) fn null(root: &OwnedFd, plan: &Plan) -> Result<OwnedFd> {
    let path = Path::new("/dev/null");
    let failed = |errno| Error::at("open", path, errno);
    if is_own(plan) {
        let own = root::open_no_links(root, path, OFlags::PATH);
        if let Some(own) = own.ok().filter(|own| Node::null().is(own)) {
            let copy = copy_tree(&own, false).map_err(failed)?;
            return protect(&copy, path).map(|()| copy);
        }
    }
    hosts(path, Node::null())?
        .ok_or_else(|| Error::failed("open /dev/null", "the host's is not the null device"))
}

/// In place of each of `files` that is the host's null device, the same as a container may have it: root inside
/// could change the mode, owner and times of what it was given, and those of the host's are every process's.
pub(super) fn shield(files: &mut [OwnedFd]) -> Result<()> {
    // Kept for the next time: the end of a detached tree waits for every processor, some 0.2 ms. The node is kept, not
    // the tree: as long as that is open, whoever reaches it by what is opened through it may change and move it.
    static NULL: Mutex<Option<OwnedFd>> = Mutex::new(None);
    let path = Path::new("/dev/null");
    let failed = |errno| Error::at("open", path, errno);
    let mut kept = NULL.lock().unwrap_or_else(PoisonError::into_inner);
    for file in files.iter_mut().filter(|file| Node::null().is(file)) {
        let mode = rustix::fs::fcntl_getfl(&*file).map_err(failed)? & OFlags::RWMODE;
        let node = match &*kept {
            Some(node) => node,
            None => match hosts(path, Node::null())? {
                Some(tree) => kept.insert(again(&tree, OFlags::PATH).map_err(failed)?),
                None => return Ok(()),
            },
        };
        // Writing to a device is no change of the file system that its node lies in.
        *file = again(node, mode).map_err(failed)?;
    }
    Ok(())
}

/// Opens what `file` is once more, with other rights.
fn again(file: &OwnedFd, flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let by_descriptor = format!("/proc/self/fd/{}", file.as_raw_fd());
    rustix::fs::open(by_descriptor, flags | OFlags::CLOEXEC, Mode::empty())
}

/// The host's `path` where it is `node`, detached.
fn hosts(path: &Path, node: Node) -> Result<Option<OwnedFd>> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let host = open_tree(CWD, path, flags).map_err(|errno| Error::at("open", path, errno))?;
    if !node.is(&host) {
        return Ok(None);
    }
    protect(&host, path)?;
    Ok(Some(host))
}

/// Through `tree` nobody changes the mode, owner or times of a node, that others have as well.
fn protect(tree: &OwnedFd, path: &Path) -> Result<()> {
    mount_setattr(tree, false, &MountAttr { set: RDONLY | NOSUID | NOEXEC, ..MountAttr::default() })
        .map_err(|error| Error::io("make read-only", path, &error))
}

/// How a node came to its place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Made {
    /// It is in the directory itself.
    Node,
    /// It is the host's, shown there.
    Hosts,
}

/// What `mknod(2)` makes.
#[derive(Clone, Copy)]
struct Node {
    kind: FileType,
    mode: u32,
    number: Dev,
}

impl Node {
    fn of_everybody(major: u32, minor: u32) -> Self {
        Self { kind: FileType::CharacterDevice, mode: 0o666, number: makedev(major, minor) }
    }

    fn null() -> Self {
        Self::of_everybody(1, 3)
    }

    /// Whether `file` is this device or FIFO already.
    fn is(self, file: &impl AsFd) -> bool {
        rustix::fs::fstat(file).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == self.kind
                && (self.kind == FileType::Fifo || stat.st_rdev == self.number)
        })
    }
}

/// Makes `node` as `name` in the directory `parent`, which is `path` in the container.
fn make(parent: &OwnedFd, name: &OsStr, path: &Path, node: Node) -> Result<Made> {
    let failed = |errno| Error::at("make", path, errno);
    match mknodat(parent, name, node.kind, Mode::from_raw_mode(node.mode), node.number) {
        Ok(()) => Ok(Made::Node),
        Err(Errno::EXIST) => {
            let there = root::open_no_links(parent, Path::new(name), OFlags::PATH).map_err(failed)?;
            match node.is(&there) {
                true => Ok(Made::Node),
                false => Err(Error::failed(format!("make {}", path.display()), "something else is there")),
            }
        }
        // Not every root may make devices (CAP_MKNOD, device cgroup, user namespace): then the host's
        // own of that name is shown, where it has one.
        Err(Errno::PERM) => {
            let host = hosts(path, node).ok().flatten().ok_or_else(|| failed(Errno::PERM))?;
            let place = root::make_target(parent, Path::new(name), Target::File, true).map_err(failed)?;
            attach(host, place).map_err(failed)?;
            Ok(Made::Hosts)
        }
        Err(errno) => Err(failed(errno)),
    }
}

fn make_configured(root: &OwnedFd, device: &LinuxDevice) -> Result<()> {
    let path = device.path();
    let wrong = |why: &str| Error::usage(format!("linux.devices {}", path.display()), why);
    let kind = match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::C | LinuxDeviceType::U => FileType::CharacterDevice,
        LinuxDeviceType::P => FileType::Fifo,
        LinuxDeviceType::A => return Err(wrong("`a` is no type of a device")),
    };
    let number = |value: i64| u32::try_from(value).map_err(|_| wrong("its number is out of range"));
    let number = makedev(number(device.major())?, number(device.minor())?);
    if !path.is_absolute() || path.components().any(|part| part == Component::ParentDir) {
        return Err(wrong("is not an absolute path without `..`"));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(wrong("has no name"));
    };
    let failed = |errno| Error::at("make", path, errno);
    let parent =
        root::make_target(root, parent, Target::Directory, mounts::is_kernels(path)).map_err(failed)?;
    let mode = device.file_mode().unwrap_or(0o666) & 0o7777;
    let made = make(&parent, name, path, Node { kind, mode, number })?;
    let (uid, gid) = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
    // The host's keeps the owner it has.
    if made == Made::Hosts || (uid.is_none() && gid.is_none()) {
        return Ok(());
    }
    rustix::fs::chownat(&parent, name, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::super::Stdio;
    use super::*;

    #[test]
    fn no_place_in_the_hosts_files_is_given_as_stdio() {
        let null = || File::open("/dev/null").unwrap().into();
        let path = rustix::fs::open("/etc/passwd", OFlags::PATH, Mode::empty()).unwrap();
        for (file, why) in [(File::open("/").unwrap().into(), "a directory"), (path, "O_PATH")] {
            let error = Stdio::Files([null(), null(), file]).shielded().unwrap_err();
            assert!(error.what.contains("standard error") && error.why.contains(why), "{error}");
        }
    }
}
