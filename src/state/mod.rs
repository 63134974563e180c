//! What is known about a container, and how it is kept on disk.
//!
//! [`State`] is `state.json`: written before anything exists, replaced by rename at each
//! transition, and carrying what tells a container from a stranger: the boot id, and for each
//! process its pid *and start time*. [`ExitRecord`] is `exit.json`: how the container ended.
//!
//! ```text
//!  creating ──▶ created ──start──▶ running ──init ends──▶ stopped ──start (supervised)──▶ creating
//!      └──── create fails: nothing is left ────┘              └──delete──▶ gone
//! ```
//!
//! One writer: the shim while it lives (it holds the [`lock`]), else the command that took the
//! lock. Readers take no lock: [`publish`] never shows half a file. [`store`] is the directory
//! of all containers.

use std::path::PathBuf;

use jiff::Timestamp;
use rustix::process::WaitIdStatus;
use serde::{Deserialize, Serialize};

use crate::cgroup::Cgroup;
use crate::cgroup::systemd::Unit;
use crate::error::Result;
use crate::paths::ContainerId;
use crate::spec::manager::Manager;

pub mod health;
pub mod lock;
pub mod process;
pub mod publish;
pub mod store;
mod tree;

/// The version of `state.json` and `exit.json` that this build writes.
pub const STATE_VERSION: u32 = 1;

/// The OCI status of a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Being built; a crash here leaves something that only `delete -f` removes.
    Creating,
    /// Built; init waits just before `execve`.
    Created,
    /// The command runs.
    Running,
    /// Running, and frozen.
    Paused,
    /// Ended.
    Stopped,
}

impl Status {
    /// The word that the OCI state, `list` and `inspect` show.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// Who waits for init.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// A `podrun-shim` of ours.
    Supervised,
    /// The engine that called `create --bundle`.
    Oci,
}

/// A process that cannot be mistaken for another one: within one boot, no two processes share
/// both numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProcessRef {
    /// The pid in the host's pid namespace.
    pub pid: i32,
    /// Field 22 of `/proc/PID/stat`: clock ticks since boot.
    pub start_time: u64,
}

/// A file that cannot be mistaken for another one while somebody has it open.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct FileRef {
    /// `st_dev` (`stat(2)`).
    pub device: u64,
    /// `st_ino`.
    pub inode: u64,
}

impl FileRef {
    /// The file that `stat` is about.
    pub fn of(stat: &rustix::fs::Stat) -> Self {
        Self { device: stat.st_dev, inode: stat.st_ino }
    }
}

/// The pipes between a container and its shim, by which another shim finds them again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PipeRefs {
    /// The container's stdout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stdout: Option<FileRef>,
    /// The container's stderr.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stderr: Option<FileRef>,
    /// Where a minimal init tells how the command ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<FileRef>,
    /// Keeper and shim died together, and whoever took over found one of them no more: whatever was in it
    /// is lost.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lost: bool,
}

/// What the restart policy of a container has done since the container was started by hand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Restarts {
    /// How often it has started the container again, the time that is due included.
    pub count: u32,
    /// How many of them followed each other before the container had run for a while.
    pub in_a_row: u32,
    /// When it is started again: the container waits for that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub due: Option<Timestamp>,
}

/// Who ended a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoppedBy {
    /// A `stop`, or a `kill` that was meant to end it.
    User,
    /// `--health-on-failure stop`.
    Health,
    /// SIGTERM to its shim: the host goes down.
    Shutdown,
}

/// `state.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct State {
    /// [`STATE_VERSION`] of the writer.
    pub version: u32,
    /// The container.
    pub id: ContainerId,
    /// The last status its writer knew; see [`store`] for what is true now.
    pub status: Status,
    /// It had been created before the start that made it `creating` once more: what fails then leaves it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub again: bool,
    /// Who waits for init.
    pub mode: Mode,
    /// `/proc/sys/kernel/random/boot_id` of the boot in which the processes below live.
    pub boot_id: String,
    /// The container's init, once it was cloned.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub init: Option<ProcessRef>,
    /// The shim, in supervised mode.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shim: Option<ProcessRef>,
    /// The process that makes another shim when that one dies; absent once it has died itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keeper: Option<ProcessRef>,
    /// How often another shim took over, since the container was started last.
    #[serde(default)]
    pub adoptions: u32,
    /// What its output goes through.
    #[serde(default)]
    pub pipes: PipeRefs,
    /// The container's cgroup: absolute, on the host. Empty where cgroups are disabled.
    pub cgroup_path: PathBuf,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Manager::is_default")]
    pub cgroups: Manager,
    /// The inode of the cgroup that systemd made for it, in the boot of `boot_id`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cgroup_inode: Option<u64>,
    /// The bundle: the caller's in OCI mode, the container's own directory otherwise.
    pub bundle: PathBuf,
    /// The root filesystem, as an absolute path on the host.
    pub rootfs: PathBuf,
    /// The command and its arguments, for a listing that does not read every `spec.json`.
    #[serde(default)]
    pub args: Vec<String>,
    /// When `create` began.
    pub created_at: Timestamp,
    /// When the command was executed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// What its restart policy has done, and is about to do.
    #[serde(default)]
    pub restarts: Restarts,
    /// Who ended it for good, where it did not end by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stopped_by: Option<StoppedBy>,
    /// What the status cannot say: why the exit code is unknown, why a start failed, what befell its shim.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl State {
    /// The state of a container whose creation begins now; nothing is known of its command yet.
    pub fn creating(id: &ContainerId, mode: Mode, cgroup_path: PathBuf, bundle: PathBuf) -> Self {
        Self {
            version: STATE_VERSION,
            id: id.clone(),
            status: Status::Creating,
            again: false,
            mode,
            boot_id: process::boot_id(),
            init: None,
            shim: None,
            keeper: None,
            adoptions: 0,
            pipes: PipeRefs::default(),
            cgroup_path,
            cgroups: Manager::default(),
            cgroup_inode: None,
            bundle,
            rootfs: PathBuf::new(),
            args: Vec::new(),
            created_at: Timestamp::now(),
            started_at: None,
            restarts: Default::default(),
            stopped_by: None,
            reason: None,
        }
    }

    /// The unit of systemd that the cgroup is, where it is one.
    pub fn unit(&self) -> Option<Unit<'_>> {
        let name = self.cgroup_path.file_name().and_then(|name| name.to_str());
        let name = name.filter(|_| self.cgroups == Manager::Systemd)?;
        Some(Unit { name, inode: self.cgroup_inode.filter(|_| self.boot_id == process::boot_id()) })
    }

    /// Remembers which cgroup systemd has made, where it has made one; whether it has.
    pub fn remember_unit(&mut self, cgroup: Option<&Cgroup>) -> Result<bool> {
        let cgroup = cgroup.filter(|_| self.cgroups == Manager::Systemd);
        self.cgroup_inode = cgroup.map(Cgroup::inode).transpose()?;
        Ok(self.cgroup_inode.is_some())
    }

    /// Whether the container has a cgroup of its own.
    pub fn has_cgroup(&self) -> bool {
        !self.cgroup_path.as_os_str().is_empty()
    }
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Ending {
    /// It called `exit` with this code.
    Exited(i32),
    /// This signal ended it.
    Signaled {
        /// The signal's number.
        signal: i32,
        /// A core was dumped.
        core: bool,
    },
}

impl Ending {
    /// What `waitid` told; `None` where that is no end.
    pub fn of(status: &WaitIdStatus) -> Option<Self> {
        if let Some(code) = status.exit_status() {
            return Some(Self::Exited(code));
        }
        status.terminating_signal().map(|signal| Self::Signaled { signal, core: status.dumped() })
    }

    /// The code that shells and engines use: the exit code, or 128 + the signal.
    pub fn code(self) -> i32 {
        match self {
            Self::Exited(code) => code,
            Self::Signaled { signal, .. } => 128 + signal,
        }
    }
}

/// `exit.json`: how a container ended, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExitRecord {
    /// [`STATE_VERSION`] of the writer.
    pub version: u32,
    /// The exit code, or 128 + the signal; absent where it cannot be known.
    pub exit_code: Option<i32>,
    /// The signal that ended init, or that podrun ended it in the name of.
    pub exit_signal: Option<i32>,
    /// A core was dumped.
    pub core: bool,
    /// Init was ended by the kernel's OOM killer.
    pub oom_killed: bool,
    /// How many processes of the cgroup the OOM killer ended.
    pub oom_kills: u64,
    /// When the command was executed; absent where it never was.
    pub started_at: Option<Timestamp>,
    /// When init ended.
    pub finished_at: Option<Timestamp>,
    /// CPU time in user mode, of every process of the container: microseconds.
    pub user_usec: u64,
    /// CPU time in kernel mode, likewise.
    pub system_usec: u64,
    /// The most memory the cgroup ever used: bytes. Absent without the memory controller.
    pub memory_peak: Option<u64>,
    /// Everything that was in the pipes when init ended is in the log.
    pub logs_drained: bool,
    /// Why the exit code cannot be known, why the command never ran, or why podrun ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl ExitRecord {
    /// A record that says only that the end was not seen, and why.
    pub fn unknown(started_at: Option<Timestamp>, reason: impl Into<String>) -> Self {
        Self {
            version: STATE_VERSION,
            exit_code: None,
            exit_signal: None,
            core: false,
            oom_killed: false,
            oom_kills: 0,
            started_at,
            finished_at: None,
            user_usec: 0,
            system_usec: 0,
            memory_peak: None,
            logs_drained: false,
            reason: Some(reason.into()),
        }
    }

    /// The same record, with the end that `waitid` told.
    #[must_use]
    pub fn ended(mut self, ending: Ending) -> Self {
        self.exit_code = Some(ending.code());
        if let Ending::Signaled { signal, core } = ending {
            self.exit_signal = Some(signal);
            self.core = core;
        }
        self.reason = None;
        self
    }
}
