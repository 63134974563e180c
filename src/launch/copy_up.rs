//! `tmpcopyup`: a new tmpfs begins with what the root filesystem has in its place.
//!
//! The container does not run yet, but its image may hold anything: each entry is opened by name in
//! its own directory, and no link is ever followed.

use std::ffi::CStr;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{
    AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, chownat, fchmod, mkdirat,
    mknodat, openat, readlinkat, statat, symlinkat, utimensat,
};
use rustix::io::Errno;

/// Copies what is in the directory `from` into the directory `to`, with owners, modes and times, and
/// gives `to` those of `from`.
pub(super) fn copy(from: impl AsFd, to: impl AsFd) -> Result<(), Errno> {
    let from = openat(from, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let to = openat(to, c".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    directory(&from, &to)?;
    own(&to, c".", &rustix::fs::fstat(&from)?)
}

fn directory(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    for entry in Dir::read_from(from)? {
        let entry = entry?;
        let name = entry.file_name();
        if name != c"." && name != c".." {
            one(from, to, name)?;
        }
    }
    Ok(())
}

fn one(from: &OwnedFd, to: &OwnedFd, name: &CStr) -> Result<(), Errno> {
    let stat = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let open = |dir, flags, mode| {
        openat(dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::from_raw_mode(mode))
    };
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => {
            mkdirat(to, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY;
            directory(&open(from, flags, 0)?, &open(to, flags, 0)?)?;
        }
        FileType::RegularFile => {
            let mut source = File::from(open(from, OFlags::RDONLY | OFlags::NONBLOCK, 0)?);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
            let mut copy = File::from(open(to, flags, 0o600)?);
            std::io::copy(&mut source, &mut copy)
                .map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        FileType::Symlink => symlinkat(readlinkat(from, name, Vec::new())?.as_c_str(), to, name)?,
        kind => mknodat(to, name, kind, Mode::RUSR | Mode::WUSR, stat.st_rdev)?,
    }
    own(to, name, &stat)
}

/// Owner first: a change of it clears the set-user-ID bit. The times last.
fn own(dir: &OwnedFd, name: &CStr, stat: &Stat) -> Result<(), Errno> {
    let nofollow = AtFlags::SYMLINK_NOFOLLOW;
    chownat(dir, name, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)), nofollow)?;
    let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
    match FileType::from_raw_mode(stat.st_mode) {
        FileType::Symlink => {}
        FileType::Directory | FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            fchmod(openat(dir, name, flags, Mode::empty())?, mode)?;
        }
        // Made in a directory that nobody else can see yet: no link can have taken its place.
        _ => rustix::fs::chmodat(dir, name, mode, AtFlags::empty())?,
    }
    let time = |seconds, nanos: u64| Timespec {
        tv_sec: seconds,
        // Below a billion.
        tv_nsec: nanos.try_into().unwrap_or(0),
    };
    let times = Timestamps {
        last_access: time(stat.st_atime, stat.st_atime_nsec),
        last_modification: time(stat.st_mtime, stat.st_mtime_nsec),
    };
    utimensat(dir, name, &times, nofollow)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    use super::*;

    #[test]
    fn everything_arrives_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir_all(from.join("sub/deep")).unwrap();
        std::fs::create_dir(&to).unwrap();
        std::fs::write(from.join("sub/file"), "content").unwrap();
        std::fs::set_permissions(from.join("sub/file"), PermissionsExt::from_mode(0o4711)).unwrap();
        symlink("/etc/shadow", from.join("link")).unwrap();
        std::fs::set_permissions(&from, PermissionsExt::from_mode(0o1777)).unwrap();
        let open = |path| rustix::fs::open(path, OFlags::PATH, Mode::empty()).unwrap();
        copy(open(&from), open(&to)).unwrap();
        assert_eq!(std::fs::read_to_string(to.join("sub/file")).unwrap(), "content");
        let (old, new) = (from.join("sub/file").metadata().unwrap(), to.join("sub/file").metadata().unwrap());
        assert_eq!((old.mode(), old.mtime(), old.mtime_nsec()), (new.mode(), new.mtime(), new.mtime_nsec()));
        assert_eq!(std::fs::read_link(to.join("link")).unwrap().to_str(), Some("/etc/shadow"));
        assert!(to.join("sub/deep").is_dir());
        assert_eq!(to.metadata().unwrap().mode() & 0o7777, 0o1777);
    }
}
