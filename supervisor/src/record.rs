//! The exit record: what can be measured of a container that has just ended, while its cgroup and
//! its init are still there to be read. A scope goes when its last process does: of what systemd was faster than,
//! nothing is known.

use jiff::Timestamp;
use podrun::cgroup::Cgroup;
use podrun::spec::settings::Settings;
use podrun::state::{Ending, ExitRecord, State};
use rustix::process::Signal;

use crate::machine::Verdict;
use crate::machine::restart::Asked;

/// Why nobody knows how a container ended.
const UNKNOWN: &str = "it ended while no shim and no keeper lived, and another process took its exit status";

/// Why the log of a container whose end is known may not be all that it wrote.
const LOST: &str = "its shim and its keeper were gone for a time: some of its output is lost";

/// The record of a container that ended now.
pub(crate) fn measure(
    state: &State,
    verdict: &Verdict,
    settings: &Settings,
    cgroup: Option<&Cgroup>,
) -> ExitRecord {
    let record = ExitRecord::unknown(state.started_at, UNKNOWN);
    let mut record = match verdict.ending {
        Some(ending) => record.ended(ending),
        None => record,
    };
    record.finished_at = Some(Timestamp::now());
    if let Some(cgroup) = cgroup {
        record.oom_kills = cgroup.oom_kills().unwrap_or(0);
        record.oom_killed = verdict.killed_by_other && record.oom_kills > 0;
        record.memory_peak = cgroup.memory_peak();
        if let Some(cpu) = cgroup.cpu_time() {
            record.user_usec = cpu.user_usec;
            record.system_usec = cpu.system_usec;
        }
    }
    let killed = record.exit_signal == Some(Signal::KILL.as_raw());
    match (verdict.asked, settings.timeout) {
        (Some(Asked::Timeout), Some(timeout)) if killed => {
            record.reason = Some(format!("killed: it had run for its --timeout of {timeout} s"));
        }
        (Some(Asked::Unhealthy), _) if killed => record.reason = Some("killed: it was unhealthy".to_owned()),
        (Some(Asked::Health | Asked::Renewal), _) => {
            record.reason = Some("stopped: it was unhealthy".to_owned());
        }
        _ => {}
    }
    if let Some(error) = &verdict.start_failed {
        record = record.ended(Ending::Exited(error.launch_exit_code().into()));
        record.exit_signal = None;
        record.reason = Some(error.to_string());
    }
    record
}

/// Whether the log has all that the container wrote: `drained` as far as it came out of its pipes.
pub(crate) fn logged(record: &mut ExitRecord, drained: bool, state: &State) {
    record.logs_drained = drained && !state.pipes.lost;
    if state.pipes.lost && record.reason.is_none() {
        record.reason = Some(LOST.to_owned());
    }
}
