//! The options that `create` and `run` share.

use std::path::Path;

use podrun::client::ranges::{self, Reserved};
use podrun::error::{Error, Kind, Result};
use podrun::launch;
use podrun::paths::{ContainerId, Roots};
use podrun::runtime;
use podrun::spec::bundle::Warn;
use podrun::spec::host::Host;
use podrun::spec::manager::Manager;
use podrun::spec::options::{Network, Rootfs, Userns};
use podrun::spec::settings::{STOP_TIMEOUT, Settings};
use podrun::spec::terminal::WindowSize;
use podrun::spec::{self, Compiled, Options, bundle, env};

use super::care::CareArgs;
use super::limits::LimitArgs;
use super::walls::WallArgs;

/// What a supervised container is made of.
#[derive(Debug, clap::Args)]
#[group(id = "container")]
pub(super) struct ContainerArgs {
    /// The root filesystem; `:O` leaves it untouched and puts a writable overlay above it, `/:O` is the host's own
    #[arg(long, value_name = "DIR[:O]")]
    pub(super) rootfs: Option<Rootfs>,
    /// The root filesystem cannot be written
    #[arg(long)]
    read_only: bool,
    /// Set an environment variable; a bare KEY passes on your own value
    #[arg(long, short, value_name = "KEY=VALUE")]
    env: Vec<String>,
    /// Read environment variables from a file, one a line
    #[arg(long, value_name = "FILE")]
    env_file: Vec<String>,
    /// The working directory
    #[arg(long, short = 'w', visible_alias = "workdir", value_name = "DIR")]
    cwd: Option<String>,
    /// The user, and the group, by name or number
    #[arg(long, short, value_name = "USER[:GROUP]")]
    user: Option<String>,
    /// The hostname [default: made from the ID]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,
    /// Run a minimal init as PID 1 that forwards signals and reaps
    #[arg(long)]
    init: bool,
    /// The network: host, none, or ns:PATH
    #[arg(long, value_name = "NETWORK", default_value = "host")]
    network: Network,
    /// The user namespace: host, auto, or map:CONTAINER:HOST:SIZE, where root inside is nobody outside
    #[arg(long, value_name = "USERNS", default_value = "host")]
    userns: Userns,
    /// Put the container's cgroup below this one, which is below the mount of cgroup v2
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
    /// The global option, not this command's.
    #[arg(skip)]
    pub(super) cgroups: Manager,
    /// What limits this command, as `--ulimit` writes it.
    #[arg(skip)]
    pub(super) inherited: Vec<String>,
    /// Attach a label
    #[arg(long, value_name = "KEY=VALUE")]
    label: Vec<String>,
    /// Attach an OCI annotation
    #[arg(long, value_name = "KEY=VALUE")]
    annotation: Vec<String>,
    /// Mount a file or directory of the host: ro, rro, rw, bind, rbind, nosuid, nodev, noexec, idmap, propagation
    #[arg(long, short, value_name = "SRC:DST[:OPTS]")]
    volume: Vec<String>,
    /// Mount, in the words of docker: type=bind|tmpfs,source=SRC,target=DST[,readonly,…]
    #[arg(long, value_name = "TYPE,…")]
    mount: Vec<String>,
    /// Let it use a device of the host, or every device in a directory
    #[arg(long, value_name = "HOST[:CONTAINER[:rwm]]")]
    device: Vec<String>,
    /// Mount an empty file system in memory
    #[arg(long, value_name = "DST[:OPTS]")]
    tmpfs: Vec<String>,
    /// The signal that `stop` sends first [default: TERM]
    #[arg(long, value_name = "SIGNAL")]
    stop_signal: Option<String>,
    /// Seconds between that signal and KILL
    #[arg(long, value_name = "SECONDS", default_value_t = STOP_TIMEOUT)]
    stop_timeout: u64,
    /// Keep stdin open
    #[arg(long, short)]
    pub(super) interactive: bool,
    /// Give it a terminal
    #[arg(long, short)]
    pub(super) tty: bool,
    /// Where the output goes: k8s-file, json-file, raw, journald or none; given twice, to two of them [default: k8s-file]
    #[arg(long, value_name = "DRIVER")]
    log_driver: Vec<String>,
    /// How much of it is kept, and what a full disk means: max-size=10m,max-file=3,mode=block|drop
    #[arg(long, value_name = "KEY=VALUE")]
    log_opt: Vec<String>,
    /// The command and its arguments
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

impl ContainerArgs {
    /// The container `id` that these options describe, and with `--userns auto` the IDs that stay
    /// reserved for it until it is in the store.
    pub(super) fn compile(
        self,
        walls: WallArgs,
        limits: LimitArgs,
        care: CareArgs,
        roots: &Roots,
        id: &ContainerId,
        rm: bool,
    ) -> Result<(Compiled, Option<Reserved>)> {
        let missing = |what| {
            Error::usage(what, "is missing")
                .hint("podrun run --rootfs DIR -- CMD: the command stands behind `--`")
        };
        let rootfs = self.rootfs.ok_or_else(|| missing("--rootfs"))?;
        if self.command.is_empty() {
            return Err(missing("command"));
        }
        let mut environment = Vec::new();
        for name in &self.env_file {
            let text = std::fs::read_to_string(name).map_err(|error| Error::io("read", name, &error))?;
            environment.extend(env::file(name, &text, &own)?);
        }
        environment.extend(variables(&self.env)?);
        let (userns, reserved) = match self.userns {
            Userns::Host => (None, None),
            Userns::Map(ranges) => (Some(ranges), None),
            Userns::Auto { size } => {
                let reserved = ranges::reserve(roots, size)?;
                (Some(vec![reserved.range]), Some(reserved))
            }
        };
        let parent = self.cgroup_parent.as_deref();
        let mut walls = walls.walls()?;
        // What was asked for overrides what comes with the caller.
        walls.ulimits.splice(0..0, self.inherited);
        let mut options = Options {
            cgroups_path: parent.map(|parent| self.cgroups.below_parent(roots, id, parent)).transpose()?,
            cgroups: self.cgroups,
            read_only: self.read_only,
            env: environment,
            cwd: self.cwd,
            user: self.user,
            hostname: self.hostname,
            init: self.init,
            network: self.network,
            userns,
            labels: self.label,
            annotations: self.annotation,
            volumes: self.volume,
            mounts: self.mount,
            devices: self.device,
            tmpfs: self.tmpfs,
            limits: limits.into(),
            stop_signal: self.stop_signal,
            stop_timeout: self.stop_timeout,
            interactive: self.interactive,
            terminal: self.tty,
            window: self.tty.then(|| own_window().unwrap_or(WINDOW)),
            rm,
            log_drivers: self.log_driver,
            log_options: self.log_opt,
            walls,
            ..Options::new(rootfs, self.command)
        };
        care.apply(&mut options);
        // The exit code of a usage error is that of any other failure here: 125.
        let host = Host::read(&options)?;
        let compiled = spec::compile(&options, id, &roots.container(id), &host)?;
        launch::suffice(&compiled.spec)?;
        Ok((compiled, reserved))
    }
}

/// The size of a terminal that nobody looks at yet.
pub(super) const WINDOW: WindowSize = WindowSize { rows: 24, columns: 80 };

/// The size of our own terminal, where we have one.
pub(super) fn own_window() -> Option<WindowSize> {
    let fds = [rustix::stdio::stdout(), rustix::stdio::stdin(), rustix::stdio::stderr()];
    fds.into_iter().find_map(|fd| rustix::termios::tcgetwinsize(fd).ok()).map(WindowSize::from)
}

/// The container that the OCI bundle at `dir` describes, for a shim; `inherited` limits it where it says nothing, and
/// `warn` hears of what is passed over.
pub(super) fn of_bundle(
    dir: &Path,
    rm: bool,
    cgroups: Manager,
    inherited: &[String],
    warn: Warn<'_>,
) -> Result<Compiled> {
    let dir = std::path::absolute(dir).map_err(|error| Error::io("resolve", dir, &error))?;
    let mut spec = runtime::read_config(&dir, warn)?;
    if bundle::cgroups_path(&spec).is_some() {
        return Err(Error::usage("config linux.cgroupsPath", "is for containers that an engine supervises"));
    }
    bundle::anchor(&mut spec, &dir);
    spec::walls::inherit(&mut spec, inherited)?;
    let mut settings = Settings::of(&spec)?;
    settings.rm |= rm;
    settings.cgroups = cgroups;
    let mut annotations = spec.annotations().clone().unwrap_or_default();
    settings.write_to(&mut annotations);
    spec.set_annotations(Some(annotations));
    Ok(Compiled { spec, settings, files: Vec::new() })
}

/// The entries that `--env` means.
pub(super) fn variables(flags: &[String]) -> Result<Vec<String>> {
    let entries: Result<Vec<_>> = flags.iter().map(|flag| env::flag(flag, &own)).collect();
    Ok(entries?.into_iter().flatten().collect())
}

/// podrun's own value of a variable.
fn own(key: &str) -> Option<String> {
    std::env::var(key).ok()
}

/// That a shim is not there, or not for this, told apart by what the container is now.
pub(super) fn not_running(what: String, view: &podrun::state::store::View) -> Error {
    use podrun::state::{Mode, Status};
    let (mode, status) = (view.state.mode, view.state.status);
    match (mode, status) {
        (Mode::Oci, Status::Running | Status::Paused | Status::Created) => {
            Error::new(Kind::WrongState, what, "the container has no shim: an engine supervises it")
        }
        (Mode::Supervised, Status::Running | Status::Paused) => {
            Error::new(Kind::WrongState, what, "the container's shim is gone")
        }
        _ => Error::new(Kind::WrongState, what, format!("container not running: it is {status}")),
    }
}
