//! `podrun upgrade`: running shims become the installed `podrun-shim`.

use podrun::client;
use podrun::paths::{ContainerId, Roots};
use podrun::state::store;

use super::{Errors, Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Have running shims become the installed podrun-shim, and print their IDs";

#[derive(Debug, clap::Args)]
#[command(
    about = ABOUT,
    long_about = "Have running shims become the installed podrun-shim, and print their IDs.\n\nThe containers do \
                  not notice. A podrun-shim that does not start, or does not understand what the running one \
                  holds, is refused, and the running one goes on.",
    after_help = "Example: podrun upgrade web\nExample: podrun upgrade --all"
)]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<ContainerId>,
    /// Every container that runs
    #[arg(long)]
    all: bool,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let ids = if args.all { store::list(roots)? } else { args.ids.clone() };
    let mut errors = Vec::new();
    for id in &ids {
        match client::upgrade(roots, id) {
            Ok(true) => out::line(id)?,
            Ok(false) => {}
            // Deleted after the listing.
            Err(_) if args.all && !roots.container(id).dir.exists() => {}
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Errors(errors)) }
}
