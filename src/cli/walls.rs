//! The options of `create` and `run` about walls: who the processes are, what they may do, and which
//! namespaces they share.

use podrun::error::Result;
use podrun::spec::walls::{Security, Share, Walls};

#[derive(Debug, clap::Args)]
#[group(id = "walls")]
pub(super) struct WallArgs {
    /// Give every capability and device, and take down the walls: for what manages the host itself
    #[arg(long)]
    privileged: bool,
    /// Give a capability, or ALL
    #[arg(long, value_name = "CAP")]
    cap_add: Vec<String>,
    /// Take a capability, or ALL
    #[arg(long, value_name = "CAP")]
    cap_drop: Vec<String>,
    /// seccomp=FILE|unconfined, no-new-privileges, apparmor=PROFILE, label=…
    #[arg(long, value_name = "OPTION")]
    security_opt: Vec<String>,
    /// Add a supplementary group, by name or number
    #[arg(long, value_name = "GROUP")]
    group_add: Vec<String>,
    /// Limit a resource of each process, such as nofile=1024:4096
    #[arg(long, value_name = "NAME=SOFT[:HARD]")]
    ulimit: Vec<String>,
    /// Set a kernel setting of the container's own namespaces
    #[arg(long, value_name = "KEY=VALUE")]
    sysctl: Vec<String>,
    /// How much sooner (or, negative, later) the OOM killer takes it: -1000 to 1000
    #[arg(long, value_name = "SCORE", allow_negative_numbers = true)]
    oom_score_adj: Option<i32>,
    /// The processes it sees: private, host, or ns:PATH
    #[arg(long, value_name = "NAMESPACE", default_value = "private")]
    pid: Share,
    /// The shared memory and message queues it sees: private, host, or ns:PATH
    #[arg(long, value_name = "NAMESPACE", default_value = "private")]
    ipc: Share,
    /// The hostname it sees: private, host, or ns:PATH
    #[arg(long, value_name = "NAMESPACE", default_value = "private")]
    uts: Share,
}

impl WallArgs {
    pub(super) fn walls(self) -> Result<Walls> {
        Ok(Walls {
            privileged: self.privileged,
            cap_add: self.cap_add,
            cap_drop: self.cap_drop,
            security: Security::parse(&self.security_opt)?,
            group_add: self.group_add,
            ulimits: self.ulimit,
            sysctls: self.sysctl,
            oom_score_adj: self.oom_score_adj,
            pid: self.pid,
            ipc: self.ipc,
            uts: self.uts,
        })
    }
}
