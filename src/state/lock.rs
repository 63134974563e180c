//! The lock of a container: held for life by its shim, else by the command that changes it.
//!
//! An open-file-description lock (`fcntl(2)`, `F_OFD_SETLK`) rather than `flock`: it belongs to the
//! open file in the same way, so that it passes from the creating command to the shim with the
//! descriptor and ends with the last one; but it can be *asked about* (`F_OFD_GETLK`) without
//! being taken for an instant, so that `list` never makes a `create` fail.

use std::fs::{DirBuilder, File, Metadata, OpenOptions};
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::publish::regular;
use crate::error::{Error, Result};

/// The held lock of one container. It ends when the last descriptor of the open file is closed.
#[derive(Debug)]
pub struct Lock(File);

fn whole_file(kind: libc::c_int) -> libc::flock {
    // `as`: the constants are c_int, the field is a short, on every Linux target.
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

impl Lock {
    /// Takes the lock at `path`; `None` where somebody holds it.
    pub fn try_take(path: &Path) -> Result<Option<Self>> {
        Self::take_with(path, FcntlArg::F_OFD_SETLK)
    }

    /// Takes the lock at `path`, and waits while somebody holds it.
    pub fn take(path: &Path) -> Result<Self> {
        loop {
            if let Some(lock) = Self::take_with(path, FcntlArg::F_OFD_SETLKW)? {
                return Ok(lock);
            }
        }
    }

    fn take_with(
        path: &Path,
        how: impl Fn(&'static libc::flock) -> FcntlArg<'static>,
    ) -> Result<Option<Self>> {
        static EXCLUSIVE: std::sync::LazyLock<libc::flock> =
            std::sync::LazyLock::new(|| whole_file(libc::F_WRLCK));
        let failed = |error: &std::io::Error| Error::io("lock", path, error);
        loop {
            let file = match open(path) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    let dir = path.parent().unwrap_or(Path::new("/"));
                    let mut builder = DirBuilder::new();
                    builder.recursive(true).mode(0o700);
                    builder.create(dir).map_err(|error| Error::io("create", dir, &error))?;
                    open(path).map_err(|error| failed(&error))?
                }
                other => other.map_err(|error| failed(&error))?,
            };
            match fcntl(&file, how(&EXCLUSIVE)) {
                Ok(_) => {}
                Err(nix::errno::Errno::EAGAIN | nix::errno::Errno::EACCES) => return Ok(None),
                Err(nix::errno::Errno::EINTR) => continue,
                Err(errno) => return Err(failed(&errno.into())),
            }
            // `delete` unlinks the file while it holds the lock: what was locked here may be a
            // file that no other command will ever open again.
            let lock = Self(file);
            if lock.protects(path) {
                return Ok(Some(lock));
            }
        }
    }

    /// Whether `path` still is the file that is locked here.
    pub fn protects(&self, path: &Path) -> bool {
        let same = |held: Metadata, now: Metadata| (held.dev(), held.ino()) == (now.dev(), now.ino());
        self.0.metadata().is_ok_and(|held| std::fs::metadata(path).is_ok_and(|now| same(held, now)))
    }

    /// Whether somebody holds the lock at `path`. Takes nothing.
    pub fn is_held(path: &Path) -> Result<bool> {
        let file = match regular(OpenOptions::new().read(true).write(true), path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(Error::io("lock", path, &error)),
        };
        let mut probe = whole_file(libc::F_WRLCK);
        fcntl(&file, FcntlArg::F_OFD_GETLK(&mut probe))
            .map_err(|errno| Error::io("lock", path, &errno.into()))?;
        Ok(libc::c_int::from(probe.l_type) != libc::F_UNLCK)
    }

    /// Removes the lock file. Only its holder may, and only once nothing is left to protect: a
    /// command that waits for this lock will notice, and lock the next file of that name.
    pub fn remove(self, path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(Error::io("remove", path, &error)),
            _ => Ok(()),
        }
    }

    /// The lock in a descriptor that another process handed over.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd.into())
    }
}

impl AsFd for Lock {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl From<Lock> for OwnedFd {
    fn from(lock: Lock) -> Self {
        lock.0.into()
    }
}

fn open(path: &Path) -> std::io::Result<File> {
    regular(OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600), path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_holder_at_a_time_and_asking_takes_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("locks/a");
        assert!(!Lock::is_held(&path).unwrap());
        let lock = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::is_held(&path).unwrap());
        assert!(Lock::try_take(&path).unwrap().is_none());
        let handed_over = lock.as_fd().try_clone_to_owned().unwrap();
        drop(lock);
        assert!(Lock::is_held(&path).unwrap(), "the lock passes with the descriptor");
        drop(handed_over);
        assert!(!Lock::is_held(&path).unwrap());
    }

    #[test]
    fn a_removed_lock_protects_nobody() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let first = Lock::try_take(&path).unwrap().unwrap();
        first.remove(&path).unwrap();
        let second = Lock::try_take(&path).unwrap().unwrap();
        assert!(Lock::try_take(&path).unwrap().is_none());
        drop(second);
    }
}
