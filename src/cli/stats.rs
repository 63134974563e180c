//! `podrun stats`: what containers use, as the kernel counts it.

use std::io::{IsTerminal, Write};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use podrun::cgroup::Cgroup;
use podrun::cgroup::usage::Usage;
use podrun::error::{Error, Kind, Result};
use podrun::paths::{ContainerId, Roots};
use podrun::state::{State, Status, store};
use serde::Serialize;

use super::{Errors, Format, Outcome, out};

/// What the command does, in a line.
pub(super) const ABOUT: &str = "Show what containers use: CPU, memory, processes, disk";

/// How often a live table is drawn anew.
const INTERVAL: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
#[command(about = ABOUT, after_help = "Example: podrun stats --no-stream --format json web")]
pub(super) struct Args {
    /// The containers; all that run where none is named
    #[arg(value_name = "ID")]
    ids: Vec<ContainerId>,
    /// Once only; CPU % is then the mean since the start
    #[arg(long)]
    no_stream: bool,
    /// How to print them; json is an array, one a second in a line of its own
    #[arg(long, short, value_name = "FORMAT", default_value = "table")]
    format: Format,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Sample {
    id: ContainerId,
    /// Of one CPU: over the last interval, or since the start.
    cpu_percent: Option<f64>,
    #[serde(flatten)]
    usage: Usage,
    #[serde(skip)]
    at: Instant,
}

pub(super) fn run(roots: &Roots, args: &Args) -> Outcome {
    let (first, errors) = samples(roots, &args.ids, &[])?;
    // What cannot be shown is told, and hides nothing.
    if args.ids.is_empty() || !first.is_empty() {
        show(roots, args, first)?;
    }
    if errors.is_empty() { Ok(0) } else { Err(Errors(errors)) }
}

/// Shows `now`, and what comes after it while there is something to show and somebody to look.
fn show(roots: &Roots, args: &Args, mut now: Vec<Sample>) -> Result<()> {
    let terminal = std::io::stdout().is_terminal();
    loop {
        let text = match args.format {
            Format::Json if args.no_stream => return out::json(&now),
            Format::Json => serde_json::to_string(&now)
                .map(|line| line + "\n")
                .map_err(|error| Error::failed("encode", error.to_string()))?,
            Format::Table => table(&now)?,
        };
        // Home, then the table, then nothing of the last one below it.
        let live = terminal && !args.no_stream && args.format == Format::Table;
        let text = if live { format!("\x1b[H\x1b[J{text}") } else { text };
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush()) {
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(()),
            other => other.map_err(|error| Error::io("write", "stdout", &error))?,
        }
        if args.no_stream {
            return Ok(());
        }
        std::thread::sleep(INTERVAL);
        // What went wrong since is an end like any other.
        (now, _) = samples(roots, &args.ids, &now)?;
        if now.is_empty() && !args.ids.is_empty() {
            return Ok(());
        }
    }
}

/// What the containers use now, since `before`; and why some of them cannot be shown.
fn samples(roots: &Roots, named: &[ContainerId], before: &[Sample]) -> Result<(Vec<Sample>, Vec<Error>)> {
    let ids = if named.is_empty() { store::list(roots)? } else { named.to_vec() };
    let (mut samples, mut errors) = (Vec::new(), Vec::new());
    for id in ids {
        match sample(roots, &id, before) {
            Ok(sample) => samples.push(sample),
            // Of all that there are, those that do not run are none.
            Err(Error { kind: Kind::NoSuchContainer | Kind::WrongState, .. }) if named.is_empty() => {}
            Err(error) => errors.push(error),
        }
    }
    Ok((samples, errors))
}

/// A container that runs, and its cgroup; or why there is nothing to be counted.
pub(super) fn counted(roots: &Roots, id: &ContainerId) -> Result<(State, Cgroup)> {
    let state = store::view(roots, id)?.state;
    let refused = |why: String| Error::new(Kind::WrongState, format!("stats of {id}"), why);
    if !matches!(state.status, Status::Created | Status::Running | Status::Paused) {
        return Err(refused(format!("container not running: it is {}", state.status)));
    }
    if !state.has_cgroup() {
        return Err(refused("the container has no cgroup".to_owned()));
    }
    let cgroup = Cgroup::open(&state.cgroup_path)?
        .ok_or_else(|| refused("container not running: its cgroup is gone".to_owned()))?;
    Ok((state, cgroup))
}

fn sample(roots: &Roots, id: &ContainerId, before: &[Sample]) -> Result<Sample> {
    let (state, cgroup) = counted(roots, id)?;
    let (usage, at) = (cgroup.usage(), Instant::now());
    let cpu_percent = match before.iter().find(|sample| sample.id == *id) {
        Some(last) => percent(
            usage.cpu_usec.zip(last.usage.cpu_usec).map(|(now, before)| now.saturating_sub(before)),
            at.duration_since(last.at),
        ),
        None => state.started_at.and_then(|started| {
            percent(usage.cpu_usec, Timestamp::now().duration_since(started).try_into().ok()?)
        }),
    };
    Ok(Sample { id: id.clone(), cpu_percent, usage, at })
}

fn percent(cpu_usec: Option<u64>, time: Duration) -> Option<f64> {
    // `as`: a percentage needs no more than a float holds.
    let micros = time.as_micros() as f64;
    cpu_usec.filter(|_| micros > 0.0).map(|used| used as f64 * 100.0 / micros)
}

fn table(samples: &[Sample]) -> Result<String> {
    let mut rows = vec!["ID\tCPU %\tMEMORY\tLIMIT\tPIDS\tREAD\tWRITTEN".to_owned()];
    rows.extend(samples.iter().map(|Sample { id, cpu_percent, usage, .. }| {
        let cpu = cpu_percent.map_or_else(|| "-".to_owned(), |percent| format!("{percent:.1}"));
        let pids = usage.pids.map_or_else(|| "-".to_owned(), |pids| pids.to_string());
        let [memory, limit, read, written] =
            [usage.memory, usage.memory_limit, usage.io_read, usage.io_written].map(size);
        format!("{id}\t{cpu}\t{memory}\t{limit}\t{pids}\t{read}\t{written}")
    }));
    out::columns(&rows)
}

/// Bytes for a person.
fn size(bytes: Option<u64>) -> String {
    let Some(bytes) = bytes else { return "-".to_owned() };
    // `as`: one digit behind the point is shown.
    let mut size = bytes as f64;
    let mut units = ["B", "KiB", "MiB", "GiB", "TiB"].into_iter();
    let mut unit = units.next().unwrap_or_default();
    while size >= 1024.0
        && let Some(next) = units.next()
    {
        size /= 1024.0;
        unit = next;
    }
    if unit == "B" { format!("{bytes}B") } else { format!("{size:.1}{unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_for_people() {
        let shown = [None, Some(0), Some(1023), Some(1536), Some(64 << 20), Some(3 << 50)].map(size);
        assert_eq!(shown, ["-", "0B", "1023B", "1.5KiB", "64.0MiB", "3072.0TiB"]);
    }

    #[test]
    fn a_whole_cpu_is_a_hundred_percent() {
        assert_eq!(percent(Some(500_000), Duration::from_millis(500)), Some(100.0));
        assert_eq!((percent(None, INTERVAL), percent(Some(1), Duration::ZERO)), (None, None));
    }
}
