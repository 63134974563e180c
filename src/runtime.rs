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

use std::fs::File;
use std::io::Read;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path, PathBuf};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode as FileMode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Kind, Result};
use crate::launch::{self, Gate, Stdio, gate};
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::spec::settings::Settings;
use crate::spec::{Spec, validate};
use crate::state::lock::Lock;
use crate::state::process::boot_id;
use crate::state::publish::{self, Durability};
use crate::state::store::{self, View};
use crate::state::{Ending, ExitRecord, Mode, ProcessRef, STATE_VERSION, State, Status};
use crate::sys::signal as sys_signal;

/// Creates container `id` from the OCI bundle at `bundle`. Its init is built, waits for [`start`],
/// and is the child of whoever adopts the orphans of this process.
pub fn create(roots: &Roots, id: &ContainerId, bundle: &Path, pid_file: Option<&Path>) -> Result<()> {
    let bundle = std::path::absolute(bundle).map_err(|error| Error::io("resolve", bundle, &error))?;
    let spec = read_config(&bundle)?;
    let cgroup_path = cgroup_path(roots, id, &spec)?;
    // Whoever is in it is a stranger, and would be killed with the container.
    if Cgroup::open(&cgroup_path)?.is_some() {
        return Err(Error::failed(format!("cgroup {}", cgroup_path.display()), "already exists"));
    }
    let paths = roots.container(id);
    let lock = Lock::try_take(&paths.lock)?
        .ok_or_else(|| Error::failed(format!("container {id}"), "another command is working on it"))?;
    let rootfs = spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default();
    let state = State {
        version: STATE_VERSION,
        id: id.clone(),
        status: Status::Creating,
        mode: Mode::Oci,
        boot_id: boot_id(),
        init: None,
        shim: None,
        cgroup_path,
        bundle,
        rootfs,
        args: spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default(),
        created_at: Timestamp::now(),
        started_at: None,
        reason: None,
    };
    // Before anything else exists, so that a crash leaves something that `delete -f` finds.
    let inserted = store::insert(roots, id, |new| {
        publish::json(&new.spec(), &spec, Durability::Atomic)?;
        store::write_state(new, &state, Durability::Atomic)
    });
    let paths = match inserted {
        // The lock file stays where it protects a container that was there before.
        Err(error) if !paths.dir.exists() => {
            lock.remove(&paths.lock)?;
            return Err(error);
        }
        other => other?,
    };
    let cgroup_path = state.cgroup_path.clone();
    match build(&paths, &spec, state, pid_file) {
        Ok(()) => Ok(()),
        Err(error) => {
            undo(roots, id, &cgroup_path, lock);
            Err(error)
        }
    }
}

/// Best effort: the reason for it is worth more than what else goes wrong.
fn undo(roots: &Roots, id: &ContainerId, cgroup_path: &Path, lock: Lock) {
    if let Ok(Some(cgroup)) = Cgroup::open(cgroup_path) {
        let _ = cgroup.kill();
    }
    let _ = cgroup::remove(cgroup_path);
    let _ = store::remove(roots, id);
    let _ = lock.remove(&roots.container(id).lock);
}

fn build(paths: &ContainerPaths, spec: &Spec, mut state: State, pid_file: Option<&Path>) -> Result<()> {
    let plan = launch::plan(spec, &Settings::of(spec)?, paths, &state.bundle)?;
    store::make_dir(&paths.run_dir)?;
    let gate = Gate::Listen(listen(paths)?);
    let cgroup = Cgroup::create(&state.cgroup_path)?;
    let init = launch::create(plan, &cgroup, inherited_stdio()?, gate)?;
    state.init = ProcessRef::of(init.pid);
    state.status = Status::Created;
    store::write_state(paths, &state, Durability::Atomic)?;
    match pid_file {
        Some(file) => publish::bytes(file, init.pid.to_string().as_bytes(), Durability::Atomic),
        None => Ok(()),
    }
}

/// `config.json` of the bundle.
fn read_config(bundle: &Path) -> Result<Spec> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).map_err(|error| {
        Error::io("read", &path, &error)
            .hint("a bundle is a directory with a config.json and a root filesystem")
    })?;
    let spec: Spec = serde_json::from_slice(&text)
        .map_err(|error| Error::usage(format!("read {}", path.display()), error.to_string()))?;
    validate::validate(&spec)?;
    Ok(spec)
}

/// Where the engine wants the container's cgroup: below the mount if absolute, else below podrun's own.
fn cgroup_path(roots: &Roots, id: &ContainerId, spec: &Spec) -> Result<PathBuf> {
    let wanted = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let Some(wanted) = wanted.filter(|path| !path.as_os_str().is_empty()) else {
        return cgroup::container_path(roots, id);
    };
    let wrong = |why: &str| Error::usage(format!("linux.cgroupsPath {}", wanted.display()), why);
    if wanted.components().any(|part| part == Component::ParentDir) {
        return Err(wrong("contains `..`"));
    }
    if wanted.components().any(|part| part.as_os_str() == "_shims") {
        return Err(wrong("is one of podrun's own"));
    }
    let mount = cgroup::mount()?;
    match wanted.strip_prefix("/") {
        Ok(below) if below.as_os_str().is_empty() => Err(wrong("is the root of all cgroups")),
        Ok(below) => Ok(mount.join(below)),
        Err(_) => Ok(mount.join(roots.cgroup_name()).join(wanted)),
    }
}

/// Whatever the engine gave this command is the container's.
fn inherited_stdio() -> Result<Stdio> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|error| Error::io("duplicate", "standard input and output", &error))
    };
    Ok(Stdio {
        stdin: copy(rustix::stdio::stdin())?,
        stdout: copy(rustix::stdio::stdout())?,
        stderr: copy(rustix::stdio::stderr())?,
    })
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
    let outcome = release(&paths);
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
        }
    }
    store::write_state(&paths, &state, Durability::Atomic)?;
    outcome
}

fn release(paths: &ContainerPaths) -> Result<()> {
    let (_dir, address) = gate_address(paths)?;
    let socket = socket()?;
    rustix::net::connect(&socket, &address).map_err(|errno| match errno {
        Errno::CONNREFUSED => Error::failed("start", "init ended before it was released"),
        errno => Error::at("connect to", paths.gate(), errno),
    })?;
    gate::go(&socket)?;
    let mut report = Vec::new();
    File::from(socket)
        .read_to_end(&mut report)
        .map_err(|error| Error::io("read the outcome from", paths.gate(), &error))?;
    gate::outcome(&report)
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
    let cgroup = Cgroup::open(&view.state.cgroup_path)?.ok_or_else(|| not_running(&view.state))?;
    if signal == nix::libc::SIGKILL {
        return cgroup.kill();
    }
    for pid in cgroup.procs()? {
        // What has left the list between reading and opening is gone, or somebody else by now: the
        // list is read again for the one that is about to be signalled.
        let Some(process) = open_pid(pid)? else { continue };
        if cgroup.procs()?.contains(&pid) {
            match sent(sys_signal::send(process, signal)) {
                Err(error) if error.kind == Kind::WrongState => {}
                other => other?,
            }
        }
    }
    Ok(())
}

/// The container's stop signal, then SIGKILL after `timeout` seconds. Returns once it has ended.
pub fn stop(roots: &Roots, view: &View, timeout: Option<u64>) -> Result<()> {
    let Some(init) = open_init(&view.state)? else { return Ok(()) };
    let spec: Option<Spec> = publish::read_json(&roots.container(&view.state.id).spec())?;
    let settings = spec.as_ref().map(Settings::of).transpose()?.unwrap_or_default();
    // An init that still waits to be started hears nothing but SIGKILL.
    if view.state.status != Status::Created {
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

fn not_running(state: &State) -> Error {
    Error::new(Kind::WrongState, format!("container {}", state.id), "container not running")
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
