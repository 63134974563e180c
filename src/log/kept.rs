//! Files of a log that rotation is done with and a reader is not.
//!
//! ```text
//!  current.log ─▶ .1 ─▶ .2 ─▶ deleted, or, while somebody reads it or one before it,
//!                        └──▶ current.log.kept-1, -2 … ──▶ deleted once all of them are further
//!                                    ▲
//!  reader ──flock(LOCK_SH)──▶ the one file it is at: whatever comes behind that is kept, too
//! ```
//!
//! So a reader that is slower than the container misses nothing, holds nobody up, and needs no process to
//! speak for it: its lock goes with it. What it can cost is bounded: [`MOST`] bytes, and no more than is
//! still free on the disk; beyond that the oldest goes, and its reader is told that it missed some.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::{Errno, retry_on_intr};

use crate::error::{Error, Result};

/// The most that is kept of one log, in bytes.
pub const MOST: u64 = 1 << 30;
/// What stands between the log's name and the number.
const INFIX: &str = ".kept-";

/// Has `file`, and what comes behind it, kept as long as it is open.
pub(super) fn hold(file: &File) -> io::Result<()> {
    // Whoever asks for it exclusively only looks, and never waits.
    Ok(retry_on_intr(|| flock(file, FlockOperation::LockShared))?)
}

/// Whether somebody reads the file at `path`. Where that cannot be known nobody does.
fn is_held(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    flock(&file, FlockOperation::NonBlockingLockExclusive) == Err(Errno::WOULDBLOCK)
}

/// The kept files of the log at `path` with their numbers, oldest first.
pub(super) fn list(path: &Path) -> io::Result<Vec<(u64, PathBuf)>> {
    let Some((dir, name)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
        return Ok(vec![]);
    };
    let kept = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.strip_prefix(name)?.strip_prefix(INFIX)?.parse().ok()?;
        Some((number, entry.path()))
    };
    let mut files: Vec<_> = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().filter_map(kept).collect(),
        Err(error) if error.kind() == ErrorKind::NotFound => vec![],
        Err(error) => return Err(error),
    };
    files.sort();
    Ok(files)
}

/// The number of the kept file at `path`, where it is one.
pub(super) fn number(path: &Path) -> Option<u64> {
    path.file_name()?.to_str()?.rsplit_once(INFIX)?.1.parse().ok()
}

/// The kept files of one log, as its writer has them.
#[derive(Debug)]
pub struct Kept {
    log: PathBuf,
    /// Number and size, oldest first; read from the directory once. Readers remove some, too.
    files: Option<VecDeque<(u64, u64)>>,
}

impl Kept {
    /// Those of the log at `path`.
    pub fn of(path: &Path) -> Self {
        Self { log: path.to_owned(), files: None }
    }

    fn name(&self, number: u64) -> PathBuf {
        let mut name = self.log.clone().into_os_string();
        name.push(format!("{INFIX}{number}"));
        name.into()
    }

    fn files(&mut self) -> &mut VecDeque<(u64, u64)> {
        let log = &self.log;
        self.files.get_or_insert_with(|| {
            let size = |path: &Path| fs::metadata(path).map_or(0, |found| found.len());
            list(log).unwrap_or_default().into_iter().map(|(number, path)| (number, size(&path))).collect()
        })
    }

    /// Removes those that nobody needs any more.
    pub fn sweep(&mut self) {
        while let Some((number, _)) = self.files().front().copied() {
            if is_held(&self.name(number)) {
                break;
            }
            self.remove_oldest();
        }
    }

    /// Removes the oldest, whoever reads it; false where there is none.
    pub fn remove_oldest(&mut self) -> bool {
        let Some((number, _)) = self.files().pop_front() else { return false };
        // A reader may have been faster, and what cannot be removed now is looked at by the next writer.
        let _ = fs::remove_file(self.name(number));
        true
    }

    /// Keeps the file at `path`, which is about to be removed, if somebody needs it; it then has another
    /// name. False where nobody does.
    pub fn take(&mut self, path: &Path) -> Result<bool> {
        self.sweep();
        if self.files().is_empty() && !is_held(path) {
            return Ok(false);
        }
        let failed = |error: io::Error| Error::io("keep", path, &error);
        let size = fs::metadata(path).map_err(failed)?.len();
        let number = self.files().back().map_or(1, |(last, _)| last + 1);
        fs::rename(path, self.name(number)).map_err(failed)?;
        self.files().push_back((number, size));
        while self.exceeds() {
            self.remove_oldest();
        }
        Ok(true)
    }

    fn exceeds(&mut self) -> bool {
        let all: u64 = self.files().iter().map(|(_, size)| size).sum();
        let dir = self.log.parent().unwrap_or(Path::new("/"));
        let free = rustix::fs::statvfs(dir).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize));
        all > MOST.min(free)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(path: &Path) -> Vec<u64> {
        list(path).unwrap().into_iter().map(|(number, _)| number).collect()
    }

    #[test]
    fn what_is_read_is_kept_with_all_that_comes_behind_it_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current.log");
        let next = || {
            fs::write(&path, "x").unwrap();
            File::open(&path).unwrap()
        };
        let mut writer = Kept::of(&path);
        drop(next());
        assert!(!writer.take(&path).unwrap(), "nobody reads it");
        let first = next();
        hold(&first).unwrap();
        assert!(writer.take(&path).unwrap());
        let second = next();
        assert!(writer.take(&path).unwrap(), "it comes behind one that is read");
        drop(next());
        assert!(writer.take(&path).unwrap());
        assert_eq!(kept(&path), [1, 2, 3]);
        hold(&second).unwrap();
        drop(first);
        // The next writer of the log finds them, too.
        let mut writer = Kept::of(&path);
        writer.sweep();
        assert_eq!(kept(&path), [2, 3]);
        drop(second);
        writer.sweep();
        assert_eq!(kept(&path), [] as [u64; 0]);
        drop(next());
        assert!(!writer.take(&path).unwrap());
    }

    #[test]
    fn only_its_own_names_are_kept_files() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current.log");
        for name in
            ["current.log.kept-10", "current.log.kept-9", "current.log.kept-x", "current.log.1", "kept-3"]
        {
            fs::write(dir.path().join(name), "").unwrap();
        }
        assert_eq!(kept(&path), [9, 10]);
        assert_eq!(number(&dir.path().join("current.log.kept-10")), Some(10));
        assert_eq!(number(&dir.path().join("current.log.1")), None);
    }
}
