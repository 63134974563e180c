//! Whether a container does its work, as its shim has found out: `health.json` in the run root, where no
//! stalled disk holds the shim up. It is about one run; of another one nothing is known.

use std::time::Duration;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::ProcessRef;
use crate::spec::health::Health;

/// How much of a check's output is kept.
pub const OUTPUT: usize = 4096;

/// What is known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HealthStatus {
    /// Nothing yet.
    Starting,
    /// The last check succeeded, or not enough have failed since.
    Healthy,
    /// So many in a row failed.
    Unhealthy,
}

impl std::fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// `health.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HealthState {
    /// What is known.
    pub status: HealthStatus,
    /// How many checks in a row have failed.
    pub failing_streak: u32,
    /// The last one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last: Option<Check>,
    /// When the run was started that it is about.
    pub run: Timestamp,
    /// The check that is under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checking: Option<ProcessRef>,
}

/// One check.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Check {
    /// When it began.
    pub started_at: Timestamp,
    /// When it was over.
    pub finished_at: Timestamp,
    /// Its exit code; absent where it was killed because it took too long.
    pub exit_code: Option<i32>,
    /// The beginning of what it wrote, or why it could not be executed.
    pub output: String,
}

impl HealthState {
    /// Nothing is known of the run that was started then.
    pub fn new(run: Timestamp) -> Self {
        Self { status: HealthStatus::Starting, failing_streak: 0, last: None, run, checking: None }
    }

    /// Takes in what `check` has found. True where the container has become unhealthy by it.
    pub fn learn(&mut self, rule: &Health, check: Check) -> bool {
        let before = self.status;
        if check.exit_code == Some(0) {
            (self.status, self.failing_streak) = (HealthStatus::Healthy, 0);
        } else if before != HealthStatus::Starting || age(self.run, check.started_at) >= rule.start_period {
            self.failing_streak = self.failing_streak.saturating_add(1);
            if self.failing_streak >= rule.retries {
                self.status = HealthStatus::Unhealthy;
            }
        }
        self.last = Some(check);
        self.checking = None;
        self.status == HealthStatus::Unhealthy && before != HealthStatus::Unhealthy
    }

    /// When the next check is due.
    pub fn next(&self, rule: &Health) -> Timestamp {
        let since = self.last.as_ref().map_or(self.run, |check| check.finished_at);
        since.saturating_add(rule.interval).unwrap_or(Timestamp::MAX)
    }
}

fn age(then: Timestamp, now: Timestamp) -> Duration {
    now.duration_since(then).try_into().unwrap_or(Duration::ZERO)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(second: i64, exit_code: i32) -> Check {
        let time = Timestamp::from_second(second).unwrap();
        Check { started_at: time, finished_at: time, exit_code: Some(exit_code), output: String::new() }
    }

    #[test]
    fn so_many_failures_in_a_row_are_unhealthy_and_one_success_is_healthy() {
        let rule = Health { retries: 2, ..Health::default() };
        let mut state = HealthState::new(Timestamp::UNIX_EPOCH);
        assert!(!state.learn(&rule, check(1, 1)));
        assert_eq!((state.status, state.failing_streak), (HealthStatus::Starting, 1));
        assert!(!state.learn(&rule, check(2, 0)));
        assert_eq!((state.status, state.failing_streak), (HealthStatus::Healthy, 0));
        assert!(!state.learn(&rule, check(3, 1)));
        assert_eq!(state.status, HealthStatus::Healthy);
        assert!(state.learn(&rule, check(4, 2)), "told once");
        assert!(!state.learn(&rule, check(5, 2)));
        assert_eq!((state.status, state.failing_streak), (HealthStatus::Unhealthy, 3));
        assert_eq!(state.next(&rule).as_second(), 35);
    }

    #[test]
    fn failures_in_the_start_period_do_not_count_and_a_success_ends_it() {
        let rule = Health { retries: 1, start_period: Duration::from_secs(10), ..Health::default() };
        let mut state = HealthState::new(Timestamp::UNIX_EPOCH);
        assert!(!state.learn(&rule, check(9, 1)));
        assert_eq!((state.status, state.failing_streak), (HealthStatus::Starting, 0));
        assert!(state.clone().learn(&rule, check(10, 1)));
        assert!(!state.learn(&rule, check(5, 0)));
        assert!(state.learn(&rule, check(6, 1)));
    }
}
