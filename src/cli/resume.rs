//! `podrun resume`: everything inside goes on.

use podrun::client;
use podrun::paths::{ContainerId, Roots};

use super::{Outcome, for_each, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Let a paused container go on";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun resume web")]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<ContainerId>,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    for_each(&args.ids, |id| {
        client::set_paused(roots, id, false)?;
        out::line(id)
    })
}
