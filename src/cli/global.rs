//! The options that stand before the command.

use std::path::PathBuf;

use clap::ValueEnum;
use podrun::spec::manager::Manager;

/// What stands before the command.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Global {
    /// Where containers are kept [default: /var/lib/podrun] [env: PODRUN_ROOT]
    #[arg(long, value_name = "DIR")]
    pub(super) root: Option<PathBuf>,
    /// Where their sockets and locks are [default: /run/podrun, or DIR/run with --root DIR] [env: PODRUN_RUN_ROOT]
    #[arg(long, value_name = "DIR")]
    pub(super) run_root: Option<PathBuf>,
    /// Also append an error to this file, and a warning instead of on stderr
    #[arg(long, value_name = "FILE")]
    pub(super) log: Option<PathBuf>,
    /// How they are written there
    #[arg(long, value_name = "FORMAT", default_value = "text")]
    pub(super) log_format: LogFormat,
    /// Tell on stderr what podrun does, from this level on [env: PODRUN_LOG]
    #[arg(long, value_name = "LEVEL", ignore_case = true)]
    pub(super) log_level: Option<LogLevel>,
    /// Who makes a container's cgroup: podrun in the file system, systemd as a scope, or nobody: then it has none,
    /// and no limits
    #[arg(long, value_name = "MANAGER", default_value = "cgroupfs")]
    pub(super) cgroup_manager: CgroupManager,
    /// The same as --cgroup-manager systemd
    #[arg(long)]
    pub(super) systemd_cgroup: bool,
    /// The same as --log-level debug
    #[arg(long)]
    pub(super) debug: bool,
}

/// `--cgroup-manager`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum CgroupManager {
    #[default]
    Cgroupfs,
    Systemd,
    Disabled,
}

impl Global {
    /// Who makes a container's cgroup.
    pub(super) fn manager(&self) -> Manager {
        match self.cgroup_manager {
            _ if self.systemd_cgroup => Manager::Systemd,
            CgroupManager::Systemd => Manager::Systemd,
            CgroupManager::Cgroupfs => Manager::Cgroupfs,
            CgroupManager::Disabled => Manager::Disabled,
        }
    }
}

/// `--log-format`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(super) enum LogFormat {
    #[default]
    Text,
    Json,
}

/// `--log-level`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum LogLevel {
    #[value(alias = "fatal")]
    Error,
    #[value(alias = "warning")]
    Warn,
    Info,
    Debug,
    Trace,
}
