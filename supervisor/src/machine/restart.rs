//! Restarting: what follows the end of a run.
//!
//! ```text
//!             init ends: next() ──End──▶ Ending ──▶ Ended
//!  Running ─────────┤
//!     ▲             └──Again──▶ Waiting ── due, or `start` ──▶ Launch ──▶ Starting
//!     └───────────────────────────┬─────────────────────────────────────────┘
//!                                 └── `stop`, a `kill` that means the end, `delete -f`: Conclude ──▶ Ended
//! ```
//!
//! The pauses are docker's: 100 ms, twice as long each time, up to a minute; after a run of 10 s they begin
//! anew. Who waits for the end waits through all of this.

use std::time::Duration;

use podrun::error::Error;
use podrun::protocol::Reply;
use podrun::spec::health::OnUnhealthy;
use podrun::spec::restart::RestartPolicy;
use podrun::state::{Restarts, StoppedBy};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use super::{Action, Machine, Phase, Ticket, Verdict};

/// The first pause, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));
/// A run of this length was a healthy one.
const HEALTHY: Duration = Duration::from_secs(10);

/// Why podrun itself ends a run. One further down here overrides one further up, whichever came first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Asked {
    /// The command has run for as long as it may: its policy decides.
    Timeout,
    /// It is unhealthy, and to be killed: its policy decides.
    Unhealthy,
    /// It is unhealthy, and to run again, whatever its policy.
    Renewal,
    /// It is unhealthy, and to be stopped: for good.
    Health,
    /// SIGTERM to the shim: for good.
    Shutdown,
    /// A client asked for it: for good.
    User,
}

impl Asked {
    /// Who has stopped the container for good.
    pub(crate) fn stopped_by(self) -> Option<StoppedBy> {
        match self {
            Self::Timeout | Self::Unhealthy | Self::Renewal => None,
            Self::Health => Some(StoppedBy::Health),
            Self::Shutdown => Some(StoppedBy::Shutdown),
            Self::User => Some(StoppedBy::User),
        }
    }
}

/// What follows the end of a run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Next {
    /// The end.
    #[default]
    End,
    /// Another run.
    Again {
        /// After this long.
        after: Duration,
        /// It included.
        restarts: Restarts,
    },
}

/// What follows a run that ended with `code` (`None`: nobody knows) after it `ran` for so long (`None`: it
/// was never executed), and that podrun ended because it was `asked` to.
pub(crate) fn next(
    policy: RestartPolicy,
    past: Restarts,
    code: Option<i32>,
    ran: Option<Duration>,
    asked: Option<Asked>,
) -> Next {
    // What fails at the first start, or was never started, is for its user to see.
    let began = ran.is_some() || past.count > 0;
    let stopped = asked.is_some_and(|asked| asked.stopped_by().is_some());
    let wanted = asked == Some(Asked::Renewal) || policy.wants_again(code, past.count);
    if !began || stopped || !wanted {
        return Next::End;
    }
    let in_a_row = match ran {
        Some(ran) if ran >= HEALTHY => 0,
        _ => past.in_a_row,
    };
    let after = PAUSE.0.saturating_mul(1 << in_a_row.min(16)).min(PAUSE.1);
    let restarts =
        Restarts { count: past.count.saturating_add(1), in_a_row: in_a_row.saturating_add(1), due: None };
    Next::Again { after, restarts }
}

impl Machine {
    /// Whether `signal` from a client means the end, and not only something to the command.
    pub(super) fn means_the_end(&self, signal: i32) -> bool {
        let usual = [Signal::KILL, Signal::TERM, Signal::INT, Signal::QUIT].map(Signal::as_raw);
        signal == self.stop_signal || usual.contains(&signal)
    }

    /// podrun ends this run, or the container.
    pub(super) fn ask(&mut self, asked: Asked) {
        self.memory.asked = self.memory.asked.max(Some(asked));
    }

    /// It is unhealthy.
    pub(super) fn unhealthy(&mut self, action: OnUnhealthy) -> Vec<Action> {
        let asked = match action {
            _ if self.phase != Phase::Running => return vec![],
            OnUnhealthy::None => return vec![],
            OnUnhealthy::Restart => Asked::Renewal,
            OnUnhealthy::Stop => Asked::Health,
            OnUnhealthy::Kill => Asked::Unhealthy,
        };
        self.ask(asked);
        match action {
            OnUnhealthy::Kill => self.kill_all(),
            _ => self.begin_stop(None),
        }
    }

    /// The last run was the last one.
    pub(super) fn conclude(&mut self) -> Vec<Action> {
        self.next = Next::End;
        self.phase = Phase::Ending;
        vec![Action::Conclude]
    }

    /// It is time for another run.
    pub(super) fn due(&mut self) -> Vec<Action> {
        match self.phase {
            Phase::Waiting => {
                // From the moment when there is an init: whoever finds it at its gate has to open that.
                self.memory.starting = true;
                vec![Action::Launch]
            }
            _ => vec![],
        }
    }

    /// What came of [`Action::Launch`].
    pub(super) fn launched(&mut self, outcome: Result<(), Error>) -> Vec<Action> {
        match outcome {
            Ok(()) => {
                self.phase = Phase::Starting;
                vec![Action::OpenGate]
            }
            // Whatever is missing may be there the next time.
            Err(error) => {
                self.phase = Phase::Ending;
                self.memory.starting = false;
                self.next =
                    next(self.policy, self.restarts, Some(error.launch_exit_code().into()), None, None);
                let verdict =
                    Verdict { start_failed: Some(error.clone()), next: self.next, ..Verdict::default() };
                self.memory.start_failed = Some(error);
                vec![Action::Record(verdict)]
            }
        }
    }

    /// The record of a run is written, and another run follows.
    pub(super) fn wait_for_another(&mut self, restarts: Restarts, after: Duration) -> Action {
        self.phase = Phase::Waiting;
        self.memory = Default::default();
        self.restarts = restarts;
        Action::Rest(after)
    }

    /// Refuses to delete what runs, or is about to run again.
    pub(super) fn refuse_delete(&self, ticket: Ticket) -> Action {
        let hint = format!("stop it first, or use `podrun delete -f {}`", self.name);
        let why = match self.phase {
            Phase::Waiting => "is about to be restarted",
            _ => "is running",
        };
        self.refuse(ticket, why, Some(hint))
    }

    /// Runs again at once, for the one who asks.
    pub(super) fn hurry(&mut self, ticket: Ticket) -> Vec<Action> {
        self.starters.push(ticket);
        vec![Action::Rest(Duration::ZERO)]
    }

    /// A signal between two runs: nobody hears it, but it may mean the end.
    pub(super) fn signal_between(&mut self, ticket: Ticket, signal: i32) -> Vec<Action> {
        if !self.means_the_end(signal) {
            return vec![self.refuse_not_running(ticket)];
        }
        self.ask(Asked::User);
        self.enders.push(ticket);
        self.conclude()
    }

    /// Refuses those who wanted the run that was not executed.
    pub(super) fn refuse_starters(&mut self) -> Vec<Action> {
        let error = self.memory.start_failed.clone().unwrap_or_else(|| {
            Error::failed(format!("container {}", self.name), "ended before its command was executed")
        });
        let refuse = |ticket| Action::Answer(ticket, Reply::Refused(error.clone()));
        std::mem::take(&mut self.starters).into_iter().map(refuse).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: Duration = Duration::from_millis(1);

    fn pauses(policy: RestartPolicy, code: i32, ran: Duration) -> Vec<u128> {
        let mut past = Restarts::default();
        let mut pauses = Vec::new();
        while let Next::Again { after, restarts } = next(policy, past, Some(code), Some(ran), None) {
            pauses.push(after.as_millis());
            past = restarts;
            if pauses.len() == 12 {
                break;
            }
        }
        pauses
    }

    #[test]
    fn the_pauses_double_up_to_a_minute_and_begin_anew_after_a_healthy_run() {
        let expected: [u128; 12] = [100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 51200, 60000, 60000];
        assert_eq!(pauses(RestartPolicy::Always, 0, MS), expected);
        assert_eq!(pauses(RestartPolicy::UnlessStopped, 1, HEALTHY), [100; 12]);
        let twice = RestartPolicy::OnFailure { most: std::num::NonZeroU32::new(2) };
        assert_eq!(pauses(twice, 1, MS), [100, 200]);
        assert_eq!(pauses(twice, 0, MS), [] as [u128; 0]);
    }

    #[test]
    fn what_was_stopped_or_never_ran_does_not_run_again() {
        let always = |past, ran, asked| next(RestartPolicy::Always, past, Some(1), ran, asked);
        let fresh = Restarts::default();
        for asked in [Asked::User, Asked::Shutdown, Asked::Health] {
            assert_eq!(always(fresh, Some(MS), Some(asked)), Next::End);
        }
        assert_eq!(always(fresh, None, None), Next::End, "its first start failed");
        assert_ne!(always(Restarts { count: 1, ..fresh }, None, None), Next::End);
        for asked in [Asked::Timeout, Asked::Unhealthy] {
            assert_ne!(always(fresh, Some(MS), Some(asked)), Next::End);
        }
        assert_ne!(next(RestartPolicy::No, fresh, Some(0), Some(MS), Some(Asked::Renewal)), Next::End);
    }

    proptest! {
        #[test]
        fn no_history_makes_it_spin(
            policy in prop_oneof![
                Just(RestartPolicy::Always),
                any::<Option<std::num::NonZeroU32>>().prop_map(|most| RestartPolicy::OnFailure { most }),
            ],
            count: u32, in_a_row: u32, code: Option<i32>, ran: Option<u32>,
        ) {
            let past = Restarts { count, in_a_row, due: None };
            let ran = ran.map(|ran| Duration::from_millis(ran.into()));
            if let Next::Again { after, restarts } = next(policy, past, code, ran, None) {
                prop_assert!(after >= PAUSE.0 && after <= PAUSE.1);
                prop_assert_eq!(restarts.count, count.saturating_add(1));
                prop_assert!(restarts.in_a_row >= 1 && restarts.due.is_none());
            }
            for asked in [Asked::User, Asked::Shutdown] {
                prop_assert_eq!(next(policy, past, code, ran, Some(asked)), Next::End);
            }
        }
    }
}
