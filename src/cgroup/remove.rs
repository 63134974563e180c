//! The end of a cgroup, with all that the container may have made below it.

use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;

use super::systemd::{self, Unit};
use super::{Cgroup, DIRECTORY, names_below, v1};
use crate::error::{Error, Result};

/// How long [`remove`] waits for processes that are exiting already.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// Removes the cgroup at `path` and all below, and its legs in v1. Kills nothing, but waits a while for
/// processes that are exiting already. One that does not exist is no error.
pub fn remove(path: &Path) -> Result<()> {
    let deadline = Instant::now() + EXIT_GRACE;
    remove_until(path, deadline)?;
    remove_podruns(path);
    for leg in v1::places(path) {
        if remove_leg(&leg)? {
            remove_podruns(&leg);
        }
    }
    Ok(())
}

/// Where the container was the last one below a podrun's own cgroup, that one goes, too.
fn remove_podruns(path: &Path) {
    let above = path
        .parent()
        .filter(|above| above.file_name().is_some_and(|name| is_podruns(name.as_encoded_bytes())));
    if let Some(above) = above {
        let _ = std::fs::remove_dir(above);
    }
}

/// A slice is systemd's, whatever its name begins with.
fn is_podruns(name: &[u8]) -> bool {
    name.starts_with(b"podrun") && !name.ends_with(b".slice")
}

/// No process of the container is left: one that is in a leg is a stranger, for whom it stays. Whether it was there,
/// and is gone.
fn remove_leg(path: &Path) -> Result<bool> {
    match std::fs::remove_dir(path) {
        Ok(()) => return Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        Err(_) => {}
    }
    let Some(leg) = Cgroup::open(path)? else { return Ok(false) };
    match remove_below(leg.as_fd()) {
        Ok(()) | Err(Errno::BUSY) => try_remove(path),
        Err(errno) => Err(Error::at("remove what is below cgroup", path, errno)),
    }
}

/// Ends whatever runs in the cgroup at `path`, and [removes](remove) it, with the `unit` of systemd whose it is. Where
/// another cgroup is there now than was that unit's, it stays.
pub fn end(path: &Path, unit: Option<Unit<'_>>) -> Result<()> {
    let mut killed = Ok(());
    if let Some(unit) = unit {
        if let Some(cgroup) = Cgroup::open(path)? {
            if unit.inode != Some(cgroup.inode()?) {
                return Ok(());
            }
            killed = cgroup.kill();
            // Whatever is left, or gone already, is looked at below.
            let _ = cgroup.wait_until_empty(Instant::now() + EXIT_GRACE);
        }
        // Without an answer the cgroup goes all the same; a systemd that comes back forgets the unit by itself.
        let _ = systemd::stop(unit.name, path).inspect_err(|error| tracing::warn!("{error}"));
    }
    // As a rule nothing does.
    if !try_remove(path)?
        && let Some(cgroup) = Cgroup::open(path)?
    {
        killed = cgroup.kill();
    }
    // Its legs may be there without it. Whoever could not be killed may end all the same.
    remove(path).map_err(|left| killed.err().unwrap_or(left))
}

fn remove_until(path: &Path, deadline: Instant) -> Result<()> {
    // The usual case: no child, no process.
    if try_remove(path)? {
        return Ok(());
    }
    let Some(cgroup) = Cgroup::open(path)? else { return Ok(()) };
    loop {
        match remove_below(cgroup.as_fd()) {
            Ok(()) | Err(Errno::BUSY) => {}
            Err(errno) => return Err(Error::at("remove what is below cgroup", path, errno)),
        }
        if try_remove(path)? {
            return Ok(());
        }
        match cgroup.wait_until_empty(deadline) {
            Ok(true) if Instant::now() < deadline => {}
            Ok(_) => {
                let pids: Vec<String> = cgroup.procs()?.iter().map(i32::to_string).collect();
                let why = format!("processes still run in it: {}", pids.join(" "));
                return Err(Error::failed(format!("remove cgroup {}", path.display()), why));
            }
            // Somebody else removed it.
            Err(error) if matches!(error.errno(), Some(Errno::NODEV | Errno::NOENT)) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

/// Removes every cgroup below `top`, the deepest first. However deep they are, this holds one
/// descriptor, and no path that may be longer than the kernel takes.
fn remove_below(top: BorrowedFd<'_>) -> Result<(), Errno> {
    let mut current = rustix::fs::openat(top, c".", DIRECTORY, Mode::empty())?;
    let mut way = Vec::new();
    loop {
        let mut busy = None;
        for name in names_below(current.as_fd())? {
            match rustix::fs::unlinkat(&current, &name, AtFlags::REMOVEDIR) {
                Ok(()) | Err(Errno::NOENT) => {}
                Err(Errno::BUSY) => busy = Some(name),
                Err(errno) => return Err(errno),
            }
        }
        if let Some(name) = busy {
            let below = rustix::fs::openat(&current, &name, DIRECTORY, Mode::empty())?;
            // Busy without a child: a process is in it.
            if names_below(below.as_fd())?.is_empty() {
                return rustix::fs::unlinkat(&current, &name, AtFlags::REMOVEDIR);
            }
            way.push(name);
            current = below;
        } else if way.pop().is_some() {
            current = rustix::fs::openat(&current, c"..", DIRECTORY, Mode::empty())?;
        } else {
            return Ok(());
        }
    }
}

/// Whether the cgroup is gone now.
fn try_remove(path: &Path) -> Result<bool> {
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Ok(false),
        Err(error) => Err(Error::io("remove cgroup", path, &error)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::mount;
    use super::*;

    #[test]
    fn a_cgroup_and_all_below_goes_and_one_that_is_not_there_is_gone() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let path = mount().unwrap().join(format!("podrun-test-{}", std::process::id()));
        let cgroup = Cgroup::create(&path.join("a/b")).unwrap();
        assert!(!cgroup.is_populated().unwrap());
        let top = Cgroup::open(&path).unwrap().unwrap();
        assert_eq!(names_below(top.as_fd()).unwrap().len(), 1);

        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        cgroup.write("cgroup.procs", &child.id().to_string()).unwrap();
        assert_eq!(top.procs().unwrap(), [i32::try_from(child.id()).unwrap()]);
        assert!(remove_until(&path, Instant::now()).is_err(), "a running process is not killed");

        cgroup.kill().unwrap();
        remove(&path).unwrap();
        assert!(!path.exists());
        remove(&path).unwrap();
        child.wait().unwrap();
    }

    #[test]
    fn a_tree_that_is_deeper_than_a_path_is_long_goes() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let path = mount().unwrap().join(format!("podrun-test-deep-{}", std::process::id()));
        let top = Cgroup::create(&path).unwrap();
        let name = "d".repeat(200);
        let mut dir = top.as_fd().try_clone_to_owned().unwrap();
        for _ in 0..30 {
            rustix::fs::mkdirat(&dir, c"sibling", Mode::RWXU).unwrap();
            rustix::fs::mkdirat(&dir, &name, Mode::RWXU).unwrap();
            dir = rustix::fs::openat(&dir, &name, DIRECTORY, Mode::empty()).unwrap();
        }
        drop(dir);
        assert!(top.procs().unwrap().is_empty());
        remove(&path).unwrap();
        assert!(!path.exists());
    }
}
