//! `podrun update`: other limits for a container that is there already.

use std::io::Read;
use std::path::{Path, PathBuf};

use podrun::client;
use podrun::error::{Error, Result};
use podrun::paths::{ContainerId, Roots};
use podrun::spec::limits::{Limits, LinuxResources};

use super::Outcome;
use super::limits::LimitArgs;

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Change the limits of a container; what is not named stays";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun update web --memory 256m --pids-limit 200\n\
             Example: podrun update web --resources - <resources.json")]
pub(super) struct Args {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// Take the limits from a file with OCI `linux.resources` in JSON; `-` is stdin
    #[arg(long, short, value_name = "FILE", conflicts_with = "limits")]
    resources: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

pub(super) fn run(roots: &Roots, args: Args) -> Outcome {
    let resources = match &args.resources {
        Some(file) => read(file)?,
        None => Limits::from(args.limits)
            .resources()?
            .ok_or_else(|| Error::usage("update", "no limit was given").hint("such as --memory 256m"))?,
    };
    client::update(roots, &args.id, &resources)?;
    Ok(0)
}

fn read(file: &Path) -> Result<LinuxResources> {
    let mut text = Vec::new();
    let result = match file.as_os_str() == "-" {
        true => std::io::stdin().read_to_end(&mut text).map(drop),
        false => std::fs::read(file).map(|bytes| text = bytes),
    };
    result.map_err(|error| Error::io("read", file, &error))?;
    serde_json::from_slice(&text)
        .map_err(|error| Error::usage(format!("read {}", file.display()), error.to_string()))
}
