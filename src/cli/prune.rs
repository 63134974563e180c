//! `podrun prune`: removes every stopped container.

use podrun::client;
use podrun::paths::Roots;
use podrun::state::store;

use super::Outcome;
use super::each::each;

/// What the command does, in a line.
pub(super) const ABOUT: &str =
    "Remove every stopped container, and what crashes left half made, and print their IDs";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun prune")]
pub(super) struct Args {}

pub(super) fn run(roots: &Roots, _args: &Args) -> Outcome {
    let pruned = each(roots, &store::list(roots)?, true, client::prune);
    // Whatever is wrong with others.
    client::sweep(roots)?;
    pruned
}
