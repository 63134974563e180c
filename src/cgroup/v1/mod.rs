//! Controllers that the host has bound to cgroup v1: the same limits in the files of another hierarchy each.
//!
//! ```text
//!  /sys/fs/cgroup/unified/podrun/ctr-ID            the cgroup: placement, kill, freeze, events, devices
//!  /sys/fs/cgroup/memory/podrun/ctr-ID             a leg of it, for each controller of which a limit was
//!  /sys/fs/cgroup/pids/podrun/ctr-ID               asked, or in which an engine will look
//! ```
//!
//! A leg is where its cgroup is, in the other hierarchy: what exists is found there, and nothing has to be
//! remembered. No process is *born* in a leg, so each [enters](Entrance::enter) them as its first step. As
//! all of them are in the cgroup too, that is where they are listed, frozen and killed.

mod limits;
mod usage;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::{Cgroup, make_dirs, mount};
use crate::error::{Error, Result};

pub(super) use limits::{plan_cpu, plan_hugetlb, plan_io, plan_memory, plan_unified};

/// `CGROUP_SUPER_MAGIC` (`statfs(2)`).
const CGROUP1: u64 = 0x0027_e0eb;

/// Where every host has its v1 hierarchies, each by its controller's name (`hier(7)`, systemd).
const TOP: &str = "/sys/fs/cgroup";

/// Controllers with limits, by their names in v2 and in v1.
const LIMITING: [(&str, &str); 7] = [
    ("memory", "memory"),
    ("pids", "pids"),
    ("cpu", "cpu"),
    ("cpuset", "cpuset"),
    ("io", "blkio"),
    ("hugetlb", "hugetlb"),
    ("rdma", "rdma"),
];

/// Those of v1.
pub(super) const CONTROLLERS: [&str; 7] = ["memory", "pids", "cpu", "cpuset", "blkio", "hugetlb", "rdma"];

/// v1 counts CPU time apart from its limits.
const ACCOUNTING: &str = "cpuacct";

/// Where engines that find a host with cgroup v1 look for what a container uses.
const COUNTING: [&str; 5] = ["memory", "pids", "cpu", ACCOUNTING, "blkio"];

/// How often the processes of a cgroup are moved anew while they make others.
const PASSES: usize = 1000;

/// Which controllers have their limits in cgroup v1.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bound(Vec<&'static str>);

impl Bound {
    /// As this host has them.
    pub fn of_host() -> Result<Self> {
        let v2 = mount()?;
        // The whole place is v2's.
        if v2 == Path::new(TOP) {
            return Ok(Self::default());
        }
        let there = Cgroup::open(&v2)?.map(|top| top.read("cgroup.controllers")).transpose()?;
        let there = there.unwrap_or_default();
        let elsewhere = |name: &str| there.split_ascii_whitespace().all(|other| other != name);
        let bound = LIMITING.into_iter().filter(|(name, v1)| elsewhere(name) && hierarchy(v1).is_some());
        Ok(Self(bound.map(|(name, _)| name).collect()))
    }

    /// With these, by their names in v2.
    #[cfg(test)]
    pub(super) fn with(controllers: &[&'static str]) -> Self {
        Self(controllers.to_vec())
    }

    /// The name of `controller`, which has another one in v2, where it is bound to v1.
    pub(super) fn v1(&self, controller: &str) -> Option<&'static str> {
        let bound = LIMITING.into_iter().find(|(name, _)| *name == controller && self.0.contains(name));
        bound.map(|(_, v1)| v1)
    }
}

/// Where the hierarchy of a v1 controller is mounted.
pub fn hierarchy(controller: &str) -> Option<PathBuf> {
    let place = Path::new(TOP).join(controller);
    let is_v1 = rustix::fs::statfs(&place).is_ok_and(|fs| u64::try_from(fs.f_type) == Ok(CGROUP1));
    is_v1.then_some(place)
}

/// The path of the cgroup `path` below the mount of v2, where v1 may be beside it.
fn below_mount(path: &Path) -> Option<PathBuf> {
    let mount = match path.strip_prefix("/sys/fs/cgroup/unified") {
        Ok(below) => return Some(below.to_owned()),
        Err(_) => mount().ok().filter(|mount| mount != Path::new(TOP))?,
    };
    path.strip_prefix(mount).ok().map(Path::to_owned)
}

/// Where the legs of the cgroup `path` are, those that exist and those that do not.
pub(super) fn places(path: &Path) -> Vec<PathBuf> {
    let Some(below) = below_mount(path).filter(|below| !below.as_os_str().is_empty()) else {
        return Vec::new();
    };
    CONTROLLERS
        .into_iter()
        .chain([ACCOUNTING])
        .map(|controller| Path::new(TOP).join(controller).join(&below))
        .collect()
}

/// The way into one leg, for the process that goes it.
#[derive(Debug)]
pub struct Entrance {
    path: PathBuf,
    /// `cgroup.procs`. The kernel asks whether who opened it may write to it, not who does.
    procs: OwnedFd,
}

impl AsFd for Entrance {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.procs.as_fd()
    }
}

impl Entrance {
    /// The calling process is in the leg from here on, and whom it starts.
    pub fn enter(&self) -> Result<()> {
        let entered = rustix::io::write(&self.procs, b"0");
        entered.map(drop).map_err(|errno| Error::at("enter cgroup", &self.path, errno))
    }
}

impl Cgroup {
    /// Its leg in the hierarchy of the v1 controller, where there is one.
    pub(super) fn leg(&self, controller: &str) -> Option<Self> {
        let path = Path::new(TOP).join(controller).join(below_mount(self.path())?);
        Self::open(&path).ok().flatten()
    }

    /// The ways into all of its legs. Where they are is looked for once: a container whose shim lives gets
    /// another one by nobody else, and eight times nothing found took 0.05 ms of each exec.
    pub fn entrances(&self) -> Result<Vec<Entrance>> {
        let mut legs = self.legs.borrow_mut();
        let legs = match &mut *legs {
            Some(legs) => legs,
            none => {
                let mut there = Vec::new();
                for place in places(self.path()) {
                    if Self::open(&place)?.is_some() {
                        there.push(place);
                    }
                }
                none.insert(there)
            }
        };
        let mut entrances = Vec::with_capacity(legs.len());
        for path in legs.iter() {
            if let Some(leg) = Self::open(path)? {
                let procs = leg.open_file("cgroup.procs", OFlags::WRONLY)?;
                entrances.push(Entrance { procs, path: path.clone() });
            }
        }
        Ok(entrances)
    }

    /// Makes the legs in which engines look for what a container uses. No limit needs them: best effort.
    pub fn be_counted(&self) {
        for controller in COUNTING.into_iter().filter(|name| hierarchy(name).is_some()) {
            let _ = self.make_leg(controller);
        }
    }

    /// Its leg in the hierarchy of `controller`, made where it does not exist yet; whatever runs in the cgroup
    /// is in the leg, too.
    pub(super) fn make_leg(&self, controller: &str) -> Result<Self> {
        let below = below_mount(self.path()).ok_or_else(|| {
            Error::failed(format!("limit {controller}"), "cgroup v1 is not mounted beside v2")
        })?;
        let top = Path::new(TOP).join(controller);
        let path = top.join(below);
        make_dirs(&path)?;
        *self.legs.borrow_mut() = None;
        let leg = Self::open(&path)?.ok_or_else(|| Error::at("open cgroup", &path, Errno::NOENT))?;
        if controller == "cpuset" {
            fill_cpuset(&top, &path)?;
        }
        self.move_into(&leg)?;
        Ok(leg)
    }

    /// Moves every process into `leg`. What a process starts meanwhile is found the next time, until there is
    /// none. What they have used so far stays where it was counted.
    fn move_into(&self, leg: &Self) -> Result<()> {
        for _ in 0..PASSES {
            let there = leg.procs()?;
            let missing: Vec<i32> = self.procs()?.into_iter().filter(|pid| !there.contains(pid)).collect();
            if missing.is_empty() {
                return Ok(());
            }
            for pid in missing {
                match leg.write("cgroup.procs", &pid.to_string()) {
                    // It has ended.
                    Err(error) if error.errno() == Some(Errno::SRCH) => {}
                    other => other?,
                }
            }
        }
        Err(Error::failed(
            format!("move the container into {}", leg.path().display()),
            "it makes processes too fast",
        )
        .hint("pause it first: `podrun pause ID`"))
    }
}

/// A cpuset in which nothing is set takes no process (cpusets.rst): each below `top` gets what the one above has.
fn fill_cpuset(top: &Path, path: &Path) -> Result<()> {
    let mut levels: Vec<&Path> = path.ancestors().take_while(|level| level.starts_with(top)).collect();
    levels.reverse();
    for file in ["cpuset.cpus", "cpuset.mems"] {
        let mut above = String::new();
        for level in &levels {
            let cgroup = Cgroup::open(level)?.ok_or_else(|| Error::at("open cgroup", level, Errno::NOENT))?;
            let own = cgroup.read(file)?;
            if own.trim().is_empty() {
                cgroup.write(file, above.trim())?;
            } else {
                above = own;
            }
        }
    }
    Ok(())
}
