//! `podrun state`: what a container is now, as JSON.

use podrun::paths::{ContainerId, Roots};
use podrun::state::store;

use super::document::{Document, Excerpt};
use super::{Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Print the state of a container as JSON";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun state web")]
pub(super) struct Args {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let view = store::view(roots, &args.id)?;
    let excerpt = Excerpt::read(&roots.container(&args.id))?;
    out::json(&Document::of(view, excerpt))?;
    Ok(0)
}
