//! `podrun recover`: gives containers that lost their shim and its keeper new ones, and starts those that
//! their restart policy has run after a reboot. For boot scripts and timers.

use podrun::client;
use podrun::paths::Roots;

use super::Outcome;
use super::each::Which;

/// What the command does, in a line.
pub(super) const ABOUT: &str =
    "Adopt containers whose shim is lost, start those that should run, and print their IDs";

const AFTER: &str = "\
After a reboot it starts: with --restart always every container that was ever started; with unless-stopped
those that nobody had stopped; with on-failure those that were running. At any time it starts those that
wait for a restart and have lost their shim, or whose shim was ended by SIGTERM. With --all it also removes
what a crash left of containers that were never created, or never deleted, completely.

Example: podrun recover web
Example: podrun recover --all";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = AFTER)]
pub(super) struct Args {
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let recovered = args.which.each(roots, client::recover);
    // Whatever is wrong with others.
    if args.which.is_all() {
        client::sweep(roots)?;
    }
    recovered
}
