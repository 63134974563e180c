//! A command's way to a container: find its shim, ask it, or do without one.
//!
//! ```text
//!  Client::connect ─▶ a shim answers ─▶ its answer is the truth
//!                  └▶ nobody listens, or EOF before an answer ─▶ reread the disk: by the order of a
//!                     shim's end the truth is there
//! ```
//!
//! Without a shim (OCI mode, a stopped container, one whose shim was lost) the command takes the
//! container's lock and does the work itself.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::log::journald;
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::protocol::{Reply, Request};
use crate::runtime;
use crate::spec::limits::LinuxResources;
use crate::spec::logging::Driver;
use crate::spec::rootfiles::RootFile;
use crate::spec::settings::Settings;
use crate::spec::{Ordered, Spec};
use crate::state::lock::Lock;
use crate::state::process::boot_id;
use crate::state::publish::{self, Durability};
use crate::state::{ExitRecord, Mode, State, Status, store};

mod claim;
mod connection;
mod delete;
mod execution;
mod newborn;
mod patience;
mod prune;
pub mod ranges;
mod reach;
mod recover;
mod upgrade;

use connection::not_a_shim;
pub use connection::{Client, Received};
use delete::clean;
pub use delete::delete;
pub use execution::{Begun, Execution};
use newborn::{begin, spawn};
pub use newborn::{check_limits, shim_program};
use patience::Patience;
pub use prune::prune;
pub use reach::{Reached, reach};
pub use recover::{recover, sweep};
pub use upgrade::upgrade;

/// How long a command waits for another one that is at work on the same container.
const BUSY: Duration = Duration::from_secs(20);

/// Creates a supervised container from `spec`, with the generated `files` that it mounts; returns the connection to its shim, and init's pid.
/// A failure leaves nothing.
pub fn create(roots: &Roots, id: &ContainerId, spec: &Spec, files: &[RootFile]) -> Result<(Client, i32)> {
    // Before anything is written that would have to be undone.
    shim_program()?;
    let settings = Settings::of(spec)?;
    if settings.logging.drivers.contains(&Driver::Journald) {
        journald::listens()?;
    }
    let paths = roots.container(id);
    let lock = claim::claim(&paths, id)?;
    // It starts on another processor while the files are written, and does nothing before it is asked.
    let shim = spawn(roots, id).and_then(|shim| insert(roots, id, spec, &settings, files).map(|()| shim));
    let shim = match shim {
        Err(error) if !paths.dir.exists() => {
            lock.remove(&paths.lock)?;
            return Err(error);
        }
        other => other?,
    };
    begin(shim, launching(id.clone(), roots.clone()), &lock).inspect_err(|_| {
        // A shim that could still speak has undone everything, the lock file included, and the
        // ID may be somebody else's by now.
        if lock.protects(&paths.lock)
            && let Err(error) = clean(roots, id, lock)
        {
            tracing::warn!("{error}");
        }
    })
}

/// Writes the files of a new container.
fn insert(
    roots: &Roots,
    id: &ContainerId,
    spec: &Spec,
    settings: &Settings,
    files: &[RootFile],
) -> Result<()> {
    let rootfs = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let cgroup_path = settings.cgroups.cgroup_path(roots, id, spec)?;
    let state = State {
        rootfs,
        args: spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default(),
        cgroups: settings.cgroups,
        ..State::creating(id, Mode::Supervised, cgroup_path, roots.container(id).dir)
    };
    let label = spec.linux().as_ref().and_then(|linux| linux.mount_label().as_deref());
    store::insert(roots, id, |new| {
        files.iter().try_for_each(|file| file.write_into(&new.dir, label))?;
        publish::json(&new.spec(), &Ordered(spec), Durability::Atomic)?;
        if spec.hooks().is_some() {
            // That directory is the bundle that hooks are told of, and there they look for the configuration.
            let link = new.dir.join("config.json");
            std::os::unix::fs::symlink("spec.json", &link)
                .map_err(|error| Error::io("create", link, &error))?;
        }
        store::write_state(new, &state, Durability::Atomic)
    })?;
    Ok(())
}

fn launching(id: ContainerId, roots: Roots) -> Request {
    Request::Launch { id, roots }
}

/// Who has a container: its shim, or nobody but this command.
enum Holder {
    Shim(Client),
    Us(Lock),
}

/// Finds the container's shim, or takes its lock. Whoever else holds the lock does so for a moment:
/// a command that is at work on it, a shim that does not listen yet or no more. Neither can be
/// waited for by the lock alone, for the next holder may be a shim, which keeps it for life.
fn find_holder(paths: &ContainerPaths, id: &ContainerId) -> Result<Holder> {
    look_for_holder(paths)?.ok_or_else(|| is_busy(id))
}

/// The same; `None` where somebody else does not let go of the lock.
fn look_for_holder(paths: &ContainerPaths) -> Result<Option<Holder>> {
    let mut patience = Patience::of(BUSY);
    loop {
        if let Some(client) = Client::connect(paths)? {
            return Ok(Some(Holder::Shim(client)));
        }
        if let Some(lock) = Lock::try_take(&paths.lock)? {
            return Ok(Some(Holder::Us(lock)));
        }
        if !patience.lasts() {
            return Ok(None);
        }
    }
}

fn is_busy(id: &ContainerId) -> Error {
    Error::failed(format!("container {id}"), "another podrun command is at work on it")
}

/// Runs the command of a created container, or a stopped supervised container again.
pub fn start(roots: &Roots, id: &ContainerId) -> Result<()> {
    start_with(roots, id, Request::Start)
}

/// The same for one who has said so to a shim that died before it answered.
pub fn start_again(roots: &Roots, id: &ContainerId) -> Result<()> {
    start_with(roots, id, Request::StartAgain)
}

fn start_with(roots: &Roots, id: &ContainerId, mut request: Request) -> Result<()> {
    let paths = roots.container(id);
    let began = jiff::Timestamp::now();
    loop {
        let lock = match find_holder(&paths, id)? {
            Holder::Shim(mut client) => match client.call(&request)? {
                Some(_) => return Ok(()),
                // It has ended, or died with the command executed or not: the next look tells.
                None => {
                    request = Request::StartAgain;
                    continue;
                }
            },
            Holder::Us(lock) => lock,
        };
        let view = match store::find_locked(roots, id)? {
            Some(view) => view,
            None => {
                lock.remove(&paths.lock)?;
                return Err(Error::no_such_container(id));
            }
        };
        let ran = view.exit.as_ref().and_then(|exit| exit.started_at).is_some_and(|started| started >= began);
        return match view.state.status {
            _ if view.state.mode == Mode::Oci => {
                drop(lock);
                runtime::start(roots, id)
            }
            // It has run and ended between the question and the answer that its shim did not live to give.
            Status::Stopped if request == Request::StartAgain && ran => Ok(()),
            Status::Stopped => {
                let (mut client, _) = begin(spawn(roots, id)?, launching(id.clone(), roots.clone()), &lock)?;
                drop(lock);
                match client.call(&Request::Start)? {
                    Some(_) => Ok(()),
                    None => start_again(roots, id),
                }
            }
            Status::Creating => {
                Err(Error::new(Kind::WrongState, format!("container {id}"), "was never created completely")
                    .hint(format!("`podrun delete -f {id}` removes what is left of it")))
            }
            Status::Created | Status::Running | Status::Paused => {
                reach::adopt(roots, id, lock)?;
                continue;
            }
        };
    }
}

/// Waits for the end of a container.
pub fn wait(roots: &Roots, id: &ContainerId) -> Result<ExitRecord> {
    loop {
        let view = match reach(roots, id)? {
            Reached::Shim(mut client) => match client.call(&Request::Wait)? {
                Some(Reply::Ended(record)) => return Ok(*record),
                Some(_) => return Err(not_a_shim()),
                None => continue,
            },
            Reached::Without(view) => view,
        };
        return match view.exit {
            Some(record) => Ok(record),
            None if view.state.mode == Mode::Oci => runtime::wait(roots, id),
            None if view.state.status == Status::Stopped => {
                Ok(ExitRecord::unknown(view.state.started_at, "its exit record is gone"))
            }
            None => Err(Error::new(Kind::WrongState, format!("container {id}"), "has not been started")),
        };
    }
}

/// Sends a signal to a container. Where a shim dies before it answers, the next one is asked again: the
/// signal may come twice, as one that is sent twice, but does not get lost. A container that has ended
/// since it was asked first needs no more.
pub fn signal(roots: &Roots, id: &ContainerId, signal: i32, all: bool) -> Result<()> {
    let mut asked = false;
    loop {
        let over = roots.container(id).run_exit().exists();
        return match reach(roots, id)? {
            Reached::Shim(mut client) => match client.call(&Request::Signal { signal, all }) {
                Ok(Some(_)) => Ok(()),
                Ok(None) => {
                    // Of an end that was recorded before, this request is not the cause.
                    asked |= !over;
                    continue;
                }
                Err(error) if asked && error.kind == Kind::WrongState => Ok(()),
                Err(error) => Err(error),
            },
            Reached::Without(view) if asked && !view.pid_alive => Ok(()),
            // In OCI mode a signal is sent as it is.
            Reached::Without(view) if view.pid_alive => runtime::signal(&view, signal, all),
            // In a PID namespace that is not its own, the others outlive init: the engine's shim ends them so.
            Reached::Without(view)
                if all && view.state.mode == Mode::Oci && view.state.boot_id == boot_id() =>
            {
                runtime::signal(&view, signal, all)
            }
            Reached::Without(_) => {
                Err(Error::new(Kind::WrongState, format!("container {id}"), "container not running"))
            }
        };
    }
}

/// Stops a container: its stop signal, then SIGKILL after `timeout` seconds.
pub fn stop(roots: &Roots, id: &ContainerId, timeout: Option<u64>) -> Result<()> {
    loop {
        return match reach(roots, id)? {
            Reached::Shim(mut client) => match client.call(&Request::Stop { timeout })? {
                Some(_) => Ok(()),
                None => continue,
            },
            Reached::Without(view) if view.pid_alive => runtime::stop(roots, &view, timeout),
            Reached::Without(_) => recover::call_off(roots, id),
        };
    }
}

/// Pauses a container, or lets it go on.
pub fn set_paused(roots: &Roots, id: &ContainerId, pause: bool) -> Result<()> {
    let request = if pause { Request::Pause } else { Request::Resume };
    ask_or(roots, id, &request, || runtime::set_paused(roots, id, pause))
}

/// Changes the limits of a container: what `resources` do not name stays.
pub fn update(roots: &Roots, id: &ContainerId, resources: &LinuxResources) -> Result<()> {
    let request = Request::Update { resources: Box::new(resources.clone()) };
    ask_or(roots, id, &request, || runtime::update(roots, id, resources))
}

/// Asks the container's shim; where there is none, does `alone` under the container's lock.
fn ask_or(
    roots: &Roots,
    id: &ContainerId,
    request: &Request,
    alone: impl FnOnce() -> Result<()>,
) -> Result<()> {
    let paths = roots.container(id);
    loop {
        if let Reached::Shim(mut client) = reach(roots, id)? {
            match client.call(request)? {
                Some(_) => return Ok(()),
                // It has ended; what it leaves is for the next look.
                None => continue,
            }
        }
        // Somebody may have started it meanwhile.
        if let Holder::Us(lock) = find_holder(&paths, id)? {
            let result = alone();
            if !paths.dir.exists() {
                lock.remove(&paths.lock)?;
            }
            return result;
        }
    }
}
