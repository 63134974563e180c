//! `create --bundle`: everything up to an init that waits to be started.

use std::path::{Component, Path, PathBuf};

use jiff::Timestamp;

use super::console::Console;
use super::listen;
use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Result};
use crate::launch::{self, Gate, Stdio};
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::spec::limits;
use crate::spec::settings::Settings;
use crate::spec::{Spec, validate};
use crate::state::lock::Lock;
use crate::state::process::boot_id;
use crate::state::publish::{self, Durability};
use crate::state::store;
use crate::state::{Mode, ProcessRef, STATE_VERSION, State, Status};

/// Creates container `id` from the OCI bundle at `bundle`. Its init is built, waits for [`start`],
/// and is the child of whoever adopts the orphans of this process.
pub fn create(
    roots: &Roots,
    id: &ContainerId,
    bundle: &Path,
    pid_file: Option<&Path>,
    console_socket: Option<&Path>,
) -> Result<()> {
    let bundle = std::path::absolute(bundle).map_err(|error| Error::io("resolve", bundle, &error))?;
    let spec = read_config(&bundle)?;
    let console = Console::of(&spec, console_socket)?;
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
        keeper: None,
        adoptions: 0,
        pipes: Default::default(),
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
    match build(&paths, &spec, state, pid_file, console) {
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

fn build(
    paths: &ContainerPaths,
    spec: &Spec,
    mut state: State,
    pid_file: Option<&Path>,
    console: Option<Console>,
) -> Result<()> {
    let plan = launch::plan(spec, &Settings::of(spec)?, paths, &state.bundle)?;
    store::make_dir(&paths.run_dir)?;
    let gate = Gate::Listen(listen(paths)?);
    let cgroup = Cgroup::create_for(&state.cgroup_path, limits::resources(spec))?;
    let stdio = match Stdio::terminal_of(spec) {
        Some(terminal) => terminal,
        None => inherited_stdio()?,
    };
    let init = launch::create(plan, &cgroup, stdio, gate)?;
    if let (Some(console), Some(terminal)) = (console, &init.terminal) {
        console.send(&terminal.master)?;
    }
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
    Ok(Stdio::Files([
        copy(rustix::stdio::stdin())?,
        copy(rustix::stdio::stdout())?,
        copy(rustix::stdio::stderr())?,
    ]))
}
