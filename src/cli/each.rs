//! What is done to one container after the other: those that are named, or all.

use podrun::error::Result;
use podrun::paths::{ContainerId, Roots};
use podrun::state::store;

use super::{Outcome, for_each, out};

/// Which containers.
#[derive(Debug, clap::Args)]
pub(super) struct Which {
    /// The containers
    #[arg(value_name = "ID", required_unless_present = "all", conflicts_with = "all")]
    ids: Vec<ContainerId>,
    /// All of them
    #[arg(long)]
    all: bool,
}

impl Which {
    /// Whether it is all of them.
    pub(super) fn is_all(&self) -> bool {
        self.all
    }

    /// [`each`] of them.
    pub(super) fn each(&self, roots: &Roots, act: Act) -> Outcome {
        let ids = if self.all { store::list(roots)? } else { self.ids.clone() };
        each(roots, &ids, self.all, act)
    }
}

/// Does something to a container, if there is something to do.
type Act = fn(&Roots, &ContainerId) -> Result<bool>;

/// Acts on each of `ids`, and prints those for which there was something to do. What fails for one keeps it
/// from no other. `listed`: nobody named them, and one that is gone by now is no failure.
pub(super) fn each(roots: &Roots, ids: &[ContainerId], listed: bool, act: Act) -> Outcome {
    for_each(ids, |id| match act(roots, id) {
        Ok(true) => out::line(id),
        Err(error) if !listed || roots.container(id).dir.exists() => Err(error),
        _ => Ok(()),
    })
}
