//! An ID for a new container: whose it is, and when it is free.

use std::time::Duration;

use super::patience::Patience;
use crate::error::{Error, Result};
use crate::paths::{ContainerId, ContainerPaths};
use crate::spec::Spec;
use crate::spec::settings::Settings;
use crate::state::lock::Lock;
use crate::state::publish;

/// How long a container that is on its way out may take.
const LEAVING: Duration = Duration::from_secs(10);

/// Takes the lock of a container that is to be. One that is on its way out is waited for: whoever was
/// told that it has ended may use its ID again.
pub(super) fn claim(paths: &ContainerPaths, id: &ContainerId) -> Result<Lock> {
    let mut patience = Patience::of(LEAVING);
    loop {
        if let Some(lock) = Lock::try_take(&paths.lock)? {
            return Ok(lock);
        }
        if !is_leaving(paths) || !patience.lasts() {
            return Err(taken(paths, id));
        }
    }
}

/// Whether the holder of the lock is about to go, or about to make the container: a matter of moments.
fn is_leaving(paths: &ContainerPaths) -> bool {
    // Not there yet, or renamed away.
    if !paths.dir.exists() {
        return true;
    }
    // Its shim deletes it once it has told of its end.
    let goes_by_itself = || {
        let spec: Spec = publish::read_json(&paths.spec()).ok()??;
        Some(Settings::of(&spec).ok()?.rm)
    };
    paths.run_exit().exists() && goes_by_itself() == Some(true)
}

fn taken(paths: &ContainerPaths, id: &ContainerId) -> Error {
    let what = format!("container {id}");
    match paths.dir.exists() {
        true => Error::failed(what, "already exists")
            .hint(format!("choose another ID, or remove it first: `podrun delete -f {id}`")),
        false => Error::failed(what, "another podrun command is creating or deleting it"),
    }
}
