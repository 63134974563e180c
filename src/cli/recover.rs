//! `podrun recover`: gives containers that lost their shim and its keeper new ones.

use podrun::client;
use podrun::paths::{ContainerId, Roots};
use podrun::state::store;

use super::{Errors, Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Adopt containers whose shim is lost, and print their IDs";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun recover web\nExample: podrun recover --all")]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<ContainerId>,
    /// Every container
    #[arg(long)]
    all: bool,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let ids = if args.all { store::list(roots)? } else { args.ids.clone() };
    let mut errors = Vec::new();
    for id in &ids {
        match client::recover(roots, id) {
            Ok(true) => out::line(id)?,
            Ok(false) => {}
            // Deleted after the listing.
            Err(_) if args.all && !roots.container(id).dir.exists() => {}
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Errors(errors)) }
}
