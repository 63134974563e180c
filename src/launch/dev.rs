//! `/dev`: the devices and links that shells and tools take for granted.

use std::os::fd::OwnedFd;
use std::path::Path;

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rustix::fs::{CWD, Dev, FileType, Gid, Mode, OFlags, Uid, makedev, mknodat, symlinkat};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use super::mounts::attach;
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

/// Fills the container's `/dev`, where that is a file system of its own. The umask is 0.
pub(super) fn fill(root: &OwnedFd, plan: &Plan) -> Result<()> {
    let own = |mount: &super::plan::Mount| mount.destination == Path::new("/dev") && !mount.options.bind;
    if !plan.mounts.iter().any(own) {
        return Ok(());
    }
    let dev = root::open_no_links(root, Path::new("/dev"), OFlags::PATH | OFlags::DIRECTORY)
        .map_err(|errno| Error::at("open", "/dev", errno))?;
    for (name, major, minor) in DEVICES {
        make(&dev, Path::new(name), FileType::CharacterDevice, 0o666, makedev(major, minor))?;
    }
    for (name, target) in LINKS {
        match symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(Error::at("link", Path::new("/dev").join(name), errno)),
        }
    }
    plan.devices.iter().try_for_each(|device| make_configured(root, device))
}

fn make(dev: &OwnedFd, name: &Path, kind: FileType, mode: u32, number: Dev) -> Result<()> {
    let failed = |errno| Error::at("make", Path::new("/dev").join(name), errno);
    match mknodat(dev, name, kind, Mode::from_raw_mode(mode), number) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        // Not every root may make devices (CAP_MKNOD, device cgroup): then the host's own is shown.
        Err(Errno::PERM) => {
            let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
            let host = open_tree(CWD, Path::new("/dev").join(name), flags).map_err(failed)?;
            let place = root::make_target(dev, name, Target::File, true).map_err(failed)?;
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
    let Ok(inside) = path.strip_prefix("/dev") else { return Err(wrong("is not below /dev")) };
    let failed = |errno| Error::at("make", path, errno);
    let parent = Path::new("/dev").join(inside.parent().unwrap_or(Path::new("")));
    let parent = root::make_target(root, &parent, Target::Directory, true).map_err(failed)?;
    let name = inside.file_name().ok_or_else(|| wrong("has no name"))?;
    make(&parent, Path::new(name), kind, device.file_mode().unwrap_or(0o666) & 0o7777, number)?;
    let (uid, gid) = (device.uid().map(Uid::from_raw), device.gid().map(Gid::from_raw));
    if uid.is_none() && gid.is_none() {
        return Ok(());
    }
    rustix::fs::chownat(&parent, name, uid, gid, rustix::fs::AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
}
