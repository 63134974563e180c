//! `podrun upgrade`: running shims become the installed `podrun-shim`.

use podrun::client;
use podrun::paths::Roots;

use super::Outcome;
use super::each::Which;

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
    #[command(flatten)]
    which: Which,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    args.which.each(roots, client::upgrade)
}
