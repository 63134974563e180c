//! Pausing and limits where a command, or the shim, holds the container's lock.

use super::{no_cgroup, not_running};
use crate::cgroup::limits::plan;
use crate::cgroup::v1::Bound;
use crate::cgroup::{Cgroup, systemd};
use crate::error::{Error, Kind, Result};
use crate::events::{What, emit};
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::spec::Ordered;
use crate::spec::limits::{self, LinuxResources};
use crate::state::publish::{self, Durability};
use crate::state::{State, Status, store};

/// Puts `changes` over the container's limits: into its cgroup where it has one, then into `spec.json`, so
/// that a later start keeps them; all of them or none. So that it stays, the `unit` of systemd whose cgroup it is gets
/// to know it. The caller holds the container's lock.
pub fn update_limits(
    paths: &ContainerPaths,
    cgroup: Option<&Cgroup>,
    unit: Option<&str>,
    changes: &LinuxResources,
) -> Result<()> {
    let path = paths.spec();
    let mut spec = store::spec(paths)?;
    let before = limits::resources(&spec).cloned();
    limits::merge(&mut spec, changes)?;
    let keep = || publish::json(&path, &Ordered(&spec), Durability::Eventual);
    let Some(merged) = limits::resources(&spec) else { return keep() };
    let settings = plan(merged, &Bound::of_host()?)?;
    let Some(cgroup) = cgroup else { return keep() };
    cgroup.change(&settings, || {
        if let Some(unit) = unit {
            systemd::set(unit, &settings)?;
        }
        let rest = || {
            if changes.devices().is_none() {
                return keep();
            }
            cgroup.replace_devices(Some(merged))?;
            keep().inspect_err(|_| {
                if let Err(error) = cgroup.replace_devices(before.as_ref()) {
                    tracing::warn!("{error}");
                }
            })
        };
        rest().inspect_err(|_| {
            let Some(unit) = unit else { return };
            let was = before.as_ref().map_or(Ok(Vec::new()), |before| plan(before, &Bound::of_host()?));
            if let Err(error) = was.and_then(|was| systemd::set(unit, &was)) {
                tracing::warn!("{error}");
            }
        })
    })
}

/// Changes the limits of a container that has no shim. The caller holds its lock.
pub fn update(roots: &Roots, id: &ContainerId, changes: &LinuxResources) -> Result<()> {
    let view = store::find_locked(roots, id)?.ok_or_else(|| Error::no_such_container(id))?;
    let cgroup = match view.pid_alive {
        true => Some(open(&view.state)?),
        false => None,
    };
    let paths = roots.container(id);
    update_limits(&paths, cgroup.as_ref(), view.state.unit().map(|unit| unit.name), changes)?;
    // No shim will.
    publish::sync(&[&paths.spec()])?;
    publish::saved(&paths.spec());
    emit(roots, id, What::Update);
    Ok(())
}

/// Pauses a container that has no shim, or lets it go on. The caller holds its lock.
pub fn set_paused(roots: &Roots, id: &ContainerId, pause: bool) -> Result<()> {
    let view = store::find_locked(roots, id)?.ok_or_else(|| Error::no_such_container(id))?;
    let mut state = view.state;
    let is = match state.status {
        Status::Running if view.pid_alive => false,
        Status::Paused if view.pid_alive => true,
        _ => return Err(not_running(&state)),
    };
    if pause == is {
        return match pause {
            true => Ok(()),
            false => Err(Error::new(Kind::WrongState, format!("container {id}"), "is not paused")),
        };
    }
    let cgroup = open(&state)?;
    if pause {
        cgroup.freeze_and_wait()?
    } else {
        cgroup.thaw()?
    }
    state.status = if pause { Status::Paused } else { Status::Running };
    store::write_state(&roots.container(id), &state, Durability::Atomic)?;
    emit(roots, id, if pause { What::Pause } else { What::Resume });
    Ok(())
}

fn open(state: &State) -> Result<Cgroup> {
    match state.has_cgroup() {
        true => Cgroup::open(&state.cgroup_path)?.ok_or_else(|| not_running(state)),
        false => Err(no_cgroup(state)),
    }
}
