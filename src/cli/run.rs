//! `podrun run`: create and start; in the foreground until the container ends.

use std::path::PathBuf;

use podrun::client;
use podrun::error::{Error, Result};
use podrun::log::format::Format;
use podrun::log::reader::{Reader, Selection};
use podrun::paths::{ContainerId, Roots};
use podrun::protocol::{Reply, Request};
use podrun::state::ExitRecord;

use super::container::{ContainerArgs, of_bundle};
use super::create::{discard, publish_pid};
use super::follow::{Follower, OnClosedOutput};
use super::limits::LimitArgs;
use super::logs::Readable;
use super::output::Output;
use super::signals::Signals;
use super::stdin::Stdin;
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
    #[arg(long, short, value_name = "DIR", conflicts_with_all = ["container", "walls", "limits"])]
    bundle: Option<PathBuf>,
    /// Write the pid of the container's first process here
    #[arg(long, value_name = "FILE")]
    pid_file: Option<PathBuf>,
    #[command(flatten)]
    container: ContainerArgs,
    #[command(flatten)]
    walls: WallArgs,
    #[command(flatten)]
    limits: LimitArgs,
}

pub(super) fn run(roots: &Roots, args: Args) -> Outcome {
    let id = match args.id {
        Some(id) => id,
        None => made_up()?,
    };
    let interactive = args.container.interactive;
    let (compiled, reserved) = match &args.bundle {
        Some(bundle) => (of_bundle(bundle, args.rm)?, None),
        None => args.container.compile(args.walls, args.limits, roots, &id, args.rm)?,
    };
    // From here on a signal is the container's, once it runs.
    let signals = if args.detach { None } else { Some(Signals::register()?) };
    let (mut client, pid) = client::create(roots, &id, &compiled.spec, &compiled.files)?;
    drop(reserved);
    publish_pid(roots, &id, pid, args.pid_file.as_deref())?;
    let stdin = match interactive && !args.detach {
        true => Some(stdin_of(&mut client).map_err(|error| discard(roots, &id, error))?),
        false => None,
    };
    // With --rm the file goes with the container: it is opened before that can happen.
    let paths = roots.container(&id);
    let (log, format) = match Readable::of(&paths, &compiled.settings.logging) {
        Some(Readable { path, format }) => (path, format),
        // There is no such file, and never will be.
        None => (paths.log(), Format::K8sFile),
    };
    let reader =
        Reader::open(&log, format, Selection::default()).map_err(|error| discard(roots, &id, error))?;
    match client.call(&Request::Start) {
        Ok(Some(_)) => {}
        // Its shim died, and the next one knows whether it came that far.
        Ok(None) => client::start_again(roots, &id).map_err(|error| discard(roots, &id, error))?,
        Err(error) => {
            drop(client);
            return Err(discard(roots, &id, error).into());
        }
    }
    let Some(signals) = signals else {
        return match out::line(&id) {
            Ok(()) => Ok(0),
            // Nobody would know the name of what runs.
            Err(error) => Err(discard(roots, &id, error).into()),
        };
    };
    let forward = |signal| client::signal(roots, &id, signal, false);
    let follower = Follower {
        roots,
        id: &id,
        client: Some(client),
        reader,
        output: Output::new(),
        signals: Some((signals, &forward)),
        stdin,
        until: None,
        wants_record: true,
        on_closed_output: OnClosedOutput::GoOn,
        until_gone: args.rm,
    };
    let record = match follower.run()? {
        Some(record) => record,
        None => client::wait(roots, &id)?,
    };
    code(&id, &record)
}

/// The exit code that `record` tells.
fn code(id: &ContainerId, record: &ExitRecord) -> Outcome {
    match record.exit_code.and_then(|code| u8::try_from(code).ok()) {
        Some(code) => Ok(code),
        None => {
            let why = record.reason.clone().unwrap_or_else(|| "nobody saw it end".to_owned());
            Err(Error::failed(format!("container {id}"), format!("its exit code is unknown: {why}")).into())
        }
    }
}

/// The container's stdin, carried by this process, which ends with it.
fn stdin_of(client: &mut client::Client) -> Result<Stdin> {
    client.send(&Request::Stdin { once: true }, &[])?;
    match client.receive()? {
        Some((Reply::Refused(error), _)) => Err(error),
        Some((_, fds)) => match fds.into_iter().next() {
            Some(writer) => Stdin::new(writer),
            None => Err(Error::failed("stdin", "the shim passed no descriptor")),
        },
        None => Err(Error::failed("stdin", "the container's shim went away")),
    }
}

/// An ID that nobody has: 48 random bits.
fn made_up() -> Result<ContainerId> {
    let mut bytes = [0_u8; 6];
    let failed = |errno| Error::os("make up an ID", errno);
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty()).map_err(failed)?;
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>().parse()
}
