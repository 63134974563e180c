//! `podrun create`: builds a container up to, not including, running its command.

use std::path::{Path, PathBuf};

use podrun::error::{Error, Result};
use podrun::paths::{ContainerId, Roots};
use podrun::runtime::Caller;
use podrun::spec::bundle::Warn;
use podrun::spec::manager::Manager;
use podrun::state::publish::{self, Durability};
use podrun::{client, runtime};
use rustix::process::Rlimit;

use super::care::CareArgs;
use super::container::{ContainerArgs, of_bundle};
use super::limits::LimitArgs;
use super::walls::WallArgs;
use super::{Outcome, descriptors, host, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Create a container; `start` then runs its command";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun create web --rootfs /srv/web -- /usr/bin/httpd -f\n\
             Example: podrun create --bundle /path/to/bundle --pid-file /run/web.pid web")]
#[group(id = "what", required = true, multiple = true, args = ["rootfs", "bundle"])]
pub(super) struct Args {
    /// The container's name
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// Create from an OCI bundle; the caller supervises
    #[arg(long, short, value_name = "DIR", conflicts_with_all = ["container", "walls", "limits", "care"])]
    bundle: Option<PathBuf>,
    /// Give the bundle a shim of podrun's own
    #[arg(long, conflicts_with_all = ["rootfs", "preserve_fds", "no_pivot", "no_new_keyring", "console_socket"])]
    supervise: bool,
    /// Write the pid of the container's first process here
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// Send the master of the container's terminal over this unix socket (with --bundle)
    #[arg(long, value_name = "SOCKET", conflicts_with_all = ["container", "walls", "limits", "care"])]
    console_socket: Option<PathBuf>,
    /// Also pass on this many descriptors from 3 on (with --bundle)
    #[arg(long, value_name = "N", default_value_t = 0, conflicts_with = "rootfs")]
    preserve_fds: usize,
    /// Move the root to its place rather than pivot: for a host whose root is an initramfs (with --bundle)
    #[arg(long, conflicts_with = "rootfs")]
    no_pivot: bool,
    /// Share our session keyring with the container (with --bundle)
    #[arg(long, conflicts_with = "rootfs")]
    no_new_keyring: bool,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    walls: WallArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    care: CareArgs,
}

impl Args {
    pub(super) fn launches(&self) -> bool {
        self.bundle.is_none()
    }

    pub(super) fn supervises(&self) -> bool {
        self.bundle.is_none() || self.supervise
    }
}

pub(super) fn run(
    roots: &Roots,
    mut args: Args,
    cgroups: Manager,
    inherited: Vec<String>,
    stack: Option<Rlimit>,
    warn: Warn<'_>,
) -> Outcome {
    if let Some(bundle) = args.bundle.as_ref().filter(|_| !args.supervise) {
        host::protect_program(stack)?;
        let listen_fds = descriptors::listen_fds()?;
        let caller = Caller {
            preserved: descriptors::preserved(listen_fds.saturating_add(args.preserve_fds))?,
            console_socket: args.console_socket.as_deref(),
            pid_file: args.pid_file.as_deref(),
            listen_fds,
            notify_socket: std::env::var_os("NOTIFY_SOCKET").map(PathBuf::from),
            no_new_keyring: args.no_new_keyring,
            no_pivot: args.no_pivot,
            cgroups,
            stack,
        };
        runtime::create(roots, &args.id, bundle, caller, warn)?;
        return Ok(0);
    }
    (args.container.cgroups, args.container.inherited) = (cgroups, inherited);
    let (compiled, reserved) = match &args.bundle {
        Some(bundle) => (of_bundle(bundle, false, cgroups, &args.container.inherited, warn)?, None),
        None => args.container.compile(args.walls, args.limits, args.care, roots, &args.id, false)?,
    };
    args.pid_file.as_deref().map_or(Ok(()), publish::check_place)?;
    let (_, pid) = client::create(roots, &args.id, &compiled.spec, &compiled.files)?;
    drop(reserved);
    publish_pid(roots, &args.id, pid, args.pid_file.as_deref())?;
    out::line(&args.id).map(|()| 0).map_err(|error| discard(roots, &args.id, error).into())
}

/// Writes the pid file that was asked for. Where it cannot be written nothing is left.
pub(super) fn publish_pid(roots: &Roots, id: &ContainerId, pid: i32, file: Option<&Path>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    publish::bytes(file, pid.to_string().as_bytes(), Durability::Atomic)
        .map_err(|error| discard(roots, id, error))
}

/// Removes the container `id` that was created for nothing; returns what went wrong with it.
pub(super) fn discard(roots: &Roots, id: &ContainerId, error: Error) -> Error {
    match client::delete(roots, id, true) {
        Err(left) if left.kind != podrun::error::Kind::NoSuchContainer => {
            error.hint(format!("`podrun delete -f {id}` removes what is left of it: {left}"))
        }
        _ => error,
    }
}
