//! `podrun completion`: a completion script for a shell.

use clap::CommandFactory;
use clap_complete::Shell;

use super::{Cli, Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Print a completion script for a shell";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun completion bash > /etc/bash_completion.d/podrun")]
pub(super) struct Args {
    /// The shell
    #[arg(value_name = "SHELL")]
    shell: Shell,
}

pub(super) fn run(args: &Args) -> Outcome {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "podrun", &mut script);
    out::print(&String::from_utf8_lossy(&script))?;
    Ok(0)
}
