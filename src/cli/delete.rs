//! `podrun delete`: removes containers and everything they had.

use podrun::client;
use podrun::error::Kind;
use podrun::paths::{ContainerId, Roots};

use super::start::is_oci;
use super::{Outcome, for_each, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Remove created or stopped containers and everything they had";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun delete -f web")]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<ContainerId>,
    /// End them first; an ID that does not exist is no error
    #[arg(long, short)]
    force: bool,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    for_each(&args.ids, |id| {
        // With damaged files nobody knows; the ID is then printed.
        let quiet = is_oci(roots, id).unwrap_or(false);
        match client::delete(roots, id, args.force) {
            Err(error) if args.force && error.kind == Kind::NoSuchContainer => Ok(()),
            Err(error) => Err(error),
            Ok(()) if quiet => Ok(()),
            Ok(()) => out::line(id),
        }
    })
}
