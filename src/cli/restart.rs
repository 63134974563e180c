//! `podrun restart`: stop if running, then start.

use podrun::client;
use podrun::paths::{ContainerId, Roots};
use podrun::state::{Status, store};

use super::{Errors, Outcome, for_each, for_each_at_once, out};

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
    let stop = |id: &ContainerId| match store::view(roots, id)?.state.status {
        Status::Running | Status::Paused => client::stop(roots, id, args.timeout),
        _ => Ok(()),
    };
    let mut ended = Vec::new();
    let stops = for_each_at_once(&args.ids, stop, |id| {
        ended.push(id.clone());
        Ok(())
    });
    // One after the other: whoever makes a process has no other threads.
    let starts = for_each(&ended, |id| {
        client::start(roots, id)?;
        out::line(id)
    });
    match (stops, starts) {
        (Err(Errors(stops)), Err(Errors(starts))) => Err(Errors([stops, starts].concat())),
        (stops, starts) => stops.and(starts),
    }
}
