//! The cgroup (v2) of a container: where it is, what it says, and how it goes.
//!
//! ```text
//!  <mount>/podrun/ctr-ID     the workload: limits, freeze, kill, events
//!  <mount>/podrun/_shims     every shim, outside those limits and outside the caller's cgroup
//! ```
//!
//! Nothing here starts a process: a container is *born* in its cgroup (CLONE_INTO_CGROUP), because
//! moving one costs milliseconds and races with its first fork. All files are read and written
//! relative to the directory's descriptor, so that a cgroup made again under the same name is
//! never taken for this one.

use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, Result};
use crate::paths::{ContainerId, Roots};

/// How long [`remove`] waits for processes that are exiting already.
const EXIT_GRACE: Duration = Duration::from_secs(5);

/// `CGROUP2_SUPER_MAGIC` (`statfs(2)`).
const CGROUP2: u64 = 0x6367_7270;

/// One cgroup that exists, or did when it was opened.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: OwnedFd,
}

/// Where the host has its cgroup v2 tree.
pub fn mount() -> Result<PathBuf> {
    // The usual place, and where systemd puts it beside cgroup v1: no file has to be parsed.
    for place in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
        if rustix::fs::statfs(place).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(CGROUP2)) {
            return Ok(place.into());
        }
    }
    let mounts = procfs::mounts().map_err(|error| Error::failed("read /proc/mounts", error.to_string()))?;
    let mount = mounts.into_iter().find(|mount| mount.fs_vfstype == "cgroup2");
    mount.map(|mount| mount.fs_file.into()).ok_or_else(|| {
        Error::failed("find the cgroup v2 file system", "none is mounted")
            .hint("mount it: `mount -t cgroup2 none /sys/fs/cgroup`")
    })
}

/// The cgroup of container `id`.
pub fn container_path(roots: &Roots, id: &ContainerId) -> Result<PathBuf> {
    Ok(mount()?.join(roots.cgroup_name()).join(format!("ctr-{id}")))
}

/// The cgroup of every shim.
pub fn shims_path(roots: &Roots) -> Result<PathBuf> {
    Ok(mount()?.join(roots.cgroup_name()).join("_shims"))
}

/// CPU time, in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CpuTime {
    /// In user mode.
    pub user_usec: u64,
    /// In kernel mode.
    pub system_usec: u64,
}

impl Cgroup {
    /// The cgroup at `path`, made where it does not exist yet, with what is missing above it.
    pub fn create(path: &Path) -> Result<Self> {
        std::fs::create_dir_all(path).map_err(|error| Error::io("create cgroup", path, &error))?;
        Self::open(path)?.ok_or_else(|| Error::at("open cgroup", path, Errno::NOENT))
    }

    /// The cgroup at `path`, `None` where there is none.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(dir) => Ok(Some(Self { path: path.to_owned(), dir })),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::at("open cgroup", path, errno)),
        }
    }

    /// Where it is, absolute, on the host.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Ends every process in it and below, by SIGKILL. The call returns at once: wait for
    /// [`events`](Self::events), or for the processes.
    pub fn kill(&self) -> Result<()> {
        self.write("cgroup.kill", "1")
    }

    /// Every process in it and below.
    pub fn procs(&self) -> Result<Vec<i32>> {
        let mut pids = Vec::new();
        self.collect(&mut pids)?;
        Ok(pids)
    }

    fn collect(&self, pids: &mut Vec<i32>) -> Result<()> {
        let text = self.read("cgroup.procs")?;
        // A process of a pid namespace that this process cannot see shows as 0.
        pids.extend(text.lines().filter_map(|pid| pid.parse::<i32>().ok()).filter(|pid| *pid > 0));
        for child in self.children()? {
            match child.collect(pids) {
                // Removed between the listing and the look.
                Err(error) if matches!(error.errno(), Some(Errno::NODEV | Errno::NOENT)) => {}
                other => other?,
            }
        }
        Ok(())
    }

    /// Whether a process is in it or below.
    pub fn is_populated(&self) -> Result<bool> {
        Ok(field(&self.read("cgroup.events")?, "populated") == Some(1))
    }

    /// `cgroup.events`: poll it for EPOLLPRI (an error in poll's words) to hear of a change.
    pub fn events(&self) -> Result<OwnedFd> {
        self.open_file("cgroup.events", OFlags::RDONLY)
    }

    /// How often the OOM killer ended a process in it or below; `None` without the memory controller.
    pub fn oom_kills(&self) -> Option<u64> {
        field(&self.read("memory.events").ok()?, "oom_kill")
    }

    /// The most memory it ever used, in bytes; `None` without the memory controller.
    pub fn memory_peak(&self) -> Option<u64> {
        self.read("memory.peak").ok()?.trim().parse().ok()
    }

    /// CPU time of every process the cgroup has had: `cpu.stat`, there also without the cpu
    /// controller.
    pub fn cpu_time(&self) -> Option<CpuTime> {
        let text = self.read("cpu.stat").ok()?;
        let value =
            |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' ')?.parse().ok());
        Some(CpuTime { user_usec: value("user_usec")?, system_usec: value("system_usec")? })
    }

    /// Sets one of its files, such as `pids.max`.
    pub fn write(&self, file: &str, value: &str) -> Result<()> {
        let fd = self.open_file(file, OFlags::WRONLY)?;
        let written = rustix::io::write(&fd, value.as_bytes());
        written.map(drop).map_err(|errno| self.error("write", file, errno))
    }

    /// The text of one of its files.
    pub fn read(&self, file: &str) -> Result<String> {
        let mut text = String::new();
        let read = File::from(self.open_file(file, OFlags::RDONLY)?).read_to_string(&mut text);
        read.map_err(|error| Error::io("read", self.path.join(file), &error))?;
        Ok(text)
    }

    fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd> {
        let opened = rustix::fs::openat(&self.dir, file, flags | OFlags::CLOEXEC, Mode::empty());
        opened.map_err(|errno| self.error("open", file, errno))
    }

    fn error(&self, operation: &str, file: &str, errno: Errno) -> Error {
        Error::at(operation, self.path.join(file), errno)
    }

    fn children(&self) -> Result<Vec<Self>> {
        let failed = |errno| Error::at("read cgroup", &self.path, errno);
        let mut children = Vec::new();
        for entry in Dir::read_from(&self.dir).map_err(failed)? {
            let entry = match entry {
                Err(Errno::NOENT) => break,
                other => other.map_err(failed)?,
            };
            let name = entry.file_name();
            if entry.file_type() != FileType::Directory || name == c"." || name == c".." {
                continue;
            }
            let path = self.path.join(name.to_string_lossy().as_ref());
            children.extend(Self::open(&path)?);
        }
        Ok(children)
    }

    /// Waits until no process is in it or below. False where `deadline` came first.
    pub fn wait_until_empty(&self, deadline: Instant) -> Result<bool> {
        let events = self.events()?;
        loop {
            // Reading arms the next notification: in this order none is missed.
            if !self.is_populated()? {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = Timespec::try_from(left).ok();
            match poll(&mut [PollFd::new(&events, PollFlags::PRI)], timeout.as_ref()) {
                Err(Errno::INTR) | Ok(_) => {}
                Err(errno) => return Err(self.error("poll", "cgroup.events", errno)),
            }
            // Every open file has its own memory of what it has seen.
            let _ = rustix::io::pread(&events, &mut [0; 128], 0);
        }
    }
}

impl AsFd for Cgroup {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

/// Removes the cgroup at `path` and all below. Kills nothing, but waits a while for processes that
/// are exiting already. One that does not exist is no error.
pub fn remove(path: &Path) -> Result<()> {
    remove_until(path, Instant::now() + EXIT_GRACE)
}

fn remove_until(path: &Path, deadline: Instant) -> Result<()> {
    // The usual case: no child, no process.
    if try_remove(path)? {
        return Ok(());
    }
    let Some(cgroup) = Cgroup::open(path)? else { return Ok(()) };
    for child in cgroup.children()? {
        remove_until(&child.path, deadline)?;
    }
    loop {
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

/// Whether the cgroup is gone now.
fn try_remove(path: &Path) -> Result<bool> {
    match std::fs::remove_dir(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) if Errno::from_io_error(&error) == Some(Errno::BUSY) => Ok(false),
        Err(error) => Err(Error::io("remove cgroup", path, &error)),
    }
}

/// The number behind `key` in a file of `key value` lines.
fn field(text: &str, key: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))?;
    value.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_by_their_whole_name() {
        assert_eq!(field("oom 1\noom_kill 3\n", "oom_kill"), Some(3));
        assert_eq!(field("oom_kill 3\n", "oom"), None);
        assert_eq!(field("", "oom"), None);
    }

    #[test]
    fn a_cgroup_and_all_below_goes_and_one_that_is_not_there_is_gone() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let path = mount().unwrap().join(format!("podrun-test-{}", std::process::id()));
        let cgroup = Cgroup::create(&path.join("a/b")).unwrap();
        assert!(!cgroup.is_populated().unwrap());
        let top = Cgroup::open(&path).unwrap().unwrap();
        assert_eq!(top.children().unwrap().len(), 1);

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
}
