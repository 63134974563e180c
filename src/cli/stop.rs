//! `podrun stop`: the stop signal, then SIGKILL.

use podrun::client;
use podrun::paths::{ContainerId, Roots};

use super::{Outcome, for_each_at_once, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "End containers: TERM, or their stop signal, then KILL after a while";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun stop -t 3 web")]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<ContainerId>,
    /// Seconds before KILL [default: the container's own, else 10]
    #[arg(long, short, value_name = "SECONDS")]
    timeout: Option<u64>,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    for_each_at_once(&args.ids, |id| client::stop(roots, id, args.timeout), |id| out::line(id))
}
