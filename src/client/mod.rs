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

use std::ffi::CString;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType};

use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Kind, Result};
use crate::events::{What, emit};
use crate::launch::Hooks;
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
use crate::state::publish::{self, Durability};
use crate::state::{ExitRecord, Mode, State, Status, store};
use crate::sys;
use crate::sys::spawn::{Leaving, Program};

mod claim;
mod connection;
mod execution;
mod patience;
mod prune;
pub mod ranges;
mod reach;
mod recover;
mod upgrade;

use connection::not_a_shim;
pub use connection::{Client, Received};
pub use execution::{Begun, Execution};
use patience::Patience;
pub use prune::prune;
pub use reach::{Reached, reach};
pub use recover::{recover, sweep};
pub use upgrade::upgrade;

/// The shim's program.
const SHIM: &str = "podrun-shim";
/// The descriptor at which a shim finds its control socket.
const CONTROL: i32 = 3;

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
        store::write_state(new, &state, Durability::Atomic)
    })?;
    Ok(())
}

fn launching(id: ContainerId, roots: Roots) -> Request {
    Request::Launch { id, roots }
}

/// A keeper and a shim that wait for their first request; without one they end.
struct Newborn {
    client: Client,
    /// Nothing of the container may run before it is gone.
    leaving: Leaving,
}

/// Checks that what limits this process would not limit a shim, which lifts what it may.
pub fn check_limits() -> Result<()> {
    let Some(limit) = sys::limit::obstacle() else { return Ok(()) };
    let (name, letter) = (limit.name, limit.letter);
    let hint = match limit.least {
        sys::limit::DESCRIPTORS => format!("`ulimit {letter} {}` or more", limit.least),
        _ => format!("`ulimit {letter} unlimited`; --ulimit {name}=… limits the container alone"),
    };
    Err(Error::failed("start a shim", format!("this process is limited by `ulimit {letter}`")).hint(hint))
}

/// Spawns a keeper and a shim.
fn spawn(roots: &Roots, id: &ContainerId) -> Result<Newborn> {
    check_limits()?;
    let shim = &shim_program()?;
    let (ours, theirs) =
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
            .map_err(|errno| Error::os("create a socket pair", errno))?;
    // Outside the caller's cgroup, whose end must not be the shim's. Without cgroups there is no
    // such end either.
    let shims = Cgroup::create(&cgroup::shims_path(roots)?)?;
    let program = c_string(shim.as_os_str().as_bytes())?;
    let arguments = [c_string(SHIM.as_bytes())?, c_string(id.as_str().as_bytes())?];
    let environment = match std::env::var_os("PODRUN_LOG") {
        Some(level) => vec![c_string(&[b"PODRUN_LOG=", level.as_bytes()].concat())?],
        None => vec![],
    };
    let leaving = sys::spawn::detached(
        Program::Path(&program),
        &arguments,
        &environment,
        &[(theirs.as_fd(), CONTROL)],
        Some(shims.as_fd()),
    )
    .map_err(|error| Error::io("start", shim, &error))?;
    tracing::debug!("started {}, and a keeper with it", shim.display());
    Ok(Newborn { client: Client::new(ours), leaving })
}

/// Has a new shim do its first `request`. Init's pid.
fn begin(newborn: Newborn, request: Request, lock: &Lock) -> Result<(Client, i32)> {
    let Newborn { mut client, leaving } = newborn;
    tracing::debug!("asks the shim to {}", connection::name(&request));
    client.send(&request, &[lock.as_fd()])?;
    let answer = client.receive()?;
    drop(leaving);
    match answer {
        Some((Reply::Launched { pid }, _)) => {
            tracing::debug!("the container's init is process {pid}");
            Ok((client, pid))
        }
        Some((Reply::Refused(error), _)) => Err(error),
        Some(_) => Err(not_a_shim()),
        None if client.welcomed => Err(Error::failed("the container's shim", "died while it began")),
        None => Err(Error::failed(format!("start {SHIM}"), "it ended without a word")
            .hint("install podrun and podrun-shim of the same release; PODRUN_SHIM names another one")),
    }
}

fn c_string(bytes: &[u8]) -> Result<CString> {
    CString::new(bytes).map_err(|_| Error::failed("start a shim", "an argument contains a NUL byte"))
}

/// The shim's program: `$PODRUN_SHIM`; beside this program; in libexec; in `PATH`.
pub fn shim_program() -> Result<PathBuf> {
    let hint = "install podrun-shim beside podrun, or name it in PODRUN_SHIM";
    if let Some(named) = std::env::var_os("PODRUN_SHIM") {
        let path = PathBuf::from(named);
        return match path.metadata() {
            Ok(_) => std::path::absolute(&path).map_err(|error| Error::io("resolve", &path, &error)),
            Err(error) => Err(Error::io("find", &path, &error).hint(hint)),
        };
    }
    let own = std::env::current_exe().ok();
    let bin = own.as_deref().and_then(Path::parent);
    let beside = bin.map(|dir| dir.join(SHIM));
    let libexec = bin.and_then(Path::parent).map(|prefix| prefix.join("libexec/podrun").join(SHIM));
    let system = [PathBuf::from("/usr/local/libexec/podrun"), PathBuf::from("/usr/libexec/podrun")];
    let path = std::env::var_os("PATH").unwrap_or_default();
    let candidates = beside
        .into_iter()
        .chain(libexec)
        .chain(system.map(|dir| dir.join(SHIM)))
        .chain(std::env::split_paths(&path).filter(|dir| dir.is_absolute()).map(|dir| dir.join(SHIM)));
    candidates
        .into_iter()
        .find(|path| path.is_file())
        .ok_or_else(|| Error::failed(format!("find {SHIM}"), "no such file or directory").hint(hint))
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
    let mut patience = Patience::of(BUSY);
    loop {
        if let Some(client) = Client::connect(paths)? {
            return Ok(Holder::Shim(client));
        }
        if let Some(lock) = Lock::try_take(&paths.lock)? {
            return Ok(Holder::Us(lock));
        }
        if !patience.lasts() {
            return Err(Error::failed(format!("container {id}"), "another podrun command is at work on it"));
        }
    }
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

/// Removes a container and everything it had; with `force`, ends it first.
pub fn delete(roots: &Roots, id: &ContainerId, force: bool) -> Result<()> {
    let paths = roots.container(id);
    let mut asked = false;
    let lock = loop {
        if !paths.dir.exists() && !paths.lock.exists() && !store::has_leftovers(roots, id) {
            // A shim that died as it did what we asked has done it.
            return if asked { Ok(()) } else { Err(Error::no_such_container(id)) };
        }
        match find_holder(&paths, id)? {
            Holder::Shim(mut client) => {
                client.send(&Request::Delete { force }, &[])?;
                asked = true;
                if force && !client.is_ready_within(BUSY)? {
                    kill_supervisors(&paths)?;
                    continue;
                }
                match client.receive()? {
                    Some((Reply::Refused(error), _)) => return Err(error),
                    Some(_) => return Ok(()),
                    None => {}
                }
            }
            Holder::Us(lock) => break lock,
        }
    };
    match store::find_locked(roots, id) {
        Ok(Some(view)) if view.pid_alive && view.state.status != Status::Created && !force => {
            Err(Error::new(Kind::WrongState, format!("container {id}"), "is running")
                .hint(format!("stop it first, or use `podrun delete -f {id}`")))
        }
        Ok(Some(_)) => clean(roots, id, lock).map(|()| emit(roots, id, What::Delete)),
        Ok(None) => {
            let nothing = !store::has_leftovers(roots, id);
            clean(roots, id, lock)?;
            if nothing { Err(Error::no_such_container(id)) } else { Ok(()) }
        }
        // Files that cannot be read protect nothing, but only `-f` says that they may go.
        Err(error) if !force => Err(error),
        Err(_) => clean(roots, id, lock).map(|()| emit(roots, id, What::Delete)),
    }
}

/// Ends a shim that does not answer, and its keeper before it could make another one.
fn kill_supervisors(paths: &ContainerPaths) -> Result<()> {
    let Some(state) = publish::read_json::<State>(&paths.state())? else { return Ok(()) };
    for process in [state.keeper, state.shim].into_iter().flatten() {
        let pid = rustix::process::Pid::from_raw(process.pid);
        let opened = pid.map(|pid| rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()));
        // Looked at after it was opened: what the start time fits is what the pidfd stands for.
        if let Some(Ok(pidfd)) = opened.filter(|_| process.is_alive()) {
            let _ = sys::signal::send(pidfd, nix::libc::SIGKILL);
        }
    }
    Ok(())
}

/// Ends and removes everything a container may have left, whatever state it is in.
fn clean(roots: &Roots, id: &ContainerId, lock: Lock) -> Result<()> {
    let paths = roots.container(id);
    let state = publish::read_json::<State>(&paths.state()).ok().flatten();
    let own = cgroup::container_path(roots, id, None)?;
    // A path from a file that was tampered with must not decide what is killed.
    let recorded = state
        .as_ref()
        .filter(|state| state.mode == Mode::Oci || cgroup::is_of(roots, id, &state.cgroup_path))
        .filter(|state| state.id == *id && state.cgroup_path != own)
        .map(|state| (state.cgroup_path.clone(), state.unit()));
    for (path, unit) in std::iter::once((own, None)).chain(recorded) {
        cgroup::end(&path, unit)?;
    }
    let hooks = state.as_ref().map(|state| poststop(&paths, state));
    store::remove(roots, id)?;
    lock.remove(&paths.lock)?;
    if let Some(hooks) = hooks.flatten() {
        hooks.poststop();
    }
    Ok(())
}

/// What is to be done once the container is gone; nothing, where its configuration cannot be read.
fn poststop(paths: &ContainerPaths, state: &State) -> Option<Hooks> {
    let spec = publish::read_json::<Spec>(&paths.spec()).ok()??;
    Hooks::of(&spec, &state.id, &state.bundle).ok()
}
