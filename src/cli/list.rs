//! `podrun list`: every container, one line each.

use jiff::Timestamp;
use podrun::error::Error;
use podrun::paths::{ContainerId, Roots};
use podrun::state::store::{self, View};
use podrun::state::{Mode, Status};
use serde::Serialize;

use super::document::{Document, Excerpt, pid};
use super::{Errors, Format, Outcome, out, time};

/// How much of a command line the table shows.
const COMMAND: usize = 40;
/// The status of one whose files cannot be read.
const DAMAGED: &str = "damaged";

/// What the command does, in a line.
pub(super) const ABOUT: &str = "List every container";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun list --format json")]
pub(super) struct Args {
    /// Only the IDs
    #[arg(long, short)]
    quiet: bool,
    /// How to print them
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

/// One container in JSON. Where the table says `restarting` there is a `restartDue`, where it says `lost` a
/// `shim` that is not `alive`: `status` is one that OCI knows.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Listed {
    Whole {
        #[serde(flatten)]
        document: Box<Document>,
        command: String,
    },
    Damaged {
        id: ContainerId,
        status: &'static str,
        reason: String,
    },
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let ids = store::list(roots)?;
    if args.quiet && args.format == Format::Json {
        out::json(&ids)?;
        return Ok(0);
    }
    if args.quiet {
        out::print(&ids.iter().map(|id| format!("{id}\n")).collect::<String>())?;
        return Ok(0);
    }
    let mut errors = Vec::new();
    let mut seen = Vec::with_capacity(ids.len());
    for (id, view) in ids.iter().zip(store::glance(roots, &ids)) {
        match view {
            Ok(Some(view)) => seen.push(view),
            // Deleted after the listing.
            Ok(None) => {}
            // A damaged container is shown, and does not hide the others.
            Err(error) => errors.push((id.clone(), error)),
        }
    }
    match args.format {
        Format::Json => {
            let mut listed = Vec::with_capacity(seen.len());
            for view in seen {
                match Excerpt::read(&roots.container(&view.state.id)) {
                    Ok(excerpt) => listed.push(Listed::Whole {
                        command: excerpt.command(),
                        document: Box::new(Document::of(view, excerpt)),
                    }),
                    Err(error) => errors.push((view.state.id, error)),
                }
            }
            listed.extend(errors.iter().map(|(id, error)| Listed::Damaged {
                id: id.clone(),
                status: DAMAGED,
                reason: error.to_string(),
            }));
            out::json(&listed)?;
        }
        Format::Table => {
            let now = Timestamp::now();
            let mut rows = vec!["ID\tSTATUS\tPID\tCREATED\tCOMMAND".to_owned()];
            rows.extend(seen.iter().map(|view| row(view, now)));
            rows.extend(errors.iter().map(|(id, _)| format!("{id}\t{DAMAGED}\t-\t-\t-")));
            out::table(&rows)?;
        }
    }
    let errors: Vec<Error> = errors.into_iter().map(|(_, error)| error).collect();
    if errors.is_empty() { Ok(0) } else { Err(Errors(errors)) }
}

fn row(view: &View, now: Timestamp) -> String {
    let state = &view.state;
    let alive = matches!(state.status, Status::Created | Status::Running | Status::Paused);
    let status = match alive && state.mode == Mode::Supervised && !view.shim_alive {
        true => "lost",
        false if view.shim_alive && state.restarts.due.is_some() => "restarting",
        false => state.status.as_str(),
    };
    let status = match &view.health {
        Some(health) if status == Status::Running.as_str() => format!("{status}({})", health.status),
        _ => status.to_owned(),
    };
    let pid = match pid(state) {
        0 => "-".to_owned(),
        pid => pid.to_string(),
    };
    let command = out::cell(&state.args.join(" "), COMMAND);
    format!("{}\t{status}\t{pid}\t{}\t{command}", state.id, time::age(state.created_at, now))
}
