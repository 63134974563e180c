//! `podrun features`: what this runtime can do, as engines ask it.

use podrun::runtime;

use super::{Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Print what podrun can do as an OCI runtime";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun features")]
pub(super) struct Args {}

pub(super) fn run(_: &Args) -> Outcome {
    out::json(&runtime::features())?;
    Ok(0)
}
