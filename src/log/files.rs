//! The files of one log, as they are while somebody may be rotating them.
//!
//! ```text
//!  current.log  ◀── written          current.log.1  the one before it     current.log.2 …
//! ```
//!
//! Names move from left to right, so whoever opens them in that order may meet a file twice but misses
//! none. And if the first of them still means the same file afterwards, nothing was put before it: the
//! list is what the log was at one instant. What has left it for a reader's sake ([`kept`]) has numbers that
//! never change.

use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::kept;
use crate::error::{Error, Result};

/// One file of a log.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) path: PathBuf,
    pub(super) file: File,
    pub(super) inode: u64,
}

/// The log's files, oldest first. None where there is no log.
pub(super) fn open(path: &Path) -> Result<Vec<LogFile>> {
    loop {
        let mut files: Vec<LogFile> = Vec::new();
        for name in names(path)? {
            match open_one(&name)? {
                // Met again, one name further.
                Some(found) if files.iter().any(|file| file.inode == found.inode) => {}
                Some(found) => files.push(found),
                None => {}
            }
        }
        // In the middle of a rotation there is no current file for an instant; then it is the second
        // name that must still mean the same.
        let first = files.first().map(|file| (fs::metadata(&file.path), file));
        let same = match first {
            Some((Ok(now), file)) => now.ino() == file.inode,
            Some((Err(error), _)) if error.kind() == ErrorKind::NotFound => false,
            Some((Err(error), file)) => return Err(Error::io("read", &file.path, &error)),
            None => true,
        };
        if same {
            files.reverse();
            return Ok(files);
        }
    }
}

/// What comes behind a file that a reader has.
#[derive(Debug)]
pub(super) struct Behind {
    /// The files, oldest first.
    pub(super) files: Vec<LogFile>,
    /// There are more of them.
    pub(super) more: bool,
    /// Something may have been between the reader's file and these.
    pub(super) gap: bool,
}

/// The files behind `last`, or all there are; of the kept ones at most `most`.
pub(super) fn open_behind(path: &Path, last: Option<&LogFile>, most: usize) -> Result<Behind> {
    let mut files = open(path)?;
    let known = |files: &[LogFile]| {
        last.and_then(|last| files.iter().position(|file| file.inode == last.inode)).map(|at| at + 1)
    };
    let Some(last) = last else { return Ok(Behind { files, more: false, gap: false }) };
    if let Some(next) = known(&files) {
        files.drain(..next);
        return Ok(Behind { files, more: false, gap: false });
    }
    // Looked at after the others: what left them meanwhile is among these, and then it ends the list.
    let all = kept::list(path).map_err(|error| Error::io("read", path, &error))?;
    let is_last = |path: &Path| fs::metadata(path).is_ok_and(|found| found.ino() == last.inode);
    let next = match kept::number(&last.path) {
        Some(last) => all.iter().position(|(number, _)| *number == last).map(|at| at + 1),
        None => all.iter().rposition(|(_, path)| is_last(path)).map(|at| at + 1),
    };
    let mut gap = next.is_none();
    let mut chain: Vec<LogFile> = Vec::new();
    for (_, name) in &all[next.unwrap_or(0)..] {
        if chain.len() == most {
            return Ok(Behind { files: chain, more: true, gap });
        }
        match open_one(name)? {
            Some(found) if files.iter().any(|file| file.inode == found.inode) => break,
            Some(found) => chain.push(found),
            None => gap = true,
        }
    }
    // Where the log is being deleted there is nothing that could have been missed.
    gap &= !(files.is_empty() && chain.is_empty());
    chain.append(&mut files);
    Ok(Behind { files: chain, more: false, gap })
}

fn open_one(path: &Path) -> Result<Option<LogFile>> {
    let failed = |error: std::io::Error| Error::io("read", path, &error);
    match File::open(path) {
        Ok(file) => {
            let inode = file.metadata().map_err(failed)?.ino();
            Ok(Some(LogFile { path: path.to_owned(), file, inode }))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
    }
}

/// Every name that a file of this log may have, newest first.
fn names(path: &Path) -> Result<Vec<PathBuf>> {
    let Some((dir, name)) = path.parent().zip(path.file_name().and_then(|name| name.to_str())) else {
        return Ok(vec![path.to_owned()]);
    };
    let age = |entry: fs::DirEntry| -> Option<u32> {
        let found = entry.file_name();
        let (log, age) = found.to_str()?.rsplit_once('.')?;
        (log == name).then(|| age.parse().ok())?
    };
    let oldest = match fs::read_dir(dir) {
        Ok(entries) => entries.flatten().filter_map(age).max().unwrap_or(0),
        Err(error) if error.kind() == ErrorKind::NotFound => 0,
        Err(error) => return Err(Error::io("read", dir, &error)),
    };
    // One more: the oldest may move while they are opened.
    let older = (1..=oldest.saturating_add(1)).map(|age| path.with_added_extension(age.to_string()));
    Ok(std::iter::once(path.to_owned()).chain(older).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_come_oldest_first_whatever_else_lies_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current.log");
        assert!(open(&path).unwrap().is_empty());
        for name in ["current.log", "current.log.1", "current.log.10", "current.log.x", "current.json", "a"] {
            fs::write(dir.path().join(name), name).unwrap();
        }
        let names: Vec<_> = open(&path).unwrap().into_iter().map(|file| file.path).collect();
        let expected = ["current.log.10", "current.log.1", "current.log"].map(|name| dir.path().join(name));
        assert_eq!(names, expected);
    }

    #[test]
    fn a_list_never_has_a_gap_while_the_log_is_rotated() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current.log");
        let name = |age: u32| match age {
            0 => path.clone(),
            age => path.with_added_extension(age.to_string()),
        };
        fs::write(&path, "0").unwrap();
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for generation in 1..2000 {
                    for age in (0..3).rev().filter(|age| name(*age).exists()) {
                        fs::rename(name(age), name(age + 1)).unwrap();
                    }
                    let fresh = dir.path().join("new");
                    fs::write(&fresh, generation.to_string()).unwrap();
                    fs::rename(fresh, &path).unwrap();
                }
            });
            while !writer.is_finished() {
                let files = open(&path).unwrap();
                let number =
                    |file: &LogFile| std::io::read_to_string(&file.file).unwrap().parse::<u32>().unwrap();
                let numbers: Vec<_> = files.iter().map(number).collect();
                assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
            }
        });
    }
}
