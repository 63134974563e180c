//! `podrun kill`: sends a signal to a container.

use podrun::client;
use podrun::paths::{ContainerId, Roots};
use podrun::spec::signal;

use super::Outcome;

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Send a signal to a container's main process";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun kill web HUP\nExample: podrun kill -s 9 --all web")]
pub(super) struct Args {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// The signal, by name or number [default: TERM]
    #[arg(value_name = "SIGNAL", conflicts_with = "flag")]
    signal: Option<String>,
    /// The same
    #[arg(id = "flag", long = "signal", short = 's', value_name = "SIGNAL")]
    flag: Option<String>,
    /// To every process of the container
    #[arg(long, short)]
    all: bool,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let text = args.signal.as_ref().or(args.flag.as_ref());
    let signal = signal::parse(text.map_or("TERM", String::as_str))?;
    client::signal(roots, &args.id, signal, args.all)?;
    Ok(0)
}
