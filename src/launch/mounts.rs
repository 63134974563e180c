//! Mounts by descriptor: made where nobody sees them, then moved to a place that was resolved inside
//! the root. No path of the container is ever given to the kernel a second time.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{CWD, FileType, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, FsPickFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_reconfigure, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, fspick, move_mount,
    open_tree,
};

use super::copy_up;
use super::mount_options::Options;
use super::plan::Mount;
use super::root::{self, Target};
use super::userns;
use crate::error::{Error, Result};
use crate::sys::mount::{MountAttr, RDONLY};
use crate::sys::mount_setattr;

/// A detached mount, and what it has to be put on.
pub(super) type Source = (OwnedFd, Target);

/// Performs `mount` inside `root`, from the `source` that was opened for it.
pub(super) fn perform(root: impl AsFd, mount: &Mount, source: Option<Source>) -> Result<()> {
    if mount.options.remount {
        return change(root.as_fd(), mount);
    }
    let (tree, kind) = match source {
        Some(source) => source,
        None => (file_system(mount)?, Target::Directory),
    };
    let what = |step: &str| format!("{step} {}", mount.destination.display());
    // The kernel's own file systems decide what a process believes of itself: an image must not
    // have them mounted elsewhere (CVE-2019-19921, CVE-2023-27561).
    let kernels = !mount.options.bind && is_kernels(&mount.destination);
    let target = root::make_target(root, &mount.destination, kind, kernels).map_err(|errno| {
        let error = Error::os(what("make the mount point"), errno);
        match errno {
            Errno::LOOP if kernels => {
                Error::failed(what("mount on"), "the root filesystem has a symbolic link there")
                    .hint("/proc, /sys and /dev of a root filesystem have to be directories")
            }
            Errno::ROFS => error.hint("the root filesystem is read-only and lacks this mount point"),
            _ => error,
        }
    })?;
    if mount.options.copy_up && !mount.options.bind {
        copy_up::copy(&target, &tree).map_err(|errno| Error::os(what("fill"), errno))?;
        let attr = MountAttr { set: mount.options.attr.set & RDONLY, ..MountAttr::default() };
        mount_setattr(&tree, false, &attr)
            .map_err(|error| Error::io("make read-only", &mount.destination, &error))?;
    }
    let failed = |errno| Error::os(what("mount on"), errno);
    if kind_of(&target).map_err(failed)? != kind {
        let (source, place) = match kind {
            Target::Directory => ("directory", "file"),
            Target::File => ("file", "directory"),
        };
        return Err(Error::failed(what("mount on"), format!("a {source} cannot be mounted on a {place}")));
    }
    attach(&tree, &target).map_err(failed)
}

/// Changes what is mounted at the destination of `mount`: what its options name, and nothing else.
fn change(root: BorrowedFd<'_>, mount: &Mount) -> Result<()> {
    let failed = |errno| {
        let error = Error::os(format!("remount {}", mount.destination.display()), errno);
        if errno == Errno::INVAL { error.hint("nothing is mounted there") } else { error }
    };
    let open = if is_kernels(&mount.destination) { root::open_no_links } else { root::open };
    let place = open(root, &mount.destination, OFlags::PATH).map_err(failed)?;
    let attr = MountAttr { propagation: mount.options.attr.propagation, ..mount.options.attr };
    mount_setattr(&place, false, &attr)
        .map_err(|error| failed(Errno::from_io_error(&error).unwrap_or(Errno::IO)))?;
    if mount.options.data.is_empty() {
        return Ok(());
    }
    let context = fspick(&place, c"", FsPickFlags::FSPICK_CLOEXEC | FsPickFlags::FSPICK_EMPTY_PATH);
    let context = context.map_err(failed)?;
    let settings: Vec<_> =
        mount.options.data.iter().map(|(key, value)| (key.as_str(), value.as_deref())).collect();
    configure(&context, &settings, failed)?;
    fsconfig_reconfigure(&context).map_err(|errno| explain(&context, failed(errno)))
}

/// Gives a file system that is about to be made or changed its options.
fn configure(
    context: &OwnedFd,
    settings: &[(&str, Option<&str>)],
    failed: impl Fn(Errno) -> Error,
) -> Result<()> {
    for (key, value) in settings {
        let set = match value {
            Some(value) => fsconfig_set_string(context, *key, *value),
            None => fsconfig_set_flag(context, *key),
        };
        set.map_err(|errno| explain(context, failed(errno)).hint(format!("its option {key} was refused")))?;
    }
    Ok(())
}

pub(super) fn kind_of(file: impl AsFd) -> Result<Target, Errno> {
    let stat = rustix::fs::fstat(file)?;
    let directory = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    Ok(if directory { Target::Directory } else { Target::File })
}

/// `/proc`, `/sys`, `/dev` and what is below.
pub(super) fn is_kernels(path: &Path) -> bool {
    let first = path.components().find(|part| matches!(part, Component::Normal(_)));
    first.is_some_and(|name| ["proc", "sys", "dev"].iter().any(|kernels| name.as_os_str() == *kernels))
}

/// Moves the detached mount `tree` onto `target`.
pub(super) fn attach(tree: impl AsFd, target: impl AsFd) -> Result<(), Errno> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags)
}

/// A detached copy of the mount at `place`, with what is mounted below it where `recursive`.
pub(super) fn copy_tree(place: impl AsFd, recursive: bool) -> Result<OwnedFd, Errno> {
    open_tree(place, c"", copy_flags(recursive) | OpenTreeFlags::AT_EMPTY_PATH)
}

fn copy_flags(recursive: bool) -> OpenTreeFlags {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags }
}

/// The bind mount `mount`, detached; idmapped as `namespace` has it where that was asked for.
pub(super) fn bind(mount: &Mount, namespace: Option<BorrowedFd<'_>>) -> Result<Source> {
    // The plan gives every bind mount a source.
    let source = mount.source.as_deref().unwrap_or(Path::new("/"));
    let failed = |errno| {
        let what = format!("mount {} on {}", source.display(), mount.destination.display());
        Error::os(what, errno)
    };
    let tree = open_tree(CWD, source, copy_flags(mount.options.recursive)).map_err(failed)?;
    apply(&tree, &mount.options).map_err(failed)?;
    if let (Some(idmap), Some(namespace)) = (&mount.idmap, namespace) {
        userns::idmap(&tree, idmap.recursive, namespace, source)?;
    }
    let kind = kind_of(&tree).map_err(failed)?;
    Ok((tree, kind))
}

/// Gives a bind mount its attributes.
fn apply(tree: &OwnedFd, options: &Options) -> Result<(), Errno> {
    let of_io = |error: std::io::Error| Errno::from_io_error(&error).unwrap_or(Errno::IO);
    let (attr, below) = (options.attr, options.below);
    if options.recursive && below != MountAttr::default() {
        mount_setattr(tree, true, &below).map_err(of_io)?;
    }
    if attr.set != 0 || attr.clear != 0 {
        mount_setattr(tree, false, &MountAttr { propagation: 0, ..attr }).map_err(of_io)?;
    }
    // Nothing said is private: the copy still hears of the host's mounts.
    let (propagation, recursive) = match attr.propagation {
        0 => (nix::libc::MS_PRIVATE, true),
        propagation => (propagation, options.recursive_propagation),
    };
    let propagation = MountAttr { propagation, ..MountAttr::default() };
    mount_setattr(tree, recursive, &propagation).map_err(of_io)
}

pub(super) fn file_system(mount: &Mount) -> Result<OwnedFd> {
    // A configuration says `cgroup` on every host; the container gets the one hierarchy there is.
    let kind = if mount.kind == "cgroup" { "cgroup2" } else { mount.kind.as_str() };
    let options = &mount.options;
    let mut settings: Vec<(&str, Option<&str>)> = Vec::new();
    if let Some(source) = mount.source.as_deref().and_then(Path::to_str) {
        settings.push(("source", Some(source)));
    }
    settings.extend(options.data.iter().map(|(key, value)| (key.as_str(), value.as_deref())));
    // What is copied into it first has to be written.
    let attributes = options.attr.set & if options.copy_up { !RDONLY } else { !0 };
    let tree = new_file_system(kind, &settings, attributes).map_err(|error| Error {
        what: format!("mount {kind} on {}", mount.destination.display()),
        ..error
    })?;
    if options.attr.propagation != 0 {
        let propagation = MountAttr { propagation: options.attr.propagation, ..MountAttr::default() };
        mount_setattr(&tree, false, &propagation)
            .map_err(|error| Error::io("set the propagation of", &mount.destination, &error))?;
    }
    if let Some(label) = &mount.label {
        // Where that may not be, the container cannot use it: nothing is opened to anybody.
        let _ = set_label(&tree, label);
    }
    Ok(tree)
}

/// Gives the root directory of `tree` an SELinux label.
fn set_label(tree: &OwnedFd, label: &str) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::openat(tree, ".", flags, Mode::empty())?;
    rustix::fs::fsetxattr(dir, "security.selinux", label.as_bytes(), XattrFlags::empty())
}

/// A new, detached file system.
pub(super) fn new_file_system(
    kind: &str,
    settings: &[(&str, Option<&str>)],
    attributes: u64,
) -> Result<OwnedFd> {
    let failed = |errno| Error::os(format!("mount {kind}"), errno);
    let context = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC).map_err(failed)?;
    configure(&context, settings, failed)?;
    fsconfig_create(&context).map_err(|errno| explain(&context, failed(errno)))?;
    // The numbers of MOUNT_ATTR_* fit.
    let attributes = u32::try_from(attributes).unwrap_or(0);
    fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes))
        .map_err(failed)
}

/// Adds what the kernel itself says of the failure, where it says something.
fn explain(context: &OwnedFd, mut error: Error) -> Error {
    let mut message = [0; 512];
    if let Ok(length) = rustix::io::read(context, &mut message) {
        // "e overlay: ...": a severity, then the text.
        let text = String::from_utf8_lossy(message.get(2..length).unwrap_or_default());
        error.why = format!("{} ({})", error.why, text.trim_end());
    }
    error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_file_systems_are_known_by_their_place() {
        for path in ["/proc", "/sys/fs/cgroup", "/dev/shm", "//dev"] {
            assert!(is_kernels(Path::new(path)), "{path}");
        }
        for path in ["/process", "/run", "/var/dev"] {
            assert!(!is_kernels(Path::new(path)), "{path}");
        }
    }
}
