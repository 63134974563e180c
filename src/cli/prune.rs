//! `podrun prune`: removes every stopped container.

use podrun::client;
use podrun::paths::Roots;
use podrun::state::store;

use super::{Errors, Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Remove every stopped container and everything it had, and print their IDs";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun prune")]
pub(super) struct Args {}

pub(super) fn run(roots: &Roots, _args: &Args) -> Outcome {
    let mut errors = Vec::new();
    for id in store::list(roots)? {
        match client::prune(roots, &id) {
            Ok(true) => out::line(&id)?,
            Ok(false) => {}
            Err(error) => errors.push(error),
        }
    }
    if errors.is_empty() { Ok(0) } else { Err(Errors(errors)) }
}
