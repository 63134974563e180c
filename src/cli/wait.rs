//! `podrun wait`: blocks until containers have ended.

use podrun::client;
use podrun::error::Error;
use podrun::paths::{ContainerId, Roots};

use super::{Errors, Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str =
    "Wait until containers have ended (with --restart: for good), and print their exit codes";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun wait web")]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<ContainerId>,
    /// Print the whole exit record
    #[arg(long)]
    json: bool,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let mut errors = Vec::new();
    let mut code = 0;
    for id in &args.ids {
        let record = match client::wait(roots, id) {
            Ok(record) => record,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let text = match record.exit_code {
            _ if args.json => serde_json::to_string(&record)
                .map_err(|error| Error::failed("encode the exit record", error.to_string()))?,
            Some(code) => code.to_string(),
            None => "unknown".to_owned(),
        };
        if record.exit_code.is_none() {
            code = 1;
        }
        out::line(text)?;
    }
    if errors.is_empty() { Ok(code) } else { Err(Errors(errors)) }
}
