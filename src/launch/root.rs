//! Paths inside a container's root, resolved by the kernel so that none can lead out of it.
//!
//! `openat2` with RESOLVE_IN_ROOT treats the given directory as `/`, for absolute links and `..`
//! too, while the tree may be changing; RESOLVE_NO_MAGICLINKS keeps `/proc/PID/fd` and the like out.
//! There is no other way: nothing here ever falls back to a path.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;

/// How often the kernel may find the tree changed under a resolution before it is an error.
const RETRIES: usize = 128;

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
    let open = if no_links { open_no_links } else { open };
    match open(root.as_fd(), path, OFlags::PATH) {
        Err(Errno::NOENT) => {}
        other => return other,
    }
    let parts: Vec<_> = path
        .components()
        .filter_map(|part| if let Component::Normal(name) = part { Some(name) } else { None })
        .collect();
    let mut done = PathBuf::from("/");
    let mut parent = open(root.as_fd(), &done, OFlags::PATH)?;
    for (index, name) in parts.iter().enumerate() {
        done.push(name);
        let last = index + 1 == parts.len();
        parent = match open(root.as_fd(), &done, OFlags::PATH) {
            Err(Errno::NOENT) => {
                let made = if last && target == Target::File {
                    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                    rustix::fs::openat(&parent, *name, flags, Mode::from_raw_mode(0o644)).map(drop)
                } else {
                    rustix::fs::mkdirat(&parent, *name, Mode::from_raw_mode(0o755))
                };
                match made {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(errno) => return Err(errno),
                }
                open(root.as_fd(), &done, OFlags::PATH)?
            }
            other => other?,
        };
    }
    Ok(parent)
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
        // Inside the root `..` ends at the root, where there is no such directory.
        assert!(make_target(&root, Path::new("/up/x"), Target::Directory, false).is_err());
        assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 0);
    }

    #[test]
    fn a_magic_link_leads_nowhere() {
        let proc = rustix::fs::open("/proc", OFlags::PATH, Mode::empty()).unwrap();
        assert_eq!(open(&proc, Path::new("self/root"), OFlags::PATH).unwrap_err(), Errno::LOOP);
        assert_eq!(open_no_links(&proc, Path::new("self"), OFlags::PATH).unwrap_err(), Errno::LOOP);
    }
}
