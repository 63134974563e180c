//! Deleting what is stopped, and surely nothing else.

use super::patience::Patience;
use super::recover::is_due;
use super::{BUSY, clean};
use crate::error::Result;
use crate::events::{What, emit};
use crate::paths::{ContainerId, Roots};
use crate::state::Status;
use crate::state::lock::Lock;
use crate::state::store::{self, View};

/// Deletes container `id` if it is stopped; whether it was. Somebody may start it at this very moment, and so
/// its shim is not asked: only under the lock is it sure that it stays as it is. A shim on its way out gives
/// that up in a moment.
pub fn prune(roots: &Roots, id: &ContainerId) -> Result<bool> {
    let paths = roots.container(id);
    let mut patience = Patience::of(BUSY);
    // One that is only between two runs is not, nor one that its policy would have run again after a reboot: `recover`
    // may come later. What cannot be read says nothing of that.
    let is_stopped = |view: Option<View>| {
        view.is_some_and(|View { state, .. }| state.status == Status::Stopped && state.restarts.due.is_none())
            && !is_due(&paths).unwrap_or(false)
    };
    while is_stopped(store::find(roots, id)?) {
        if let Some(lock) = Lock::try_take(&paths.lock)? {
            let stopped = is_stopped(store::find_locked(roots, id)?);
            if stopped {
                clean(roots, id, lock)?;
                emit(roots, id, What::Delete);
            } else if !paths.dir.exists() {
                lock.remove(&paths.lock)?;
            }
            return Ok(stopped);
        }
        if !patience.lasts() {
            break;
        }
    }
    Ok(false)
}
