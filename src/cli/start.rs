//! `podrun start`: runs the command of a created or stopped container.

use podrun::client;
use podrun::error::Result;
use podrun::paths::{ContainerId, Roots};
use podrun::state::{Mode, store};

use super::{Outcome, for_each, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Run the command of created or stopped containers";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun start web")]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<ContainerId>,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    for_each(&args.ids, |id| {
        let is_oci = is_oci(roots, id)?;
        client::start(roots, id)?;
        if is_oci { Ok(()) } else { out::line(id) }
    })
}

/// Whether an engine supervises the container: its own output must not have our IDs in it.
pub(super) fn is_oci(roots: &Roots, id: &ContainerId) -> Result<bool> {
    Ok(store::mode(roots, id)? == Some(Mode::Oci))
}
