//! The root of the container: a private copy of a tree of mounts, or an overlay above it.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, UnmountFlags, open_tree, unmount};

use super::mounts::{attach, copy_tree, new_file_system};
use super::plan::{Overlay, Plan};
use super::root;
use super::userns;
use crate::error::{Error, Result};
use crate::sys::mount::{MountAttr, NODEV, NOEXEC, NOSUID, RDONLY};
use crate::sys::mount_setattr;

/// Builds the root filesystem of `plan` and attaches it in this process's own mount namespace, where
/// [`enter`] finds it: in its own place, or with a user namespace, as which has them its files are shown then,
/// on a stage, as [`STAGED`].
pub(super) fn build(plan: &Plan, within: Option<(BorrowedFd<'_>, &OwnedFd)>) -> Result<OwnedFd> {
    isolate()?;
    let (userns, stage) = within.unzip();
    let userns = userns.filter(|_| plan.idmap_root);
    let failed = |errno| Error::at("open the root filesystem", &plan.rootfs, errno);
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let base = rustix::fs::open(&plan.rootfs, flags, Mode::empty()).map_err(failed)?;
    refuse_empty(plan, &base)?;
    let label = plan.label.as_deref();
    let root = match &plan.overlay {
        None => {
            let copy = copy_tree(&base, true).map_err(failed)?;
            if let Some(userns) = userns {
                userns::idmap(&copy, true, userns, &plan.rootfs)?;
            }
            copy
        }
        Some(overlay) => match userns {
            None => self::overlay(&base, overlay, label)?,
            Some(userns) => self::overlay(&lower(plan, &base, userns, stage)?, overlay, label)?,
        },
    };
    // pivot_root wants a mount point.
    let place = stage.map(|stage| on_stage(stage, STAGED)).transpose()?;
    attach(&root, place.as_ref().unwrap_or(&base))
        .map_err(|errno| Error::at("attach the root filesystem", &plan.rootfs, errno))?;
    if let Some(overlay) = &plan.overlay {
        if plan.rootfs == Path::new("/") {
            show_host_mounts(&root, &overlay.hidden, userns)?;
        }
        for hidden in &overlay.hidden {
            hide(&root, plan, hidden)?;
        }
    }
    Ok(root)
}

/// Attaches `root` over everything else: for a process that may not even look at the place of the root
/// filesystem on the host.
pub(super) fn cover(root: &OwnedFd) -> Result<()> {
    isolate()?;
    let top = open_dir(Path::new("/"))?;
    attach(root, &top).map_err(|errno| Error::at("attach the root filesystem", "/", errno))
}

/// An idmapped mount of the directory that an overlay is put above. It has to be attached: no other can be
/// a layer. What lies in the upper directory has the owners that it has outside.
fn lower(plan: &Plan, base: &OwnedFd, userns: BorrowedFd<'_>, stage: Option<&OwnedFd>) -> Result<OwnedFd> {
    let failed = |errno| Error::at("open the root filesystem", &plan.rootfs, errno);
    let lower = copy_tree(base, false).map_err(failed)?;
    userns::idmap(&lower, false, userns, &plan.rootfs)?;
    let place = stage.map(|stage| on_stage(stage, "lower")).transpose()?;
    attach(&lower, place.as_ref().unwrap_or(base)).map_err(failed)?;
    Ok(lower)
}

/// The root's name on a stage.
pub(super) const STAGED: &str = "root";

/// A directory on a stage, to attach something to.
fn on_stage(stage: &OwnedFd, name: &str) -> Result<OwnedFd> {
    root::make_target(stage, Path::new(name), root::Target::Directory, true)
        .map_err(|errno| Error::os("prepare the container's mounts", errno))
}

/// An empty root in which nothing will be mounted that could hold the command is a mistake: said before
/// the first mount point is made in it.
fn refuse_empty(plan: &Plan, base: &OwnedFd) -> Result<()> {
    let filled = plan.mounts.iter().any(|mount| mount.options.bind && mount.destination != Path::new("/"));
    if filled && plan.overlay.is_none() {
        return Ok(());
    }
    let failed = |errno| Error::at("read the root filesystem", &plan.rootfs, errno);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(base, ".", flags, Mode::empty()).map_err(failed)?;
    let mut entries = rustix::fs::Dir::new(dir).map_err(failed)?;
    let is_entry = |name: &std::ffi::CStr| name != c"." && name != c"..";
    match entries.any(|entry| entry.is_ok_and(|entry| is_entry(entry.file_name()))) {
        true => Ok(()),
        false => Err(Error::failed(format!("rootfs {}", plan.rootfs.display()), "is empty")
            .hint("--rootfs DIR is an unpacked root filesystem; `/:O` is the host's own")),
    }
}

/// No mount of this process reaches the host, nor the other way round.
pub(super) fn isolate() -> Result<()> {
    let private = MountAttr { propagation: nix::libc::MS_PRIVATE, ..MountAttr::default() };
    let root = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|errno| Error::at("open", "/", errno))?;
    mount_setattr(root, true, &private).map_err(|error| {
        let error = Error::io("make the mounts private below", "/", &error);
        if error.errno() == Some(Errno::NOSYS) {
            return error.hint("podrun needs Linux 5.14 or newer");
        }
        error
    })
}

/// Makes `root` this process's root, and the host's mounts go.
pub(super) fn enter(plan: &Plan, root: &OwnedFd) -> Result<()> {
    if plan.no_pivot { move_to_place(root) } else { pivot(root) }
}

/// Without `pivot_root` the host's mounts stay below, out of reach. But a process in a user namespace
/// of its own may mount what it can see of the kernel's file systems somewhere, so that those go.
fn move_to_place(root: &OwnedFd) -> Result<()> {
    // As mountinfo has it: whatever links the configuration's path goes through.
    let link = format!("/proc/self/fd/{}", root.as_raw_fd());
    let rootfs = std::fs::read_link(&link).map_err(|error| Error::io("read", &link, &error))?;
    let mounts = procfs::process::Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.map_err(|error| Error::failed("read /proc/self/mountinfo", error.to_string()))?;
    for mount in mounts {
        let kernels = mount.fs_type == "proc" || mount.fs_type == "sysfs";
        if kernels && !mount.mount_point.starts_with(&rootfs) {
            match unmount(&mount.mount_point, UnmountFlags::DETACH) {
                // It went with one above it.
                Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
                Err(errno) => return Err(Error::at("unmount", &mount.mount_point, errno)),
            }
        }
    }
    let failed = |errno| Error::os("move the root filesystem to /", errno);
    rustix::process::fchdir(root).map_err(failed)?;
    let host = rustix::fs::open(c"/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed)?;
    attach(root, &host).map_err(failed)?;
    rustix::process::chroot(c".").map_err(failed)?;
    rustix::process::chdir(c"/").map_err(failed)
}

fn pivot(root: &OwnedFd) -> Result<()> {
    let failed = |errno| Error::os("pivot_root", errno);
    rustix::process::fchdir(root).map_err(failed)?;
    // The old root is stacked upon the new one, so that no directory for it is needed...
    rustix::process::pivot_root(c".", c".").map_err(|errno| {
        let error = failed(errno);
        match errno {
            Errno::INVAL => error
                .hint("the host's root is an initramfs, from which nobody can pivot: `create --no-pivot`"),
            _ => error,
        }
    })?;
    // ...and `.` is still its top: this uncovers the new one.
    unmount(c".", UnmountFlags::DETACH).map_err(|errno| Error::os("detach the old root", errno))?;
    rustix::process::chdir(c"/").map_err(failed)
}

fn overlay(base: &OwnedFd, overlay: &Overlay, label: Option<&str>) -> Result<OwnedFd> {
    match overlay_on(base, &overlay.upper, &overlay.work, label) {
        // The file system of the state directory cannot be an upper layer: an overlay, mostly.
        Err(error) if error.errno() == Some(Errno::INVAL) => {
            let tmpfs = new_file_system("tmpfs", &[("mode", Some("0700"))], NOSUID | NODEV)?;
            let place = open_dir(&overlay.upper)?;
            attach(&tmpfs, place).map_err(|errno| Error::at("mount tmpfs on", &overlay.upper, errno))?;
            overlay_on(base, &overlay.upper.join("upper"), &overlay.upper.join("work"), label)
                .map_err(|_| error)
        }
        other => other,
    }
}

fn overlay_on(base: &OwnedFd, upper: &Path, work: &Path, label: Option<&str>) -> Result<OwnedFd> {
    let stat = rustix::fs::fstat(base).map_err(|errno| Error::os("look at the root filesystem", errno))?;
    // The upper directory is what the container sees as `/`: it has to look like the lower one.
    if make_dir(upper, Mode::from_raw_mode(stat.st_mode & 0o7777))? {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::chown(upper, Some(uid), Some(gid)).map_err(|errno| Error::at("chown", upper, errno))?;
    }
    make_dir(work, Mode::RWXU)?;
    let (upper, work) = (open_dir(upper)?, open_dir(work)?);
    // By descriptor: a path may contain what overlayfs takes for a separator.
    let [lower, upper, work] = [base, &upper, &work].map(by_descriptor);
    let mut settings = vec![
        ("source", Some("overlay")),
        ("lowerdir", Some(lower.as_str())),
        ("upperdir", Some(upper.as_str())),
        ("workdir", Some(work.as_str())),
    ];
    settings.extend(label.map(|label| ("context", Some(label))));
    new_file_system("overlay", &settings, 0)
}

fn by_descriptor(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(fd))
}

/// Whether it had to be made. The umask is 0.
fn make_dir(path: &Path, mode: Mode) -> Result<bool> {
    match rustix::fs::mkdir(path, mode) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(Error::at("create", path, errno)),
    }
}

fn open_dir(path: &Path) -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|errno| Error::at("open", path, errno))
}

/// File systems that hold files of the host, and not what the kernel tells of itself.
const FILES: [&str; 12] = [
    "ext2", "ext3", "ext4", "xfs", "btrfs", "f2fs", "zfs", "vfat", "squashfs", "erofs", "overlay", "bcachefs",
];

/// An overlay does not show what is mounted below its lower directory: `/usr` or `/home` of a host
/// that has them apart would be empty. They are there to be read.
fn show_host_mounts(root: &OwnedFd, hidden: &[PathBuf], userns: Option<BorrowedFd<'_>>) -> Result<()> {
    let mounts = procfs::process::Process::myself().and_then(|process| process.mountinfo());
    let mounts = mounts.map_err(|error| Error::failed("read /proc/self/mountinfo", error.to_string()))?;
    for mount in mounts {
        let place = mount.mount_point.as_path();
        let kernels = ["/proc", "/sys", "/dev", "/run", "/tmp"].iter().any(|dir| place.starts_with(dir));
        let own = hidden.iter().any(|dir| place.starts_with(dir));
        if place == Path::new("/") || kernels || own || !FILES.contains(&mount.fs_type.as_str()) {
            continue;
        }
        // Best effort: a mount that cannot be copied or has no place leaves an empty directory.
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let Ok(tree) = open_tree(CWD, place, flags) else { continue };
        let Ok(target) = root::open(root, place, OFlags::PATH) else { continue };
        // What cannot be idmapped shows nobody's files.
        if let Some(userns) = userns {
            let _ = userns::idmap(&tree, false, userns, place);
        }
        let read_only = MountAttr { set: RDONLY, ..MountAttr::default() };
        if mount_setattr(&tree, false, &read_only).is_ok() {
            let _ = attach(&tree, &target);
        }
    }
    Ok(())
}

/// Puts an empty directory over the host's `hidden`, where the container would see it.
fn hide(root: &OwnedFd, plan: &Plan, hidden: &Path) -> Result<()> {
    let Ok(inside) = hidden.strip_prefix(&plan.rootfs) else { return Ok(()) };
    let failed = |errno| Error::at("hide", hidden, errno);
    match root::open(root, &Path::new("/").join(inside), OFlags::PATH | OFlags::DIRECTORY) {
        Ok(place) => attach(empty(plan.label.as_deref())?.as_fd(), place).map_err(failed),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(()),
        Err(errno) => Err(failed(errno)),
    }
}

/// An empty directory that nobody can fill, with an SELinux label.
pub(super) fn empty(label: Option<&str>) -> Result<OwnedFd> {
    let mut settings = vec![("nr_inodes", Some("2"))];
    settings.extend(label.map(|label| ("context", Some(label))));
    new_file_system("tmpfs", &settings, RDONLY | NOSUID | NODEV | NOEXEC)
}
