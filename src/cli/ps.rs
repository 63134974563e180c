//! `podrun ps`: the processes inside a container.

use podrun::cgroup::Cgroup;
use podrun::error::{Error, Kind};
use podrun::paths::{ContainerId, Roots};
use podrun::state::{Status, store};

use super::{Format, Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "List the processes inside a container";

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun ps web")]
pub(super) struct Args {
    /// The container
    #[arg(value_name = "ID")]
    id: ContainerId,
    /// How to print them; json is an array of pids on the host
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let state = store::view(roots, &args.id)?.state;
    let what = || format!("ps of {}", args.id);
    if matches!(state.status, Status::Stopped | Status::Creating) {
        let why = format!("container not running: it is {}", state.status);
        return Err(Error::new(Kind::WrongState, what(), why).into());
    }
    if state.cgroup_path.as_os_str().is_empty() {
        return Err(Error::failed(what(), "the container has no cgroup").into());
    }
    let mut pids = match Cgroup::open(&state.cgroup_path)? {
        Some(cgroup) => cgroup.procs()?,
        None => Vec::new(),
    };
    pids.sort_unstable();
    match args.format {
        Format::Json => out::json(&pids)?,
        Format::Table => {
            let mut rows = vec!["PID\tPPID\tUID\tSTATE\tCOMMAND".to_owned()];
            rows.extend(pids.into_iter().filter_map(row));
            out::table(&rows)?;
        }
    }
    Ok(0)
}

/// One process; none where it has ended meanwhile.
fn row(pid: i32) -> Option<String> {
    let process = procfs::process::Process::new(pid).ok()?;
    let stat = process.stat().ok()?;
    let uid = process.uid().ok()?;
    let command = match process.cmdline() {
        Ok(args) if !args.is_empty() => args.join(" "),
        _ => format!("[{}]", stat.comm),
    };
    Some(format!("{pid}\t{}\t{uid}\t{}\t{}", stat.ppid, stat.state, out::cell(&command, usize::MAX - 1)))
}
