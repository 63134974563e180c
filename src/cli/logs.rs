//! `podrun logs`: a container's output, as it was, and with `-f` as it comes.

use std::os::unix::fs::OpenOptionsExt;

use jiff::Timestamp;
use podrun::client::{self, Reached};
use podrun::error::{Error, Result};
use podrun::log::format::Format;
use podrun::log::reader::{Reader, Selection};
use podrun::paths::{ContainerId, ContainerPaths, Roots};
use podrun::spec::logging::Logging;
use podrun::spec::settings::Settings;
use podrun::state::{Mode, store};

use super::follow::{Follower, OnClosedOutput};
use super::output::Output;
use super::{Outcome, time};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Print a container's output: stdout on stdout, stderr on stderr";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun logs -f --tail 10 web\nExample: podrun logs --since 10m -t web")]
pub(super) struct Args {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// Go on until the container has ended
    #[arg(long, short)]
    follow: bool,
    /// Only the last N lines, or `all`
    #[arg(long, short = 'n', value_name = "N", value_parser = tail, allow_negative_numbers = true)]
    tail: Option<Tail>,
    /// Only lines since then: RFC 3339, a Unix time, or an age such as 10m
    #[arg(long, value_name = "TIME", value_parser = time::argument)]
    since: Option<Timestamp>,
    /// Only lines until then
    #[arg(long, value_name = "TIME", value_parser = time::argument)]
    until: Option<Timestamp>,
    /// Put its time before each line
    #[arg(long, short)]
    timestamps: bool,
    /// Only stdout
    #[arg(long)]
    stdout: bool,
    /// Only stderr
    #[arg(long)]
    stderr: bool,
}

/// How many lines at the end; `None` for all of them.
type Tail = Option<u64>;

/// A number of lines; `all`, and as podman has it a negative number, for all of them.
fn tail(text: &str) -> Result<Tail, String> {
    match text.parse() {
        Ok(lines) => Ok(Some(lines)),
        Err(_) if text == "all" || text.parse::<i64>().is_ok_and(i64::is_negative) => Ok(None),
        Err(_) => Err("not a number of lines, nor `all`".to_owned()),
    }
}

pub(super) fn run(roots: &Roots, args: Args) -> Outcome {
    let view = store::view(roots, &args.id)?;
    if view.state.mode == Mode::Oci {
        let what = format!("logs of {}", args.id);
        return Err(Error::failed(what, "the engine that created the container has its output").into());
    }
    let selection = Selection {
        stdout: args.stdout || !args.stderr,
        stderr: args.stderr || !args.stdout,
        since: args.since,
        until: args.until,
        tail: args.tail.flatten(),
        timestamps: args.timestamps,
    };
    let paths = roots.container(&args.id);
    let log = read_back(&paths, &args.id)?;
    if log.format == Format::Raw {
        let times = args.timestamps || args.since.is_some() || args.until.is_some();
        for (asked, what) in [(times, "times"), (args.stdout || args.stderr, "streams")] {
            if asked {
                let what = format!("a raw log has no {what}");
                return Err(Error::failed(format!("logs of {}", args.id), what).into());
            }
        }
    }
    // The shim first: what it writes until the file is opened is then in the file.
    let client = match args.follow.then(|| client::reach(roots, &args.id)).transpose()? {
        Some(Reached::Shim(client)) => Some(client),
        Some(Reached::Without(_)) | None => None,
    };
    let follower = Follower {
        roots,
        id: &args.id,
        client,
        reader: Reader::open(&log.path, log.format, selection)?,
        output: Output::new(),
        signals: None,
        stdin: None,
        terminal: None,
        until: args.until.filter(|_| args.follow),
        // Whoever has been told of the end finds the container stopped.
        wants_record: args.follow,
        on_closed_output: OnClosedOutput::Leave,
        until_gone: false,
    };
    follower.run()?;
    Ok(0)
}

/// A log that can be read.
pub(super) struct Readable {
    pub(super) path: std::path::PathBuf,
    pub(super) format: Format,
}

impl Readable {
    /// Where `logging` puts it; `None` where it puts none that can be read.
    pub(super) fn of(paths: &ContainerPaths, logging: &Logging) -> Option<Self> {
        let driver = logging.readable()?;
        Some(Self { path: paths.log_dir().join(driver.file()?), format: Format::of(driver)? })
    }
}

/// Where those who watch see the output, whatever its log is: where none can be read, in the relay,
/// which is made for them.
pub(super) fn watched(paths: &ContainerPaths, logging: &Logging) -> Result<Readable, Error> {
    if let Some(readable) = Readable::of(paths, logging) {
        return Ok(readable);
    }
    let path = paths.relay();
    let made = std::fs::OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    made.map_err(|error| Error::io("create", &path, &error))?;
    Ok(Readable { path, format: Format::K8sFile })
}

fn read_back(paths: &ContainerPaths, id: &ContainerId) -> Result<Readable> {
    let logging = Settings::of(&store::spec(paths)?)?.logging;
    Readable::of(paths, &logging).ok_or_else(|| {
        let names: Vec<_> = logging.drivers.iter().map(|driver| driver.name()).collect();
        let error = Error::failed(format!("logs of {id}"), format!("its log driver is {}", names.join(", ")));
        match names.contains(&"journald") {
            true => error.hint(format!("journalctl CONTAINER_NAME={id}")),
            false => error,
        }
    })
}
