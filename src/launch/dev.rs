//! `/dev`: the devices and links that shells and tools take for granted.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{CWD, Dev, FileType, Gid, Mode, OFlags, Uid, makedev, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mounts::{self, attach};
use super::plan::Plan;
use super::root::{self, Target};
use crate::error::{Error, Result};

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
    let own = |mount: &super::plan::Mount| mount.destination == Path::new("/dev") && !mount.options.bind;
    let is_own = plan.mounts.iter().any(own);
    if is_own {
        let dev = root::open_no_links(root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY)
            .map_err(|errno| Error::at("open", "/dev", errno))?;
        for (name, major, minor) in DEVICES {
            let node = Node { kind: FileType::CharacterDevice, mode: 0o666, number: makedev(major, minor) };
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

/// What `mknod(2)` makes.
#[derive(Clone, Copy)]
struct Node {
    kind: FileType,
    mode: u32,
    number: Dev,
}

impl Node {
    /// Whether `file` is this device or FIFO already.
    fn is(self, file: &impl AsFd) -> bool {
        rustix::fs::fstat(file).is_ok_and(|stat| {
            FileType::from_raw_mode(stat.st_mode) == self.kind
                && (self.kind == FileType::Fifo || stat.st_rdev == self.number)
        })
    }
}

/// Makes `node` as `name` in the directory `parent`, which is `path` in the container.
fn make(parent: &OwnedFd, name: &OsStr, path: &Path, node: Node) -> Result<()> {
    let failed = |errno| Error::at("make", path, errno);
    match mknodat(parent, name, node.kind, Mode::from_raw_mode(node.mode), node.number) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let there = root::open_no_links(parent, Path::new(name), OFlags::PATH).map_err(failed)?;
            match node.is(&there) {
                true => Ok(()),
                false => Err(Error::failed(format!("make {}", path.display()), "something else is there")),
            }
        }
        // Not every root may make devices (CAP_MKNOD, device cgroup, user namespace): then the host's
        // own of that name is shown, where it has one.
        Err(Errno::PERM) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let host = open_tree(CWD, path, flags).map_err(|_| failed(Errno::PERM))?;
            if !node.is(&host) {
                return Err(failed(Errno::PERM));
            }
            let place = root::make_target(parent, Path::new(name), Target::File, true).map_err(failed)?;
            attach(host, place).map_err(failed)
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
    make(&parent, name, path, Node { kind, mode, number })?;
    let (uid, gid) = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    rustix::fs::chownat(&parent, name, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
}
