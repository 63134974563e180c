//! The JSON that `state`, `inspect` and `list` show of a container: the OCI state, and what podrun
//! knows beyond it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use podrun::error::Result;
use podrun::paths::ContainerPaths;
use podrun::state::health::{Check, HealthState, HealthStatus};
use podrun::state::store::View;
use podrun::state::{Mode, ProcessRef, Status, publish};
use serde::{Deserialize, Serialize};

/// The version of the OCI runtime specification whose state this is.
const OCI_VERSION: &str = "1.2.0";

/// One container.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Document {
    oci_version: &'static str,
    id: String,
    status: Status,
    pid: i32,
    bundle: PathBuf,
    rootfs: PathBuf,
    created: Timestamp,
    created_at: Timestamp,
    started_at: Option<Timestamp>,
    finished_at: Option<Timestamp>,
    exit_code: Option<i32>,
    exit_signal: Option<i32>,
    oom_killed: bool,
    /// Absent where an engine supervises.
    shim: Option<Shim>,
    pid_alive: bool,
    cgroup_path: PathBuf,
    reason: Option<String>,
    /// How often its restart policy has started it again.
    restart_count: u32,
    /// When it does so next.
    #[serde(skip_serializing_if = "Option::is_none")]
    restart_due: Option<Timestamp>,
    /// Whether it does its work, where that is checked.
    #[serde(skip_serializing_if = "Option::is_none")]
    health: Option<Health>,
    annotations: BTreeMap<String, String>,
    /// Whose it is, as engines expect the field: podrun's containers are root's.
    owner: &'static str,
}

#[derive(Debug, Serialize)]
struct Shim {
    pid: i32,
    alive: bool,
    /// The pid of the process that replaces the shim if it dies; 0 where that one is gone.
    keeper: i32,
    /// How often the shim was replaced, since the container was started last.
    adoptions: u32,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Health {
    status: HealthStatus,
    failing_streak: u32,
    last: Option<Check>,
}

impl Health {
    fn of(state: HealthState) -> Self {
        Self { status: state.status, failing_streak: state.failing_streak, last: state.last }
    }
}

/// What of `spec.json` is shown beside the state.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Excerpt {
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    process: Command,
}

#[derive(Debug, Default, Deserialize)]
struct Command {
    #[serde(default)]
    args: Vec<String>,
}

impl Excerpt {
    pub(super) fn read(paths: &ContainerPaths) -> Result<Self> {
        Ok(publish::read_json(&paths.spec())?.unwrap_or_default())
    }

    /// The container's command line.
    pub(super) fn command(&self) -> String {
        self.process.args.join(" ")
    }
}

impl Document {
    pub(super) fn of(view: View, excerpt: Excerpt) -> Self {
        let View { state, shim_alive, pid_alive, exit, health } = view;
        let pid_of = |process: Option<ProcessRef>| process.filter(|_| shim_alive).map_or(0, |it| it.pid);
        let shim = Shim {
            pid: pid_of(state.shim),
            alive: shim_alive,
            keeper: pid_of(state.keeper),
            adoptions: state.adoptions,
        };
        let exit = exit.as_ref();
        Self {
            oci_version: OCI_VERSION,
            id: state.id.to_string(),
            status: state.status,
            pid: pid(&state),
            bundle: state.bundle,
            rootfs: state.rootfs,
            created: state.created_at,
            created_at: state.created_at,
            started_at: exit.and_then(|exit| exit.started_at).or(state.started_at),
            finished_at: exit.and_then(|exit| exit.finished_at),
            exit_code: exit.and_then(|exit| exit.exit_code),
            exit_signal: exit.and_then(|exit| exit.exit_signal),
            oom_killed: exit.is_some_and(|exit| exit.oom_killed),
            shim: (state.mode == Mode::Supervised).then_some(shim),
            pid_alive,
            cgroup_path: state.cgroup_path,
            reason: state.reason.or_else(|| exit.and_then(|exit| exit.reason.clone())),
            restart_count: state.restarts.count,
            restart_due: state.restarts.due,
            health: health.map(Health::of),
            annotations: excerpt.annotations,
            owner: "root",
        }
    }
}

/// Init's pid, 0 once it has ended.
pub(super) fn pid(state: &podrun::state::State) -> i32 {
    state.init.filter(|_| state.status != Status::Stopped).map_or(0, |init| init.pid)
}
