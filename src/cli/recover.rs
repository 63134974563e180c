//! `podrun recover`: gives containers that lost their shim and its keeper new ones, and starts those that
//! their restart policy has run after a reboot. For boot scripts and timers.

use podrun::client;
use podrun::paths::{ContainerId, Roots};
use podrun::state::store;

use super::{Errors, Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str =
    "Adopt containers whose shim is lost, start those that should run, and print their IDs";

const AFTER: &str = "\
After a reboot it starts: with --restart always every container that was ever started; with unless-stopped
those that nobody had stopped; with on-failure those that were running. At any time it starts those that
wait for a restart and have lost their shim, or whose shim was ended by SIGTERM.

Example: podrun recover web
Example: podrun recover --all";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = AFTER)]
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
