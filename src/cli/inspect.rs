//! `podrun inspect`: everything about containers, as JSON.

use std::path::PathBuf;

use podrun::error::Result;
use podrun::paths::{ContainerId, ContainerPaths, Roots};
use podrun::spec::Spec;
use podrun::spec::settings::Settings;
use podrun::state::{Mode, publish, store};
use serde::Serialize;
use serde_json::Value;

use super::document::{Document, Excerpt};
use super::logs::Readable;
use super::{Errors, Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Print everything about containers as JSON: state, spec and paths";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun inspect web db")]
pub(super) struct Args {
    /// The containers
    #[arg(value_name = "ID", required = true)]
    ids: Vec<ContainerId>,
}

#[derive(Debug, Serialize)]
struct Inspected {
    state: Document,
    spec: Value,
    paths: Paths,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Paths {
    dir: PathBuf,
    run_dir: PathBuf,
    spec: PathBuf,
    state: PathBuf,
    /// The file that `podrun logs` reads; absent where there is none.
    log: Option<PathBuf>,
    exit: PathBuf,
    socket: PathBuf,
    shim_log: PathBuf,
}

impl Paths {
    fn of(paths: ContainerPaths, log: Option<PathBuf>) -> Self {
        Self {
            spec: paths.spec(),
            state: paths.state(),
            log,
            exit: paths.exit(),
            socket: paths.socket(),
            shim_log: paths.shim_log(),
            dir: paths.dir,
            run_dir: paths.run_dir,
        }
    }
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let (mut all, mut errors) = (Vec::new(), Vec::new());
    for id in &args.ids {
        match inspect(roots, id) {
            Ok(one) => all.push(one),
            Err(error) => errors.push(error),
        }
    }
    out::json(&all)?;
    if errors.is_empty() { Ok(0) } else { Err(Errors(errors)) }
}

fn inspect(roots: &Roots, id: &ContainerId) -> Result<Inspected> {
    let paths = roots.container(id);
    let view = store::view(roots, id)?;
    let mode = view.state.mode;
    let state = Document::of(view, Excerpt::read(&paths)?);
    let spec = publish::read_json(&paths.spec())?.unwrap_or_default();
    let log = (mode == Mode::Supervised).then(|| log_of(&paths)).flatten();
    Ok(Inspected { state, spec, paths: Paths::of(paths, log) })
}

/// The file that `podrun logs` reads, where there is one.
fn log_of(paths: &ContainerPaths) -> Option<PathBuf> {
    // What is wrong with a damaged specification is shown, not told.
    let spec: Spec = publish::read_json(&paths.spec()).ok()??;
    let settings = Settings::of(&spec).ok()?;
    Some(Readable::of(paths, &settings.logging)?.path)
}
