//! `podrun pause`: everything inside stands still.

use podrun::client;
use podrun::paths::{ContainerId, Roots};

use super::{Outcome, for_each, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Make every process of a container stand still";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun pause web")]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<ContainerId>,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    for_each(&args.ids, |id| {
        client::set_paused(roots, id, true)?;
        out::line(id)
    })
}
