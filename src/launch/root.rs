//! Paths inside a container's root, resolved by the kernel so that none can lead out of it.
//!
//! `openat2` with RESOLVE_IN_ROOT treats the given directory as `/`, for absolute links and `..`
//! too, while the tree may be changing; RESOLVE_NO_MAGICLINKS keeps `/proc/PID/fd` and the like out.
//! There is no other way: nothing here ever falls back to a path.

use std::ffi::OsStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// How often the kernel may find the tree changed under a resolution before it is an error.
const RETRIES: usize = 128;
/// As many links as the kernel itself follows.
const MAX_LINKS: usize = 40;

/// Opens `path` inside `root`.
pub(super) fn open(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve(root, path, flags, ResolveFlags::empty())
}

/// Opens `path` inside `root`; a symbolic link anywhere in it is ELOOP.
pub(super) fn open_no_links(root: impl AsFd, path: &Path, flags: OFlags) -> Result<OwnedFd, Errno> {
    resolve(root, path, flags, ResolveFlags::NO_SYMLINKS)
}

fn resolve(root: impl AsFd, path: &Path, flags: OFlags, more: ResolveFlags) -> Result<OwnedFd, Errno> {
    let how = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | more;
    for _ in 0..RETRIES {
        // EAGAIN: a rename or mount elsewhere made a `..` unsafe to judge.
        match openat2(&root, path, flags | OFlags::CLOEXEC, Mode::empty(), how) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// What a mount point has to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Directory,
    File,
}

/// Opens `path` inside `root` as a place for a mount; what is missing of it is made. Each part is made in
/// a directory that was itself opened inside the root, so that nothing is ever made elsewhere.
/// With `no_links`, a symbolic link anywhere in `path` is ELOOP.
pub(super) fn make_target(
    root: impl AsFd,
    path: &Path,
    target: Target,
    no_links: bool,
) -> Result<OwnedFd, Errno> {
    make(root.as_fd(), path, target, no_links, 0)
}

fn make(
    root: BorrowedFd<'_>,
    path: &Path,
    target: Target,
    no_links: bool,
    links: usize,
) -> Result<OwnedFd, Errno> {
    let open = if no_links { open_no_links } else { open };
    match open(root, path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let mut parts =
        path.components().filter(|part| matches!(part, Component::Normal(_) | Component::ParentDir));
    let mut done = PathBuf::from("/");
    let mut parent = open(root, &done, OFlags::PATH)?;
    while let Some(part) = parts.next() {
        let rest: PathBuf = parts.clone().collect();
        let above = done.clone();
        done.push(part);
        parent = match open(root, &done, OFlags::PATH) {
            Err(Errno::NOENT) => {
                let this = if rest.as_os_str().is_empty() { target } else { Target::Directory };
                match make_one(&parent, part.as_os_str(), this) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                match open(root, &done, OFlags::PATH) {
                    // A link to something that is not there, as an image's /etc/resolv.conf often is:
                    // what it points to is made, as seen from inside.
                    Err(Errno::NOENT) if links < MAX_LINKS && !no_links => {
                        let link = rustix::fs::readlinkat(&parent, part.as_os_str(), Vec::new())?;
                        let link = above.join(OsStr::from_bytes(link.as_bytes())).join(rest);
                        return make(root, &link, target, no_links, links + 1);
                    }
                    other => other?,
                }
            }
            other => other?,
        };
    }
    Ok(parent)
}

fn make_one(parent: &OwnedFd, name: &OsStr, target: Target) -> Result<(), Errno> {
    match target {
        Target::Directory => rustix::fs::mkdirat(parent, name, Mode::from_raw_mode(0o755)),
        Target::File => {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(parent, name, flags, Mode::from_raw_mode(0o644)).map(drop)
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn root(dir: &tempfile::TempDir) -> OwnedFd {
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        rustix::fs::open(&root, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap()
    }

    #[test]
    fn a_target_behind_a_link_is_made_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        std::fs::create_dir(dir.path().join("root/real")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        symlink("/real", dir.path().join("root/absolute")).unwrap();
        symlink("../../../../outside", dir.path().join("root/up")).unwrap();
        make_target(&root, Path::new("/absolute/a/b"), Target::File, false).unwrap();
        assert!(dir.path().join("root/real/a/b").is_file());
        // Inside the root `..` ends at the root: what the link names is made there.
        make_target(&root, Path::new("/up/x"), Target::Directory, false).unwrap();
        assert!(dir.path().join("root/outside/x").is_dir());
        assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn a_link_to_nothing_is_followed_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = root(&dir);
        std::fs::create_dir(dir.path().join("root/etc")).unwrap();
        symlink("../run/resolve/stub.conf", dir.path().join("root/etc/resolv.conf")).unwrap();
        symlink("loop", dir.path().join("root/loop")).unwrap();
        make_target(&root, Path::new("/etc/resolv.conf"), Target::File, false).unwrap();
        assert!(dir.path().join("root/run/resolve/stub.conf").is_file());
        let error = make_target(&root, Path::new("/loop/x"), Target::File, false).unwrap_err();
        assert_eq!(error, Errno::LOOP);
    }

    #[test]
    fn a_magic_link_leads_nowhere() {
        let proc = rustix::fs::open("/proc", OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(open(&proc, Path::new("self/root"), OFlags::PATH).unwrap_err(), Errno::LOOP);
        assert_eq!(open_no_links(&proc, Path::new("self"), OFlags::PATH).unwrap_err(), Errno::LOOP);
    }
}
