//! Files that are whole or absent: written beside their place, then renamed into it.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::libc;
use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use rustix::time::{ClockId, clock_gettime};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::tree;
use crate::error::{Error, Result};

/// How much a file of podrun's own may hold: far more than any real one, far less than memory.
const MAX_FILE: u64 = 64 << 20;

const DAMAGED: &str = "`podrun delete -f ID` removes a container whose files are damaged";

/// How much nearly all of them hold.
const USUAL: usize = 8 << 10;

/// Whether a publication must survive a power cut before it returns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Whole or absent for every reader; a power cut may take it back.
    Atomic,
    /// The same, and nothing of it is sent to the disk now: the kernel does that within half a minute, or [`sync`].
    /// Until [`saved`] says that this has come to pass, the last version of which it was said, or else the first,
    /// is kept beside it, for [`read_json`] after a power cut. (Some file systems send a file to the disk when it
    /// takes another one's place, ext4 in half a millisecond.)
    Eventual,
    /// The same, and on the disk when the call returns.
    Synced,
}

/// Puts `bytes` at `path`, mode 0600. Whoever reads `path` meanwhile sees the old file or the new one. A directory in its
/// place is removed, unless the publication is [`Durability::Atomic`]: such a path may be a user's own.
pub fn bytes(path: &Path, bytes: &[u8], durability: Durability) -> Result<()> {
    let temporary = &beside(path);
    let result = write(temporary, bytes, durability).and_then(|()| match durability {
        Durability::Eventual => change_places(temporary, path),
        Durability::Atomic => std::fs::rename(temporary, path),
        Durability::Synced => rename_over(temporary, path),
    });
    if let Err(error) = result {
        let _ = std::fs::remove_file(temporary);
        return Err(Error::io("write", path, &error));
    }
    if durability == Durability::Synced {
        // The rename itself is only on the disk once the directory is.
        let dir = path.parent().unwrap_or(Path::new("/"));
        File::open(dir).and_then(|dir| dir.sync_all()).map_err(|error| Error::io("sync", dir, &error))?;
        saved(path);
    }
    Ok(())
}

/// Where what belongs at `path` is written first.
fn beside(path: &Path) -> PathBuf {
    path.with_added_extension("tmp")
}

/// Where a version before is kept.
fn kept(path: &Path) -> PathBuf {
    path.with_added_extension("kept")
}

/// What is at `path` now is on the disk: nothing before it has to be kept.
pub fn saved(path: &Path) {
    let _ = clear(&kept(path));
}

/// Puts `new` at `path`, and keeps what was there, unless something older is kept: that may be on the disk, and this
/// need not be.
fn change_places(new: &Path, path: &Path) -> std::io::Result<()> {
    // Under both names before it loses the first: a crash in between must not leave it under none that is looked at.
    // There may be nothing to keep, or no such thing as a second name; what is new counts all the same.
    let linked = std::fs::hard_link(path, kept(path));
    match rustix::fs::renameat_with(CWD, new, CWD, path, RenameFlags::EXCHANGE) {
        Ok(()) => {
            // It is at its place, whatever becomes of what was there.
            let moved = match linked {
                Err(error) if error.kind() != ErrorKind::AlreadyExists => {
                    rustix::fs::renameat_with(CWD, new, CWD, kept(path), RenameFlags::NOREPLACE).is_ok()
                }
                _ => false,
            };
            if !moved {
                let _ = clear(new);
            }
            Ok(())
        }
        // There was nothing, or the file system cannot do it.
        Err(Errno::NOENT | Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => rename_over(new, path),
        Err(errno) => Err(errno.into()),
    }
}

/// Puts `new` at `path`, also where somebody has put a directory there.
fn rename_over(new: &Path, path: &Path) -> std::io::Result<()> {
    match std::fs::rename(new, path) {
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            clear(path)?;
            std::fs::rename(new, path)
        }
        other => other,
    }
}

/// Removes what is at `path`, also where it is a directory.
fn clear(path: &Path) -> std::io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == ErrorKind::IsADirectory => Ok(tree::remove(path)?),
        other => other,
    }
}

/// Sees what was published at `paths` onto the disk, as far as it is there: all of it, also after an error.
pub fn sync(paths: &[&Path]) -> Result<()> {
    let mut synced = Ok(());
    for path in paths {
        match regular(OpenOptions::new().read(true), path).and_then(|file| file.sync_all()) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                synced = synced.and(Err(Error::io("sync", path, &error)));
            }
            _ => {}
        }
    }
    synced
}

fn write(path: &Path, bytes: &[u8], durability: Durability) -> std::io::Result<()> {
    // What an earlier publication left is not overwritten: to empty a file is one more reason to send it to the disk.
    let _ = match durability {
        Durability::Atomic => std::fs::remove_file(path),
        Durability::Eventual | Durability::Synced => clear(path),
    };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    if durability == Durability::Synced { file.sync_all() } else { Ok(()) }
}

/// Puts `value` at `path` as JSON.
pub fn json<T: Serialize>(path: &Path, value: &T, durability: Durability) -> Result<()> {
    let mut text = serde_json::to_vec_pretty(value)
        .map_err(|error| Error::failed(format!("encode {}", path.display()), error.to_string()))?;
    text.push(b'\n');
    bytes(path, &text, durability)
}

/// Opens a file that podrun wrote. A FIFO or a device in its place, which would be waited for or would act, is none,
/// nor is a link.
pub(super) fn regular(options: &mut OpenOptions, path: &Path) -> std::io::Result<File> {
    let file = options.custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW).open(path);
    let file = file.map_err(|error| match error.raw_os_error() {
        // A link, a socket, a directory that is to be written, a FIFO that nobody reads.
        Some(libc::ELOOP | libc::ENXIO | libc::EISDIR) => irregular(),
        _ => error,
    })?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(irregular()) }
}

fn irregular() -> std::io::Error {
    std::io::Error::other("it is not a regular file")
}

/// Checks that a file can be made at `path`: before something is done whose result it is to hold.
pub fn check_place(path: &Path) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let access = rustix::fs::Access::WRITE_OK | rustix::fs::Access::EXEC_OK;
    rustix::fs::access(dir, access).map_err(|errno| Error::at("write", path, errno))
}

/// Reads JSON that podrun wrote; `None` where the file is absent. Where a power cut took some of its bytes it is the
/// version that was kept; without one, `None` where it took [them all](is_unwritten).
pub fn read_json<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let file = match regular(OpenOptions::new().read(true), path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path, &error).hint(DAMAGED)),
    };
    // One read for what nearly every file holds, instead of one for each doubling of a buffer.
    let mut text = Vec::with_capacity(USUAL);
    file.take(MAX_FILE).read_to_end(&mut text).map_err(|error| Error::io("read", path, &error))?;
    serde_json::from_slice(&text).map(Some).or_else(|error| {
        // What is JSON but not what was expected was written so.
        if !error.is_data() && is_before_boot(path) {
            let mut before = Vec::with_capacity(USUAL);
            let read = regular(OpenOptions::new().read(true), &kept(path))
                .and_then(|file| file.take(MAX_FILE).read_to_end(&mut before));
            if let Some(before) = read.ok().and_then(|_| serde_json::from_slice(&before).ok()) {
                return Ok(Some(before));
            }
            if is_unwritten(path) {
                return Ok(None);
            }
        }
        Err(Error::failed(format!("read {}", path.display()), format!("not a file podrun wrote: {error}"))
            .hint(DAMAGED))
    })
}

/// Whether the file at `path` is one whose name reached the disk before a power cut, and whose bytes did not: it is
/// empty, or nothing but zeros, as the file system has it, and older than this boot.
pub fn is_unwritten(path: &Path) -> bool {
    let read = regular(OpenOptions::new().read(true), path).and_then(|file| {
        let mut text = Vec::with_capacity(USUAL);
        file.take(MAX_FILE).read_to_end(&mut text).map(|_| text)
    });
    is_before_boot(path) && read.is_ok_and(|text| text.iter().all(|byte| *byte == 0))
}

/// Whether what is at `path` was last changed before this boot.
fn is_before_boot(path: &Path) -> bool {
    let up = Duration::try_from(clock_gettime(ClockId::Boottime)).unwrap_or_default();
    let booted = SystemTime::now().checked_sub(up).unwrap_or(SystemTime::UNIX_EPOCH);
    let changed = path.symlink_metadata().and_then(|metadata| metadata.modified());
    changed.is_ok_and(|changed| changed < booted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_publication_leaves_the_old_file_and_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        json(&path, &1, Durability::Synced).unwrap();
        // A directory in the temporary's place makes the write fail.
        std::fs::create_dir(dir.path().join("a.json.tmp")).unwrap();
        assert!(json(&path, &2, Durability::Atomic).is_err());
        assert_eq!(read_json::<i32>(&path).unwrap(), Some(1));
    }

    #[test]
    fn after_a_power_cut_the_version_before_counts_where_it_was_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let write = |number: i32| {
            json(&path, &number, Durability::Eventual).unwrap();
            assert_eq!(read_json(&path).unwrap(), Some(number));
            assert!(!beside(&path).exists());
        };
        let leave = |rest: &str| {
            std::fs::write(&path, rest).unwrap();
            let file = File::options().write(true).open(&path).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        };
        (1..=3).for_each(write);
        // Nothing of it, some, and zeros for all or the rest of it.
        for rest in ["", "-", "\0\0", "-\0"] {
            leave(rest);
            assert_eq!(read_json(&path).unwrap(), Some(1), "{rest:?}");
        }
        // This is what somebody wrote.
        leave("[]");
        assert!(read_json::<i32>(&path).is_err());
        write(4);
        sync(&[&path, &dir.path().join("absent")]).unwrap();
        saved(&path);
        // None of these is on the disk, however many there are.
        (5..=7).for_each(write);
        leave("");
        assert_eq!(read_json(&path).unwrap(), Some(4));
        std::fs::remove_file(kept(&path)).unwrap();
        assert_eq!(read_json::<i32>(&path).unwrap(), None);
        leave("-");
        assert!(read_json::<i32>(&path).is_err(), "some of it is there, and nothing was kept");
        leave("");
        // Neither waited for nor believed.
        nix::unistd::mkfifo(&kept(&path), nix::sys::stat::Mode::S_IRWXU).unwrap();
        assert_eq!(read_json::<i32>(&path).unwrap(), None);
        json(&path, &8, Durability::Synced).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(8));
        assert!(!kept(&path).exists());
    }

    #[test]
    fn a_directory_gives_way_to_a_file_of_podruns_own_and_to_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        let put = |path: &Path| {
            std::fs::create_dir(path).unwrap();
            std::fs::write(path.join("file"), "").unwrap();
        };
        for durability in [Durability::Eventual, Durability::Synced] {
            for in_the_way in [path.clone(), beside(&path), kept(&path)] {
                json(&path, &1, durability).unwrap();
                saved(&path);
                let _ = std::fs::remove_file(&in_the_way);
                put(&in_the_way);
                json(&path, &2, durability).unwrap();
                assert_eq!(read_json(&path).unwrap(), Some(2), "{durability:?}");
                saved(&path);
                assert!(!beside(&path).exists() && !kept(&path).exists(), "{in_the_way:?}");
            }
        }
        std::fs::remove_file(&path).unwrap();
        put(&path);
        assert!(json(&path, &3, Durability::Atomic).is_err());
        assert!(path.join("file").exists());
    }

    #[test]
    fn a_crash_at_any_step_leaves_the_version_before_where_it_is_looked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        json(&path, &1, Durability::Synced).unwrap();
        json(&path, &2, Durability::Eventual).unwrap();
        // As after the link alone, and as before what was there is removed.
        std::fs::remove_file(kept(&path)).unwrap();
        std::fs::hard_link(&path, kept(&path)).unwrap();
        std::fs::hard_link(&path, beside(&path)).unwrap();
        json(&path, &3, Durability::Eventual).unwrap();
        assert_eq!(read_json(&path).unwrap(), Some(3));
        assert_eq!(read_json(&kept(&path)).unwrap(), Some(2));
        assert!(!beside(&path).exists());
    }

    #[test]
    fn what_is_no_file_is_neither_read_nor_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let link = dir.path().join("link");
        std::fs::write(dir.path().join("file"), "1").unwrap();
        std::os::unix::fs::symlink("file", &link).unwrap();
        for path in [&fifo, &link, Path::new("/dev/null"), dir.path()] {
            let error = read_json::<i32>(path).unwrap_err();
            assert!(error.why.contains("not a regular file") && error.hint.is_some(), "{error}");
        }
    }

    #[test]
    fn a_truncated_file_is_an_error_with_a_hint_and_an_absent_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.json");
        assert_eq!(read_json::<i32>(&path).unwrap(), None);
        std::fs::write(&path, "{\"a\":").unwrap();
        let error = read_json::<serde_json::Value>(&path).unwrap_err();
        assert!(error.why.starts_with("not a file podrun wrote"), "{error}");
        assert!(error.hint.is_some());
    }
}
