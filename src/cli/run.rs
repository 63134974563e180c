//! `podrun run`: create and start; in the foreground until the container ends.

use std::path::PathBuf;

use podrun::client;
use podrun::error::{Error, Result};
use podrun::log::reader::{Reader, Selection};
use podrun::paths::{ContainerId, Roots};
use podrun::protocol::Request;
use podrun::spec::bundle::Warn;
use podrun::spec::manager::Manager;
use podrun::state::publish;

use super::attach::{Before, Seat, Tie};
use super::care::CareArgs;
use super::container::{ContainerArgs, of_bundle};
use super::create::{discard, publish_pid};
use super::detach::DetachKeys;
use super::limits::LimitArgs;
use super::logs::watched;
use super::signals::Signals;
use super::walls::WallArgs;
use super::{Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Create a container and run its command";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun run --rm --rootfs /:O -- /bin/echo hello\n\
             Example: podrun run -d web --rootfs /srv/web -- /usr/bin/httpd -f\n\
             Example: podrun run --bundle /path/to/bundle web")]
pub(super) struct Args {
    /// The container's name; one is made up where it is left out
    #[arg(value_name = "ID")]
    id: Option<ContainerId>,
    /// Print the ID and return; the container runs on
    #[arg(long, short)]
    detach: bool,
    /// Delete the container once it has ended
    #[arg(long)]
    rm: bool,
    /// Run an OCI bundle
    #[arg(long, short, value_name = "DIR", conflicts_with_all = ["container", "walls", "limits", "care"])]
    bundle: Option<PathBuf>,
    /// Write the pid of the container's first process here
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    /// The keys that leave the container alone, with -i and -t; empty for none
    #[arg(long, value_name = "KEYS", default_value = "ctrl-p,ctrl-q")]
    detach_keys: DetachKeys,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    walls: WallArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[command(flatten)]
    care: CareArgs,
}

pub(super) fn run(
    roots: &Roots,
    mut args: Args,
    cgroups: Manager,
    inherited: Vec<String>,
    warn: Warn<'_>,
) -> Outcome {
    (args.container.cgroups, args.container.inherited) = (cgroups, inherited);
    let id = match args.id {
        Some(id) => id,
        None => made_up()?,
    };
    let (compiled, reserved) = match &args.bundle {
        Some(bundle) => (of_bundle(bundle, args.rm, cgroups, &args.container.inherited, warn)?, None),
        None => args.container.compile(args.walls, args.limits, args.care, roots, &id, args.rm)?,
    };
    let process = compiled.spec.process().as_ref();
    let has_terminal = process.is_some_and(|process| process.terminal().unwrap_or(false));
    // From here on a signal is the container's, once it runs.
    let signals = if args.detach { None } else { Some(Signals::register()?) };
    args.pid_file.as_deref().map_or(Ok(()), publish::check_place)?;
    let (mut client, pid) = client::create(roots, &id, &compiled.spec, &compiled.files)?;
    drop(reserved);
    publish_pid(roots, &id, pid, args.pid_file.as_deref())?;
    let seated = match signals {
        None => None,
        Some(signals) => {
            let keys = has_terminal.then_some(args.detach_keys);
            let seat = Seat { stdin: true, once: true, keys, signals };
            let seated = seat.take(&mut client, &compiled.spec);
            let gone = || Error::failed(format!("start {id}"), "the container's shim went away");
            let seated = seated.and_then(|seated| seated.ok_or_else(gone));
            Some(seated.map_err(|error| discard(roots, &id, error))?)
        }
    };
    let watching = match seated {
        None => None,
        // With --rm the file goes with the container: it is opened before that can happen.
        Some(seated) => {
            let log = watched(&roots.container(&id), &compiled.settings.logging);
            let reader = log.and_then(|log| Reader::open(&log.path, log.format, Selection::default()));
            Some((seated, reader.map_err(|error| discard(roots, &id, error))?))
        }
    };
    let start = if watching.is_some() { Request::StartAndStay } else { Request::Start };
    match client.call(&start) {
        Ok(Some(_)) => {}
        // Its shim died, and the next one knows whether it came that far.
        Ok(None) => client::start_again(roots, &id).map_err(|error| discard(roots, &id, error))?,
        Err(error) => {
            drop(client);
            return Err(discard(roots, &id, error).into());
        }
    }
    match watching {
        Some((seated, reader)) => {
            seated.stay(Before { roots, id: &id, client, reader }, Tie::Own { rm: args.rm })
        }
        // Where it cannot be said, nobody would know the name of what runs.
        None => out::line(&id).map(|()| 0).map_err(|error| discard(roots, &id, error).into()),
    }
}

/// An ID that nobody has: 48 random bits.
fn made_up() -> Result<ContainerId> {
    let mut bytes = [0_u8; 6];
    let failed = |errno| Error::os("make up an ID", errno);
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().parse()
}
