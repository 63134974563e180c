//! `create --bundle`: everything up to an init that waits to be started.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rustix::process::Rlimit;

use super::console::Console;
use super::listen;
use crate::cgroup::{self, Cgroup};
use crate::error::{Error, Result};
use crate::events::{What, emit};
use crate::launch::{self, Gate, Hooks, Stdio};
use crate::paths::{ContainerId, ContainerPaths, Roots};
use crate::spec::bundle::Warn;
use crate::spec::limits;
use crate::spec::manager::Manager;
use crate::spec::settings::Settings;
use crate::spec::{Ordered, Spec, bundle, env, validate};
use crate::state::lock::Lock;
use crate::state::publish::{self, Durability};
use crate::state::store;
use crate::state::{Mode, ProcessRef, State, Status};

/// What the caller of `create --bundle` wants beyond the bundle.
#[derive(Debug, Default)]
pub struct Caller<'a> {
    /// Where init's pid is written, without a newline.
    pub pid_file: Option<&'a Path>,
    /// The unix socket over which the master of the container's terminal is sent.
    pub console_socket: Option<&'a Path>,
    /// Descriptors from 3 on that the container gets.
    pub preserved: Vec<OwnedFd>,
    /// How many of them, the first, are sockets that a service manager opened (`sd_listen_fds(3)`).
    pub listen_fds: usize,
    /// The socket on which a service manager waits for news (`sd_notify(3)`).
    pub notify_socket: Option<PathBuf>,
    /// The container's processes share the caller's session keyring.
    pub no_new_keyring: bool,
    /// The root is moved to its place: an initramfs cannot be pivoted from.
    pub no_pivot: bool,
    /// Who makes its cgroup.
    pub cgroups: Manager,
    /// What limits the container's stack where the bundle does not.
    pub stack: Option<Rlimit>,
}

/// Where the container has the service manager's socket.
const NOTIFY_SOCKET: &str = "/run/notify/notify.sock";

/// Creates container `id` from the OCI bundle at `bundle`. Its init is built, waits for
/// [`start`](super::start), and is the child of whoever adopts the orphans of this process. `warn` hears of what in the
/// bundle is passed over.
pub fn create(
    roots: &Roots,
    id: &ContainerId,
    bundle: &Path,
    caller: Caller<'_>,
    warn: Warn<'_>,
) -> Result<()> {
    let bundle = std::path::absolute(bundle).map_err(|error| Error::io("resolve", bundle, &error))?;
    let mut spec = read_config(&bundle, warn)?;
    pass_on(&mut spec, &caller);
    caller.pid_file.map_or(Ok(()), publish::check_place)?;
    let console = Console::of(&spec, caller.console_socket)?;
    let cgroup_path = caller.cgroups.cgroup_path(roots, id, &spec)?;
    // Whoever is in it is a stranger, and would be killed with the container.
    if Cgroup::open(&cgroup_path)?.is_some() {
        return Err(Error::failed(format!("cgroup {}", cgroup_path.display()), "already exists"));
    }
    let paths = roots.container(id);
    let lock = Lock::try_take(&paths.lock)?
        .ok_or_else(|| Error::failed(format!("container {id}"), "another command is working on it"))?;
    let rootfs = spec.root().as_ref().map(|root| bundle.join(root.path())).unwrap_or_default();
    let state = State {
        rootfs,
        args: spec.process().as_ref().and_then(|process| process.args().clone()).unwrap_or_default(),
        cgroups: caller.cgroups,
        ..State::creating(id, Mode::Oci, cgroup_path, bundle)
    };
    // Before anything else exists, so that a crash leaves something that `delete -f` finds.
    let inserted = store::insert(roots, id, |new| {
        publish::json(&new.spec(), &Ordered(&spec), Durability::Atomic)?;
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
    let before = state.clone();
    let hooks = Hooks::of(&spec, &before.id, &before.bundle);
    match build(&paths, &spec, state, caller, console) {
        Ok(()) => {
            emit(roots, id, What::Create);
            Ok(())
        }
        Err(error) => {
            // It knows which scope was made for it.
            let written = publish::read_json(&paths.state()).ok().flatten();
            undo(roots, &written.unwrap_or(before), lock);
            // The hooks before may have set something up.
            let _ = hooks.inspect(Hooks::poststop);
            Err(error)
        }
    }
}

/// Best effort: the reason for it is worth more than what else goes wrong.
fn undo(roots: &Roots, state: &State, lock: Lock) {
    let _ = cgroup::end(&state.cgroup_path, state.unit());
    let _ = store::remove(roots, &state.id);
    let _ = lock.remove(&roots.container(&state.id).lock);
}

/// Lets the container know what a service manager gave its caller, as `systemd.exec(5)` has it.
fn pass_on(spec: &mut Spec, caller: &Caller<'_>) {
    let mut process = spec.process().clone().unwrap_or_default();
    let mut env = process.env().clone().unwrap_or_default();
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    if caller.listen_fds > 0 {
        env::put(&mut env, format!("LISTEN_FDS={}", caller.listen_fds));
        // The container's command is PID 1 of its own namespace.
        env::put(&mut env, "LISTEN_PID=1".to_owned());
    }
    // A configuration that names a socket has one of its own.
    let named = env.iter().any(|entry| entry.starts_with("NOTIFY_SOCKET="));
    if let Some(socket) = caller.notify_socket.as_deref().filter(|_| !named) {
        let mut mount = Mount::default();
        mount
            .set_destination(NOTIFY_SOCKET.into())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(socket.to_owned()))
            .set_options(Some(vec!["bind".to_owned()]));
        mounts.push(mount);
        env.push(format!("NOTIFY_SOCKET={NOTIFY_SOCKET}"));
    }
    process.set_env(Some(env));
    spec.set_process(Some(process)).set_mounts(Some(mounts));
}

fn build(
    paths: &ContainerPaths,
    spec: &Spec,
    mut state: State,
    caller: Caller<'_>,
    console: Option<Console>,
) -> Result<()> {
    let mut plan = launch::plan(spec, &Settings::of(spec)?, paths, &state.bundle)?;
    plan.preserve(caller.preserved);
    plan.limit_stack(caller.stack);
    plan.share_keyring(caller.no_new_keyring);
    plan.do_not_pivot(caller.no_pivot);
    store::make_dir(&paths.run_dir)?;
    let gate = Gate::Listen(listen(paths)?);
    let _waiting = state.cgroups.begin(&state.cgroup_path, &state.id, spec)?;
    let cgroup = Cgroup::create_for(&state.cgroup_path, limits::resources(spec))?;
    if state.remember_unit(cgroup.as_ref())? {
        store::write_state(paths, &state, Durability::Eventual)?;
    }
    if let Some(cgroup) = cgroup.as_ref().filter(|_| bundle::cgroups_path(spec).is_some()) {
        // Who names the cgroup will look for it in every hierarchy.
        cgroup.be_counted();
    }
    let stdio = match Stdio::terminal_of(spec) {
        Some(terminal) => terminal,
        None => inherited_stdio()?,
    };
    let init = launch::create(plan, cgroup.as_ref(), stdio, gate)?;
    if let (Some(console), Some(terminal)) = (console, &init.terminal) {
        console.send(&terminal.master)?;
    }
    state.init = ProcessRef::of(init.pid);
    state.status = Status::Created;
    store::write_state(paths, &state, Durability::Eventual)?;
    match caller.pid_file {
        Some(file) => publish::bytes(file, init.pid.to_string().as_bytes(), Durability::Atomic),
        None => Ok(()),
    }
}

/// `config.json` of the bundle; `warn` hears of what in it is passed over.
pub fn read_config(bundle: &Path, warn: Warn<'_>) -> Result<Spec> {
    let path = bundle.join("config.json");
    let text = std::fs::read(&path).map_err(|error| {
        Error::io("read", &path, &error)
            .hint("a bundle is a directory with a config.json and a root filesystem")
    })?;
    let config = bundle::parse(&text, &|error| warn(&error.clone().at_file(&path)))
        .map_err(|error| error.at_file(&path))?;
    validate::validate(&config)?;
    if let Some(beyond) = launch::beyond_capabilities(&config)? {
        warn(&beyond.at_file(&path));
    }
    Ok(config)
}

/// Whatever the engine gave this command is the container's.
pub(super) fn inherited_stdio() -> Result<Stdio> {
    let copy = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned().map_err(|error| Error::io("duplicate", "standard input and output", &error))
    };
    Ok(Stdio::Files([
        copy(rustix::stdio::stdin())?,
        copy(rustix::stdio::stdout())?,
        copy(rustix::stdio::stderr())?,
    ]))
}
