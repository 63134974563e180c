//! Where everything lives: the container's ID and every path that follows from it.
//!
//! ```text
//! ROOT/containers/ID/       spec.json state.json exit.json log/ upper/ work/      durable
//! RUN/ID/                   shim.sock exit.json shim.log log.journal health.json relay.log   volatile
//! RUN/.events/              a FIFO for each `podrun events`, while one runs
//! RUN/locks/ID              the lock, outside ID/ so that delete and create cannot race over it
//! <cgroup>/podrun/ctr-ID    the workload;  <cgroup>/podrun/_shims  every shim
//! ```

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// The durable root where nothing else is said.
pub const DEFAULT_ROOT: &str = "/var/lib/podrun";
/// The volatile root where nothing else is said.
pub const DEFAULT_RUN_ROOT: &str = "/run/podrun";

/// The directory of the locks in the run root, where each container has one under its ID.
const LOCKS: &str = "locks";

/// The name of a container: `[A-Za-z0-9][A-Za-z0-9_.+-]*`, at most 128 bytes.
///
/// Whoever holds one may use it as a file name: it has no slash, is not `.` or `..`, and does not
/// begin with a dot or a dash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

impl ContainerId {
    /// The longest ID, in bytes.
    pub const MAX: usize = 128;

    /// The ID as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ContainerId {
    type Err = Error;

    fn from_str(id: &str) -> Result<Self> {
        let what = || format!("container ID {id:.140?}");
        let hint = "an ID is a letter or digit, then letters, digits and _ . + -, up to 128 bytes";
        if id.is_empty() {
            return Err(Error::usage(what(), "is empty").hint(hint));
        }
        if id == LOCKS {
            return Err(Error::usage(what(), "is the name of podrun's own directory of locks"));
        }
        if id.len() > Self::MAX {
            return Err(Error::usage(what(), format!("has {} bytes", id.len())).hint(hint));
        }
        let legal = |c: u8| c.is_ascii_alphanumeric() || b"_.+-".contains(&c);
        if !id.as_bytes()[0].is_ascii_alphanumeric() || !id.bytes().all(legal) {
            return Err(Error::usage(what(), "has a character that is not allowed").hint(hint));
        }
        Ok(Self(id.to_owned()))
    }
}

impl TryFrom<String> for ContainerId {
    type Error = Error;

    fn try_from(id: String) -> Result<Self> {
        id.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The two directories a podrun works in. Both are absolute.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roots {
    /// What outlives a reboot.
    pub root: PathBuf,
    /// What does not.
    pub run_root: PathBuf,
}

impl Roots {
    /// The roots that the command line or the environment chose. Where only `root` is given, the
    /// volatile root is `root/run`, so that two roots never share a container's socket or lock.
    pub fn new(root: Option<&Path>, run_root: Option<&Path>) -> Result<Self> {
        let absolute =
            |path: &Path| std::path::absolute(path).map_err(|error| Error::io("resolve", path, &error));
        let run_root = match (root, run_root) {
            (_, Some(run_root)) => absolute(run_root)?,
            (Some(root), None) => absolute(&root.join("run"))?,
            (None, None) => PathBuf::from(DEFAULT_RUN_ROOT),
        };
        Ok(Self { root: absolute(root.unwrap_or(Path::new(DEFAULT_ROOT)))?, run_root })
    }

    /// The directory that holds one directory for each container.
    pub fn containers(&self) -> PathBuf {
        self.root.join("containers")
    }

    /// The directory of the locks.
    pub fn locks(&self) -> PathBuf {
        self.run_root.join(LOCKS)
    }

    /// The directory of those who listen to events; absent while nobody does. No ID begins with a dot.
    pub fn events(&self) -> PathBuf {
        self.run_root.join(".events")
    }

    /// The name of podrun's own cgroup: `podrun`, or `podrun-<hash>` for any run root but the
    /// default, so that equal IDs under two roots never share a cgroup.
    pub fn cgroup_name(&self) -> String {
        if self.run_root == Path::new(DEFAULT_RUN_ROOT) {
            return "podrun".to_owned();
        }
        // FNV-1a: no secret is protected, only two names are kept apart.
        let path = self.run_root.as_os_str().as_encoded_bytes();
        let hash = path.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        format!("podrun-{hash:016x}")
    }

    /// Every path of container `id`.
    pub fn container(&self, id: &ContainerId) -> ContainerPaths {
        ContainerPaths {
            dir: self.containers().join(id.as_str()),
            run_dir: self.run_root.join(id.as_str()),
            lock: self.locks().join(id.as_str()),
        }
    }
}

/// Every path of one container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ContainerPaths {
    /// The durable directory.
    pub dir: PathBuf,
    /// The volatile directory.
    pub run_dir: PathBuf,
    /// The lock file.
    pub lock: PathBuf,
}

impl ContainerPaths {
    /// The container's ID.
    pub fn id(&self) -> Result<ContainerId> {
        self.lock.file_name().and_then(|name| name.to_str()).unwrap_or_default().parse()
    }

    /// The OCI configuration the container is made from.
    pub fn spec(&self) -> PathBuf {
        self.dir.join("spec.json")
    }

    /// The state file.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// The durable exit record.
    pub fn exit(&self) -> PathBuf {
        self.dir.join("exit.json")
    }

    /// The first copy of the exit record, in the volatile directory.
    pub fn run_exit(&self) -> PathBuf {
        self.run_dir.join("exit.json")
    }

    /// The directory of the container's log files.
    pub fn log_dir(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The output that is shown where no log can be read back, in the volatile directory: there, and
    /// written, once somebody has watched.
    pub fn relay(&self) -> PathBuf {
        self.run_dir.join("relay.log")
    }

    /// The batch of output on its way into the log, in the volatile directory.
    pub fn log_journal(&self) -> PathBuf {
        self.run_dir.join("log.journal")
    }

    /// What the container wrote above its root (`--rootfs DIR:O`).
    pub fn upper(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// overlayfs's own work directory.
    pub fn work(&self) -> PathBuf {
        self.dir.join("work")
    }

    /// What the shim has found out about the container's health.
    pub fn health(&self) -> PathBuf {
        self.run_dir.join("health.json")
    }

    /// The control socket of the shim.
    pub fn socket(&self) -> PathBuf {
        self.run_dir.join("shim.sock")
    }

    /// The gate at which an init without a shim waits for `start` (OCI mode).
    pub fn gate(&self) -> PathBuf {
        self.run_dir.join("gate.sock")
    }

    /// What the shim has to say about itself.
    pub fn shim_log(&self) -> PathBuf {
        self.run_dir.join("shim.log")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ids_that_could_leave_the_directory_are_refused() {
        for id in ["locks", "", ".", "..", "../x", "a/b", "-a", ".a", "a b", "a\0", "ä", &"x".repeat(129)] {
            assert!(id.parse::<ContainerId>().is_err(), "{id:?}");
        }
        for id in ["a", "0", "a.b_c+d-e", &"x".repeat(128)] {
            assert!(id.parse::<ContainerId>().is_ok(), "{id:?}");
        }
    }

    #[test]
    fn only_the_default_run_root_has_the_plain_cgroup() {
        let plain = Roots::new(None, None).unwrap();
        let other = Roots::new(Some(Path::new("/srv/p")), None).unwrap();
        assert_eq!(plain.cgroup_name(), "podrun");
        assert_eq!(other.run_root, Path::new("/srv/p/run"));
        assert_ne!(other.cgroup_name(), plain.cgroup_name());
    }

    proptest! {
        #[test]
        fn an_accepted_id_is_one_plain_file_name(id in "\\PC{0,140}") {
            if let Ok(id) = id.parse::<ContainerId>() {
                let path = Path::new(id.as_str());
                prop_assert_eq!(path.components().count(), 1);
                prop_assert_eq!(path.file_name().unwrap(), id.as_str());
                prop_assert!(id.as_str().len() <= ContainerId::MAX);
            }
        }
    }
}
