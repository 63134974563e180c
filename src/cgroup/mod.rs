//! The cgroup (v2) of a container: where it is, what it says, and how it goes.
//!
//! ```text
//!  <mount>/podrun/ctr-ID     the workload: limits, freeze, kill, events
//!  <mount>/podrun/_shims     every shim, outside those limits and outside the caller's cgroup
//!    └── devices-HASH         nothing: it keeps the device program that containers share
//!  <mount>/SLICE/podrun-ID.scope    the workload, where systemd makes its cgroup
//! ```
//!
//! [`limits`] says which files hold what OCI asks for, `change` puts others in their place, `controllers`
//! has them, [`v1`] stands in for those that the host has bound there, `devices` is the one limit that is
//! no file, `freeze` stops everything, `procs` lists and signals it, [`usage`] reads, `remove` ends it.
//! [`systemd`] is the other one who makes cgroups.
//!
//! A container is *born* in its cgroup (CLONE_INTO_CGROUP), because
//! moving one costs time and races with its first fork. All files are read and written
//! relative to the directory's descriptor, so that a cgroup made again under the same name is
//! never taken for this one.

use std::cell::{OnceCell, RefCell};
use std::ffi::CString;
use std::io::ErrorKind;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::Instant;

use oci_spec::runtime::LinuxResources;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Dir, FileType, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{OpenTreeFlags, open_tree};

use crate::error::{Error, Result};
use crate::sys::mount::{MountAttr, RDONLY};
use crate::sys::mount_setattr;

mod change;
mod controllers;
mod devices;
mod freeze;
pub mod limits;
mod place;
mod procs;
mod remove;
pub mod systemd;
pub mod usage;
pub mod v1;

pub use place::{below_parent, container_path, is_of, mount, shims_path};
pub use remove::{end, remove};

/// `CGROUP2_SUPER_MAGIC` (`statfs(2)`).
const CGROUP2: u64 = 0x6367_7270;

const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);

/// One cgroup that exists, or did when it was opened.
#[derive(Debug)]
pub struct Cgroup {
    path: PathBuf,
    dir: OwnedFd,
    view: OnceCell<OwnedFd>,
    /// Its [legs](v1), once somebody has looked.
    legs: RefCell<Option<Vec<PathBuf>>>,
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
        match (std::fs::create_dir(path), path.parent()) {
            (Err(error), Some(above)) if error.kind() == ErrorKind::NotFound => {
                make_dirs(above)?;
                controllers::count_below(above);
                make_dirs(path)?;
            }
            (Err(error), _) if error.kind() != ErrorKind::AlreadyExists => {
                return Err(Error::io("create cgroup", path, &error));
            }
            _ => {}
        }
        Self::open(path)?.ok_or_else(|| Error::at("open cgroup", path, Errno::NOENT))
    }

    /// The cgroup at `path` with the limits of `resources`; not yet with its devices:
    /// [`restrict_devices`](Self::restrict_devices). `None` for one without a cgroup: the path is empty.
    pub fn create_for(path: &Path, resources: Option<&LinuxResources>) -> Result<Option<Self>> {
        if path.as_os_str().is_empty() {
            return Ok(None);
        }
        let settings = match resources {
            Some(resources) => limits::plan(resources, &v1::Bound::of_host()?)?,
            None => Vec::new(),
        };
        let cgroup = Self::create(path)?;
        cgroup.apply(&settings)?;
        Ok(Some(cgroup))
    }

    /// The cgroup at `path`, `None` where there is none.
    pub fn open(path: &Path) -> Result<Option<Self>> {
        match rustix::fs::open(path, DIRECTORY, Mode::empty()) {
            Ok(dir) => Ok(Some(Self::of(path, dir))),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::at("open cgroup", path, errno)),
        }
    }

    fn of(path: &Path, dir: OwnedFd) -> Self {
        Self { path: path.to_owned(), dir, view: OnceCell::new(), legs: RefCell::default() }
    }

    /// What tells it from another one that is made in its place.
    pub fn inode(&self) -> Result<u64> {
        let stat = rustix::fs::fstat(&self.dir).map_err(|errno| Error::at("look at", &self.path, errno))?;
        Ok(stat.st_ino)
    }

    /// Where it is, absolute, on the host.
    pub fn path(&self) -> &Path {
        &self.path
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
        let text = self.read("memory.events").ok();
        let text = text.or_else(|| self.leg("memory")?.read("memory.oom_control").ok())?;
        Some(oom_kills(text.as_bytes()))
    }

    /// `memory.events`: poll it as [`events`](Self::events); `None` without the memory controller.
    pub fn memory_events(&self) -> Option<OwnedFd> {
        self.open_file("memory.events", OFlags::RDONLY).ok()
    }

    /// The most memory it ever used, in bytes; `None` without the memory controller.
    pub fn memory_peak(&self) -> Option<u64> {
        let peak = self.read("memory.peak").ok();
        peak.or_else(|| self.leg("memory")?.read("memory.max_usage_in_bytes").ok())?.trim().parse().ok()
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
        let failed = |error: std::io::Error| Error::io("read", self.path.join(file), &error);
        let fd = self.open_file(file, OFlags::RDONLY)?;
        let mut text = Vec::with_capacity(1024);
        // Of its size the file system knows nothing: asking, and reading piece by piece, would cost more than
        // what is read.
        loop {
            text.reserve(1024);
            match rustix::io::read(&fd, rustix::buffer::spare_capacity(&mut text)) {
                Ok(0) => break,
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(self.error("read", file, errno)),
            }
        }
        String::from_utf8(text).map_err(|error| failed(std::io::Error::other(error)))
    }

    fn open_file(&self, file: &str, flags: OFlags) -> Result<OwnedFd> {
        let opened = rustix::fs::openat(&self.dir, file, flags | OFlags::CLOEXEC, Mode::empty());
        opened.map_err(|errno| self.error("open", file, errno))
    }

    /// A read-only mount of its own of this cgroup, whose root it is: for a process that may see the cgroup
    /// but must not find a way up from it. Made once, for the last descriptor of such a mount takes it
    /// apart when it is closed, which waits for every processor: 0.1 ms of each exec.
    pub fn view(&self) -> Result<BorrowedFd<'_>> {
        if let Some(view) = self.view.get() {
            return Ok(view.as_fd());
        }
        let flags =
            OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
        let view = open_tree(&self.dir, c"", flags).map_err(|errno| self.error("show", "", errno))?;
        mount_setattr(&view, false, &MountAttr { set: RDONLY, ..MountAttr::default() })
            .map_err(|error| Error::io("show", &self.path, &error))?;
        Ok(self.view.get_or_init(|| view).as_fd())
    }

    fn error(&self, operation: &str, file: &str, errno: Errno) -> Error {
        Error::at(operation, self.path.join(file), errno)
    }

    /// Waits until no process is in it or below. False where `deadline` came first.
    pub fn wait_until_empty(&self, deadline: Instant) -> Result<bool> {
        self.wait_for("populated", 0, deadline)
    }

    /// Waits until `cgroup.events` says `value` for `key`. False where `deadline` came first.
    fn wait_for(&self, key: &str, value: u64, deadline: Instant) -> Result<bool> {
        let events = self.events()?;
        loop {
            // Reading arms the next notification: in this order none is missed.
            if field(&self.read("cgroup.events")?, key) == Some(value) {
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

/// Makes the directory `path` and what is missing above it, where somebody may be removing what is empty.
fn make_dirs(path: &Path) -> Result<()> {
    let mut made = std::fs::create_dir_all(path);
    for _ in 0..100 {
        match &made {
            Err(error) if error.kind() == ErrorKind::NotFound => made = std::fs::create_dir_all(path),
            _ => break,
        }
    }
    made.map_err(|error| Error::io("create cgroup", path, &error))
}

/// The names of the cgroups right below `dir`.
fn names_below(dir: BorrowedFd<'_>) -> std::result::Result<Vec<CString>, Errno> {
    let mut names = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = match entry {
            Err(Errno::NOENT) => break,
            other => other?,
        };
        let name = entry.file_name();
        if entry.file_type() == FileType::Directory && name != c"." && name != c".." {
            names.push(name.to_owned());
        }
    }
    Ok(names)
}

/// How many ends by the OOM killer a text of `memory.events` tells of.
pub fn oom_kills(text: &[u8]) -> u64 {
    std::str::from_utf8(text).ok().and_then(|text| field(text, "oom_kill")).unwrap_or(0)
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
}
