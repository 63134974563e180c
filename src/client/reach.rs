//! The shim of a container, whatever became of the one before.
//!
//! ```text
//!  somebody listens ─────────────────────▶ the shim, or its keeper, which makes one
//!  nobody, and it is stopped ────────────▶ the disk has the truth
//!  nobody, and the lock is held ─────────▶ somebody is at work on it: look again
//!  nobody, and the lock is free: lost ─┬─▶ init lives: a new keeper and shim adopt it
//!                                      └─▶ it does not: the record says what can be known
//! ```
//!
//! Of two who find a container lost one has the lock, and the other one meets the new shim.

use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::patience::Patience;
use super::{BUSY, Client, begin, is_busy, spawn};
use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Result};
use crate::events::{What, emit};
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::protocol::Request;
use crate::spec::Spec;
use crate::spec::settings::Settings;
use crate::state::lock::Lock;
use crate::state::process::{boot_id, raw_ending};
use crate::state::publish::{self, Durability};
use crate::state::store::{self, View};
use crate::state::{ExitRecord, Mode, ProcessRef, State, Status};

/// How long an init that nobody can start any more may take to notice it.
const LAST_BREATH: Duration = Duration::from_secs(1);

/// Who answers for a container.
#[derive(Debug)]
pub enum Reached {
    /// Its shim.
    Shim(Client),
    /// Nobody needs to: it is stopped, was never created completely, or an engine supervises it.
    Without(Box<View>),
}

/// Finds the shim of container `id`, and makes one where it is lost.
pub fn reach(roots: &Roots, id: &ContainerId) -> Result<Reached> {
    let paths = roots.container(id);
    let mut patience = Patience::of(BUSY);
    loop {
        if let Some(client) = Client::connect(&paths)? {
            return Ok(Reached::Shim(client));
        }
        let view = store::view(roots, id)?;
        if !is_unsettled(&paths, &view)? {
            return Ok(Reached::Without(Box::new(view)));
        }
        if let Some(lock) = Lock::try_take(&paths.lock)? {
            let view = match store::find_locked(roots, id)? {
                Some(view) => view,
                None => {
                    lock.remove(&paths.lock)?;
                    return Err(Error::no_such_container(id));
                }
            };
            if !is_unsettled(&paths, &view)? {
                return Ok(Reached::Without(Box::new(view)));
            }
            return Ok(match adopt(roots, id, lock)? {
                Some(client) => Reached::Shim(client),
                None => Reached::Without(Box::new(store::view(roots, id)?)),
            });
        }
        if !patience.lasts() {
            return Err(is_busy(id));
        }
    }
}

/// Whether the container should have a shim, by what its files say: it was created in this boot, and
/// nobody has recorded its end.
pub(super) fn is_unsettled(paths: &ContainerPaths, view: &View) -> Result<bool> {
    let supervised = view.state.mode == Mode::Supervised && view.state.boot_id == boot_id();
    if !supervised || paths.run_exit().exists() {
        return Ok(false);
    }
    // Not the view's status, which is corrected.
    let status = publish::read_json::<State>(&paths.state())?.map(|state| state.status);
    Ok(matches!(status, Some(Status::Created | Status::Running | Status::Paused)))
}

/// Gives a lost container, whose lock is `lock`, a keeper and a shim; `None` where it has ended, which is
/// recorded then.
pub(super) fn adopt(roots: &Roots, id: &ContainerId, lock: Lock) -> Result<Option<Client>> {
    let paths = roots.container(id);
    let state = publish::read_json::<State>(&paths.state())?.ok_or_else(|| Error::no_such_container(id))?;
    let init = state.init.filter(|init| init.is_alive());
    if let Some(init) = init
        && (state.status != Status::Created || !ends_within(init, LAST_BREATH))
    {
        tracing::debug!("the shim of {id} is lost: another one takes over process {}", init.pid);
        let request = Request::Adopt { id: id.clone(), roots: roots.clone() };
        let (client, _) = begin(spawn(roots, id)?, request, &lock)?;
        return Ok(Some(client));
    }
    tracing::debug!("the shim of {id} is lost, and its init has ended: records that");
    bury(roots, &paths, state)?;
    Ok(None)
}

/// Whether a process ends within `time`. An init at its gate does, once nobody is left to open it; one
/// that was executed a moment before its shim died does not.
fn ends_within(process: ProcessRef, time: Duration) -> bool {
    let Some(pid) = Pid::from_raw(process.pid) else { return true };
    let Ok(pidfd) = pidfd_open(pid, PidfdFlags::empty()) else { return true };
    let timeout = Timespec::try_from(time).ok();
    !process.is_alive()
        || poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], timeout.as_ref()).is_ok_and(|ready| ready > 0)
}

/// Whether the container's restart policy has it run again.
fn wants_again(paths: &ContainerPaths, state: &State, record: &ExitRecord) -> Result<bool> {
    let Some(spec) = publish::read_json::<Spec>(&paths.spec())? else { return Ok(false) };
    Ok(Settings::of(&spec)?.restart.wants_again(record.exit_code, state.restarts.count))
}

/// Records the end of a container that nobody saw. Its exit status is known where init's zombie is
/// still there; what was in its pipes is lost.
fn bury(roots: &Roots, paths: &ContainerPaths, mut state: State) -> Result<()> {
    let was_started = state.status != Status::Created;
    let why = match was_started {
        true => "its shim and its keeper were gone when it ended",
        false => "its shim and its keeper died before it was started",
    };
    let ending = state.init.filter(|_| was_started).and_then(raw_ending);
    let mut record = ExitRecord::unknown(state.started_at, why);
    if let Some(ending) = ending {
        record = record.ended(ending);
        record.reason = Some(format!("{why}: the end of its output is lost"));
    }
    if let Some(cgroup) = Cgroup::open(&state.cgroup_path)? {
        record.oom_kills = cgroup.oom_kills().unwrap_or(0);
        record.memory_peak = cgroup.memory_peak();
        if let Some(cpu) = cgroup.cpu_time() {
            (record.user_usec, record.system_usec) = (cpu.user_usec, cpu.system_usec);
        }
    }
    // Told after it was recorded: whatever holds it up, the record is true.
    let ended = cgroup::end(&state.cgroup_path, state.unit());
    publish::json(&paths.exit(), &record, Durability::Synced)?;
    state.status = Status::Stopped;
    // One that was being started again had run before.
    if (was_started || state.again) && wants_again(paths, &state, &record)? {
        state.restarts.due = Some(jiff::Timestamp::now());
    }
    state.reason.clone_from(&record.reason);
    store::write_state(paths, &state, Durability::Synced)?;
    let _ = std::fs::remove_file(paths.socket());
    if was_started {
        emit(roots, &state.id, What::LogGap { reason: format!("{why}: the end of its output may be lost") });
    }
    emit(roots, &state.id, What::die(&record));
    ended
}
