//! Removing a directory with all that a container has put into it, however deep.
//!
//! ```text
//!  top/a/b/c   ──▶   top/a  top/.lifted-1/c   ──▶   top/.lifted-1  top/.lifted-2   ──▶   top/   ──▶   nothing
//! ```
//!
//! A directory in a directory is lifted to the top before its own is removed: neither descriptors nor stack grow
//! with the depth, which a process decides that knows `mkdir` and `chdir`.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, openat, renameat, unlinkat};
use rustix::io::Errno;

/// How often others may put something there meanwhile: a process that is about to end, a line about a file that it
/// did not find, for example.
const TRIES: u32 = 100;

/// Removes `dir` with all that is in it; that it is not there is no error.
pub(super) fn remove(dir: &Path) -> Result<(), Errno> {
    let top = match open(CWD, dir) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => return rustix::fs::unlink(dir),
        Err(errno) => return Err(errno),
    };
    let (mut lifted, mut tries) = (0, TRIES);
    loop {
        let mut gone = 0;
        let found = each(&top, |name| {
            gone += u32::from(unlink(&top, name)? || dissolve(&top, name, &mut lifted)?);
            Ok(())
        })?;
        if !found {
            match rustix::fs::rmdir(dir) {
                Ok(()) | Err(Errno::NOENT) => return Ok(()),
                Err(Errno::NOTEMPTY | Errno::EXIST) if tries > 0 => tries -= 1,
                Err(errno) => return Err(errno),
            }
        } else if gone == 0 {
            tries = tries.checked_sub(1).ok_or(Errno::NOTEMPTY)?;
        }
    }
}

fn open(parent: impl AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

/// Calls `act` for each entry; whether there was one. An entry that comes or goes meanwhile may be missed.
fn each(dir: &OwnedFd, mut act: impl FnMut(&CStr) -> Result<(), Errno>) -> Result<bool, Errno> {
    let mut found = false;
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            found = true;
            act(name)?;
        }
    }
    Ok(found)
}

/// Removes a file or an empty directory. False: it is a directory that is not empty.
fn unlink(dir: &OwnedFd, name: &CStr) -> Result<bool, Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(true),
        Err(Errno::ISDIR) => {}
        // What POSIX says of a directory; of a file, that it may not be removed.
        Err(Errno::PERM) if open(dir, name).is_ok() => {}
        Err(errno) => return Err(errno),
    }
    match unlinkat(dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(true),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Removes the directory `name` of `top`; what is in it of directories that are not empty is then in `top`. False:
/// somebody put something into it meanwhile.
fn dissolve(top: &OwnedFd, name: &CStr, lifted: &mut u64) -> Result<bool, Errno> {
    let dir = open(top, name)?;
    while each(&dir, |name| if unlink(&dir, name)? { Ok(()) } else { lift(&dir, name, top, lifted) })? {}
    unlink(top, name)
}

fn lift(dir: &OwnedFd, name: &CStr, top: &OwnedFd, lifted: &mut u64) -> Result<(), Errno> {
    loop {
        *lifted += 1;
        match renameat(dir, name, top, format!(".lifted-{lifted}")) {
            Ok(()) => return Ok(()),
            // That name was the container's idea, too. An empty directory of that name would be replaced.
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::NOTDIR) => {}
            // An overlay does not move directories that its lower layer has as well; those are not deep.
            Err(Errno::XDEV) => {
                let path = format!("/proc/self/fd/{}/{}", dir.as_raw_fd(), name.to_string_lossy());
                return std::fs::remove_dir_all(path)
                    .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO));
            }
            Err(errno) => return Err(errno),
        }
    }
}

#[cfg(test)]
mod tests {
    use rustix::fs::mkdirat;

    use super::*;

    /// A directory of `depth` levels, with a file in each.
    fn deep(top: &Path, depth: usize) {
        std::fs::create_dir(top).unwrap();
        let mut dir = open(CWD, top).unwrap();
        for _ in 0..depth {
            let flags = OFlags::CREATE | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&dir, "file", flags, Mode::RUSR).unwrap();
            mkdirat(&dir, ".lifted-1", Mode::RWXU).unwrap();
            mkdirat(&dir, "empty", Mode::RWXU).unwrap();
            dir = open(&dir, ".lifted-1").unwrap();
        }
    }

    #[test]
    fn a_tree_of_any_depth_is_removed_with_few_descriptors() {
        let parent = tempfile::tempdir().unwrap();
        let top = parent.path().join("top");
        deep(&top, 5000);
        std::fs::write(top.join(".lifted-2"), "").unwrap();
        std::os::unix::fs::symlink("/etc", top.join("link")).unwrap();
        remove(&top).unwrap();
        assert!(!top.exists() && Path::new("/etc/passwd").exists());
        // What is not there is gone; a link is not what it leads to.
        remove(&top).unwrap();
        std::os::unix::fs::symlink("/etc", &top).unwrap();
        remove(&top).unwrap();
        assert!(top.symlink_metadata().is_err() && Path::new("/etc/passwd").exists());
    }
}
