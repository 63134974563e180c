//! `podrun restart`: stop if running, then start.

use podrun::client;
use podrun::paths::{ContainerId, Roots};
use podrun::state::{Status, store};

use super::{Outcome, for_each, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Stop containers if they run, and start them again";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun restart web")]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<ContainerId>,
    /// Seconds before KILL [default: the container's own, else 10]
    #[arg(long, short, value_name = "SECONDS")]
    timeout: Option<u64>,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    for_each(&args.ids, |id| {
        let status = store::view(roots, id)?.state.status;
        if matches!(status, Status::Running | Status::Paused) {
            client::stop(roots, id, args.timeout)?;
        }
        client::start(roots, id)?;
        out::line(id)
    })
}
