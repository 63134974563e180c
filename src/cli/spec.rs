//! `podrun spec`: a configuration to begin a bundle with.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::PathBuf;

use podrun::error::{Error, Result};
use podrun::paths::{ContainerId, Roots};
use podrun::spec::host::Host;
use podrun::spec::{self, Options, Ordered, Spec};

use super::{Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Print the config.json of an ordinary bundle";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun spec --bundle /path/to/bundle")]
pub(super) struct Args {
    /// Write it as config.json of this bundle instead, where there is none yet
    #[arg(long, short, value_name = "DIR")]
    bundle: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Outcome {
    let spec = ordinary()?;
    let Some(bundle) = &args.bundle else {
        out::json(&Ordered(&spec))?;
        return Ok(0);
    };
    let path = bundle.join("config.json");
    let mut text = serde_json::to_vec_pretty(&Ordered(&spec))
        .map_err(|error| Error::failed("write a configuration", error.to_string()))?;
    text.push(b'\n');
    let file = OpenOptions::new().write(true).create_new(true).open(&path);
    file.and_then(|mut file| file.write_all(&text)).map_err(|error| Error::io("write", &path, &error))?;
    Ok(0)
}

/// What `create --rootfs` makes of no option at all, but for what is podrun's own.
fn ordinary() -> Result<Spec> {
    let id: ContainerId = "podrun".parse()?;
    let roots = Roots::new(None, None)?;
    let options = Options::new("rootfs".parse()?, vec!["sh".to_owned()]);
    let host = Host { rootfs: "rootfs".into(), ..Host::default() };
    let mut spec = spec::compile(&options, &id, &roots.container(&id), &host)?.spec;
    spec.set_annotations(None);
    Ok(spec)
}
