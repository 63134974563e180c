//! Containers without a shim: `create --bundle`, as an engine's own supervisor calls it (OCI mode),
//! and signals where no shim would pass them on.
//!
//! ```text
//!  engine ──▶ podrun create ──clone3──▶ init ──listens on──▶ RUN/ID/gate.sock
//!     │            ▼ exits               ▲ reparents to the engine's subreaper
//!     └─────▶ podrun start ──connects────┘ go; end of file: executed
//! ```
//!
//! Each command takes the container's lock while it changes something; between two commands
//! nobody holds it.

pub mod console;
mod create;
mod exec;
mod features;
mod limits;

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroup::Cgroup;
use crate::error::{Error, Kind, Result};
use crate::events::{What, emit};
use crate::launch::{Hooks, gate};
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::spec::Spec;
use crate::spec::settings::Settings;
use crate::state::lock::Lock;
use crate::state::publish::{self, Durability};
use crate::state::store::{self, View};
use crate::state::{Ending, ExitRecord, State, Status};
use crate::sys::{fd, program, signal as sys_signal};

pub use create::{Caller, create, read_config};
pub use exec::{Beside, Running, exec};
pub use features::features;
pub use limits::{set_paused, update, update_limits};

/// Goes on in an image of this program that nobody can write from inside a container. For a command that
/// makes processes of a container itself, as its first step: the program begins anew. Returns once that
/// has happened.
pub fn protect_program() -> Result<()> {
    program::run_unwritable().map_err(|error| Error::io("protect", "podrun's own program", &error))
}

/// The gate's address, by way of the open directory: a path may be longer than an address (108 bytes).
fn gate_address(paths: &ContainerPaths) -> Result<(OwnedFd, SocketAddrUnix)> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let failed = |errno| Error::at("open", &paths.run_dir, errno);
    let dir = rustix::fs::open(&paths.run_dir, flags, FileMode::empty()).map_err(failed)?;
    let name = paths.gate();
    let name = name.file_name().unwrap_or_default();
    let path = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    let address = SocketAddrUnix::new(path).map_err(failed)?;
    Ok((dir, address))
}

fn socket() -> Result<OwnedFd> {
    rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
        .map_err(|errno| Error::os("make a socket", errno))
}

fn listen(paths: &ContainerPaths) -> Result<OwnedFd> {
    let failed = |errno| Error::at("listen on", paths.gate(), errno);
    let (_dir, address) = gate_address(paths)?;
    let socket = socket()?;
    rustix::net::bind(&socket, &address).map_err(failed)?;
    rustix::net::listen(&socket, 8).map_err(failed)?;
    Ok(socket)
}

/// Runs the command of a created container; returns once it was executed.
pub fn start(roots: &Roots, id: &ContainerId) -> Result<()> {
    let paths = roots.container(id);
    let lock = Lock::take(&paths.lock)?;
    let View { mut state, .. } = match store::view(roots, id) {
        Ok(view) => view,
        Err(error) => {
            // Taking the lock of a container that does not exist has made its file.
            if !paths.dir.exists() {
                lock.remove(&paths.lock)?;
            }
            return Err(error);
        }
    };
    if state.status != Status::Created {
        let why = format!("cannot start: it is {}", state.status);
        return Err(Error::new(Kind::WrongState, format!("container {id}"), why));
    }
    // Whatever cannot be read is told before there is a process.
    let hooks = Hooks::of(&store::spec(&paths)?, id, &state.bundle)?;
    let outcome = release(&paths, &state);
    let _ = std::fs::remove_file(paths.gate());
    match &outcome {
        Ok(()) => {
            state.status = Status::Running;
            state.started_at = Some(Timestamp::now());
        }
        Err(error) => {
            state.status = Status::Stopped;
            state.reason = Some(error.to_string());
            let mut record =
                ExitRecord::unknown(None, "").ended(Ending::Exited(error.launch_exit_code().into()));
            record.finished_at = Some(Timestamp::now());
            record.reason = state.reason.clone();
            publish::json(&paths.run_exit(), &record, Durability::Atomic)?;
            publish::json(&paths.exit(), &record, Durability::Atomic)?;
            emit(roots, id, What::die(&record));
        }
    }
    store::write_state(&paths, &state, Durability::Atomic)?;
    outcome?;
    emit(roots, id, What::Start { pid: state.init.map_or(0, |init| init.pid) });
    if let Some(init) = state.init {
        hooks.poststart(init.pid);
    }
    Ok(())
}

/// Opens the gate, and waits for what comes of that.
fn release(paths: &ContainerPaths, state: &State) -> Result<()> {
    let ended = || Error::failed("start", "init ended before it was released");
    let init = open_init(state)?.ok_or_else(ended)?;
    let (_dir, address) = gate_address(paths)?;
    let socket = socket()?;
    rustix::net::connect(&socket, &address).map_err(|errno| match errno {
        Errno::CONNREFUSED => ended(),
        errno => Error::at("connect to", paths.gate(), errno),
    })?;
    tracing::debug!("opens the gate {}", paths.gate().display());
    gate::go(&socket)?;
    gate::read_outcome(&socket, state.init.map_or(0, |init| init.pid), &init)
}

/// Waits until a container that has no shim ends. Only its parent will ever know how it ended.
pub fn wait(roots: &Roots, id: &ContainerId) -> Result<ExitRecord> {
    let view = store::view(roots, id)?;
    if let Some(init) = open_init(&view.state)? {
        ended_within(&init, None)?;
    }
    let view = store::view(roots, id)?;
    let unknown =
        || ExitRecord::unknown(view.state.started_at, "the engine that created it has the exit status");
    Ok(view.exit.unwrap_or_else(unknown))
}

/// Sends `signal` as it is: to init, or to every process of the container.
pub fn signal(view: &View, signal: i32, all: bool) -> Result<()> {
    let sent = |result: std::io::Result<()>| {
        result.map_err(|error| match Errno::from_io_error(&error) {
            Some(Errno::SRCH) => not_running(&view.state),
            _ => {
                Error::io(&format!("send signal {signal} to"), format!("container {}", view.state.id), &error)
            }
        })
    };
    if !all {
        let init = open_init(&view.state)?.ok_or_else(|| not_running(&view.state))?;
        return sent(sys_signal::send(init, signal));
    }
    let cgroup = match Cgroup::open(&view.state.cgroup_path)? {
        // What outlives init is all that may be left. That nothing lives is what KILL is for, and no other signal.
        Some(cgroup)
            if signal != nix::libc::SIGKILL && !view.pid_alive && !cgroup.is_populated().unwrap_or(false) =>
        {
            return Err(not_running(&view.state));
        }
        Some(cgroup) => cgroup,
        None if !view.pid_alive || view.state.has_cgroup() => return Err(not_running(&view.state)),
        // The end of init is that of all.
        None if signal == nix::libc::SIGKILL => return self::signal(view, signal, false),
        None => return Err(no_cgroup(&view.state)),
    };
    if signal == nix::libc::SIGKILL {
        return cgroup.kill();
    }
    cgroup.signal(signal, None)
}

/// The container's stop signal, then SIGKILL after `timeout` seconds. Returns once it has ended.
pub fn stop(roots: &Roots, view: &View, timeout: Option<u64>) -> Result<()> {
    let Some(init) = open_init(&view.state)? else { return Ok(()) };
    let spec: Option<Spec> = publish::read_json(&roots.container(&view.state.id).spec())?;
    let settings = spec.as_ref().map(Settings::of).transpose()?.unwrap_or_default();
    // An init that still waits to be started hears nothing but SIGKILL.
    if view.state.status != Status::Created {
        // What stands still hears nothing.
        if view.state.status == Status::Paused
            && let Some(cgroup) = Cgroup::open(&view.state.cgroup_path)?
        {
            cgroup.thaw()?;
        }
        match sys_signal::send(&init, settings.stop_signal) {
            Err(error) if Errno::from_io_error(&error) == Some(Errno::SRCH) => return Ok(()),
            other => other.map_err(|error| Error::io("stop", view.state.id.as_str(), &error))?,
        }
        let timeout = Duration::from_secs(timeout.unwrap_or(settings.stop_timeout));
        if ended_within(&init, Some(timeout))? {
            return Ok(());
        }
    }
    match Cgroup::open(&view.state.cgroup_path)? {
        Some(cgroup) => cgroup.kill()?,
        None => drop(sys_signal::send(&init, nix::libc::SIGKILL)),
    }
    ended_within(&init, None).map(drop)
}

/// The first `count` descriptors from 3 on that this command was started with, to be passed to a container.
/// For a command's first step, once.
pub fn preserved(count: usize) -> Result<Vec<OwnedFd>> {
    fd::preserved(count).map_err(|error| Error::io("take", "descriptors", &error))
}

fn not_running(state: &State) -> Error {
    Error::new(Kind::WrongState, format!("container {}", state.id), "container not running")
}

/// That what was asked for needs a cgroup, which the container of `state` does not have.
pub fn no_cgroup(state: &State) -> Error {
    Error::failed(
        format!("container {}", state.id),
        "has no cgroup: it was created with --cgroup-manager disabled",
    )
}

/// The container's init, and surely no other process of that pid; `None` once it has ended.
fn open_init(state: &State) -> Result<Option<OwnedFd>> {
    let Some(init) = state.init else { return Ok(None) };
    let Some(pidfd) = open_pid(init.pid)? else { return Ok(None) };
    // Looked at after it was opened: what the start time fits is what the pidfd stands for.
    Ok(init.is_alive().then_some(pidfd))
}

fn open_pid(pid: i32) -> Result<Option<OwnedFd>> {
    let Some(pid) = Pid::from_raw(pid) else { return Ok(None) };
    match pidfd_open(pid, PidfdFlags::empty()) {
        Ok(pidfd) => Ok(Some(pidfd)),
        Err(Errno::SRCH) => Ok(None),
        Err(errno) => Err(Error::os(format!("open process {}", pid.as_raw_nonzero()), errno)),
    }
}

/// Whether the process ends before `timeout`; without one, it is waited for.
fn ended_within(process: &OwnedFd, timeout: Option<Duration>) -> Result<bool> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        match poll(&mut [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)], left.as_ref()) {
            Ok(ready) => return Ok(ready > 0),
            Err(Errno::INTR) => {}
            Err(errno) => return Err(Error::os("wait for the container", errno)),
        }
    }
}
