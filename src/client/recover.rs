//! What should run, and does not: containers that lost their shim, and those that their restart policy has
//! run again after a reboot.
//!
//! ```text
//!  lost, init lives ──▶ adopted
//!  lost, init ended ──▶ its end is recorded ─┐
//!  stopped ──────────────────────────────────┴─▶ should it run? ──▶ started
//!  never made, or removed, completely ──▶ swept
//! ```

use super::patience::Patience;
use super::reach::{is_unsettled, reach};
use super::{BUSY, Client, Holder, clean, find_holder, start};
use crate::error::Result;
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::spec::Spec;
use crate::spec::restart::RestartPolicy;
use crate::spec::settings::Settings;
use crate::state::lock::Lock;
use crate::state::process::boot_id;
use crate::state::publish::{self, Durability};
use crate::state::store::{self, View};
use crate::state::{ExitRecord, Mode, State, Status, StoppedBy};

/// Gives container `id` a keeper and a shim where it has lost both, or records its end; starts it where its
/// restart policy says that it should run. False where there was nothing to do.
pub fn recover(roots: &Roots, id: &ContainerId) -> Result<bool> {
    let paths = roots.container(id);
    settle(&paths)?;
    // A lock that is held proves nothing: a shim that was killed has it until it is dead.
    let lost = is_unsettled(&paths, &store::view(roots, id)?)? && !answers(&paths)?;
    if lost {
        reach(roots, id)?;
    }
    let started = should_run_now(roots, id, &paths)?;
    if started {
        start(roots, id)?;
    }
    Ok(lost || started)
}

/// Removes what a crash left of containers that were never made, or never removed, completely: nothing lists them, and
/// so nobody would ever delete them.
pub fn sweep(roots: &Roots) -> Result<()> {
    let mut swept = Ok(());
    for id in store::left_over(roots) {
        let paths = roots.container(&id);
        let one = Lock::try_take(&paths.lock).and_then(|lock| match lock {
            // Somebody is making it, or removing it, just now.
            None => Ok(()),
            Some(_lock) if paths.dir.exists() => store::sweep(roots, &id),
            Some(lock) => clean(roots, &id, lock),
        });
        swept = swept.and(one);
    }
    swept
}

/// Whether a shim does.
fn answers(paths: &ContainerPaths) -> Result<bool> {
    Client::connect(paths)?.map_or(Ok(false), |mut client| client.is_welcome())
}

fn should_run_now(roots: &Roots, id: &ContainerId, paths: &ContainerPaths) -> Result<bool> {
    // A shim on its way out has still to write what it knows.
    let mut patience = Patience::of(BUSY);
    let View { state, shim_alive, .. } = loop {
        let view = store::view(roots, id)?;
        let leaves = view.state.status == Status::Stopped && !view.shim_alive && Lock::is_held(&paths.lock)?;
        if !leaves || !patience.lasts() {
            break view;
        }
    };
    if state.mode != Mode::Supervised || shim_alive || state.status != Status::Stopped {
        return Ok(false);
    }
    is_due(paths)
}

/// Whether a container that does not run should, by what its last shim wrote.
pub(super) fn is_due(paths: &ContainerPaths) -> Result<bool> {
    let spec = publish::read_json::<Spec>(&paths.spec())?;
    let policy = spec.as_ref().map(Settings::of).transpose()?.map_or(RestartPolicy::No, |it| it.restart);
    // Not the view's, which is corrected.
    let written = publish::read_json::<State>(&paths.state())?;
    Ok(written.is_some_and(|written| should_run(policy, &written, written.boot_id == boot_id())))
}

/// Writes where it lasts what a shim had told in the run root, and did not live to write there.
fn settle(paths: &ContainerPaths) -> Result<()> {
    let unsaid = || -> Result<Option<(ExitRecord, State)>> {
        let state = publish::read_json::<State>(&paths.state())?.filter(|state| {
            let ran = matches!(state.status, Status::Running | Status::Paused);
            ran && state.mode == Mode::Supervised && state.boot_id == boot_id()
        });
        let Some(state) = state else { return Ok(None) };
        Ok(publish::read_json::<ExitRecord>(&paths.run_exit())?.map(|record| (record, state)))
    };
    // Under the lock nobody else has it to write any more.
    if unsaid()?.is_some()
        && let Some(_lock) = Lock::try_take(&paths.lock)?
        && let Some((record, mut state)) = unsaid()?
    {
        publish::json(&paths.exit(), &record, Durability::Synced)?;
        (state.status, state.reason) = (Status::Stopped, record.reason);
        publish::json(&paths.state(), &state, Durability::Synced)?;
    }
    Ok(())
}

/// Whether a container that does not run, and of which its last shim wrote `state`, should.
fn should_run(policy: RestartPolicy, state: &State, same_boot: bool) -> bool {
    if policy == RestartPolicy::No {
        return false;
    }
    let owed = is_owed(state) || state.stopped_by == Some(StoppedBy::Shutdown);
    if owed || same_boot {
        return owed;
    }
    match (state.status, policy) {
        // It ran when the host went down.
        (Status::Running | Status::Paused, _) => true,
        (Status::Creating | Status::Created, _) if !state.again => false,
        (_, RestartPolicy::Always) => true,
        (_, RestartPolicy::UnlessStopped) => state.stopped_by != Some(StoppedBy::User),
        _ => false,
    }
}

/// Whether a container of which no shim lives waits for a restart, or for the rest of a start that was cut short.
fn is_owed(state: &State) -> bool {
    let begun = state.again && matches!(state.status, Status::Creating | Status::Created);
    state.restarts.due.is_some() || (begun && state.stopped_by.is_none())
}

/// Takes back what [`recover`] would start, of a container whose shim is gone: its user has stopped it.
pub(super) fn call_off(roots: &Roots, id: &ContainerId) -> Result<()> {
    let paths = roots.container(id);
    if !is_due(&paths)? {
        return Ok(());
    }
    // With a shim again it is started just now, and stopped the next time.
    if let Holder::Us(_lock) = find_holder(&paths, id)?
        && is_due(&paths)?
        && let Some(View { mut state, .. }) = store::find_locked(roots, id)?
    {
        state.restarts.due = None;
        (state.status, state.stopped_by) = (Status::Stopped, Some(StoppedBy::User));
        // Said in this boot, and of none that ran in it.
        (state.boot_id, state.init) = (boot_id(), None);
        store::write_state(&paths, &state, Durability::Synced)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Restarts;
    use crate::state::store::tests::state;

    #[test]
    fn after_a_reboot_runs_what_ran_and_what_its_policy_names() {
        use RestartPolicy::{Always, No, UnlessStopped};
        let failure = RestartPolicy::OnFailure { most: None };
        let user = Some(StoppedBy::User);
        let never = [(No, false), (Always, false), (UnlessStopped, false), (failure, false)];
        let cases = [
            (Status::Running, None, [(No, false), (Always, true), (UnlessStopped, true), (failure, true)]),
            (Status::Stopped, None, [(No, false), (Always, true), (UnlessStopped, true), (failure, false)]),
            (Status::Stopped, user, [(No, false), (Always, true), (UnlessStopped, false), (failure, false)]),
            (Status::Created, None, never),
            (Status::Creating, None, never),
        ];
        for (status, stopped_by, expected) in cases {
            for (policy, runs) in expected {
                let state = State { stopped_by, ..state(status, None) };
                assert_eq!(should_run(policy, &state, false), runs, "{status} {policy} {stopped_by:?}");
                assert!(!should_run(policy, &state, true), "{status} {policy} in the same boot");
            }
        }
    }

    #[test]
    fn what_is_owed_is_owed_in_the_same_boot_too() {
        let due = Restarts { due: Some(jiff::Timestamp::UNIX_EPOCH), ..Restarts::default() };
        let pending = State { restarts: due, ..state(Status::Stopped, None) };
        let shut_down = State { stopped_by: Some(StoppedBy::Shutdown), ..state(Status::Stopped, None) };
        let [building, built] =
            [Status::Creating, Status::Created].map(|status| State { again: true, ..state(status, None) });
        for state in [pending, shut_down, building, built] {
            for same_boot in [true, false] {
                assert!(should_run(RestartPolicy::OnFailure { most: None }, &state, same_boot));
                assert!(!should_run(RestartPolicy::No, &state, same_boot));
            }
        }
    }

    #[test]
    fn a_start_that_was_called_off_is_a_stop() {
        let stopped_by = Some(StoppedBy::User);
        let state = State { again: true, stopped_by, ..state(Status::Creating, None) };
        for policy in [RestartPolicy::Always, RestartPolicy::UnlessStopped] {
            assert!(!should_run(policy, &state, true), "{policy}");
            assert_eq!(should_run(policy, &state, false), policy == RestartPolicy::Always, "{policy}");
        }
    }
}
