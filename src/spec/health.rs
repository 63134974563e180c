//! `--health-cmd` and its companions: how it is found out whether a container does its work.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::error::{Error, Result};

/// The shortest interval and timeout: a check is a process of its own.
const SHORTEST: Duration = Duration::from_millis(100);

/// What happens once a container is unhealthy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnUnhealthy {
    /// It is told.
    #[default]
    None,
    /// The container is stopped and started again.
    Restart,
    /// The container is stopped.
    Stop,
    /// The container is killed; its restart policy decides what follows.
    Kill,
}

impl OnUnhealthy {
    const ALL: [Self; 4] = [Self::None, Self::Restart, Self::Stop, Self::Kill];

    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Restart => "restart",
            Self::Stop => "stop",
            Self::Kill => "kill",
        }
    }
}

impl FromStr for OnUnhealthy {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL.into_iter().find(|action| action.name() == text).ok_or_else(|| {
            Error::usage(format!("--health-on-failure {text:?}"), "is none that podrun knows")
                .hint("none, restart, stop or kill")
        })
    }
}

impl fmt::Display for OnUnhealthy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How the health of a container is checked. The defaults are docker's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// What `/bin/sh -c` runs inside; 0 is healthy.
    pub command: String,
    /// From the end of a check, or the start of the container, to the next one.
    pub interval: Duration,
    /// How many checks in a row must fail.
    pub retries: u32,
    /// A check that takes longer is killed, and has failed.
    pub timeout: Duration,
    /// For so long after the start a failure does not count.
    pub start_period: Duration,
    /// What happens then.
    pub on_unhealthy: OnUnhealthy,
}

impl Default for Health {
    fn default() -> Self {
        Self {
            command: String::new(),
            interval: Duration::from_secs(30),
            retries: 3,
            timeout: Duration::from_secs(30),
            start_period: Duration::ZERO,
            on_unhealthy: OnUnhealthy::None,
        }
    }
}

impl Health {
    /// Takes one setting; `None` where there is none of that name or it cannot be this. Times are milliseconds.
    pub fn set(&mut self, name: &str, value: &str) -> Option<()> {
        let time = || value.parse().ok().map(Duration::from_millis);
        match name {
            "cmd" => value.clone_into(&mut self.command),
            "interval" => self.interval = time()?,
            "retries" => self.retries = value.parse().ok()?,
            "timeout" => self.timeout = time()?,
            "start-period" => self.start_period = time()?,
            "on-failure" => self.on_unhealthy = value.parse().ok()?,
            _ => return None,
        }
        Some(())
    }

    /// The settings that are not as they are by default.
    pub fn settings(&self) -> Vec<(&'static str, String)> {
        let default = Self::default();
        let time =
            |name, time: Duration, usual| (name, (time != usual).then(|| time.as_millis().to_string()));
        let all = [
            ("cmd", Some(self.command.clone())),
            time("interval", self.interval, default.interval),
            ("retries", (self.retries != default.retries).then(|| self.retries.to_string())),
            time("timeout", self.timeout, default.timeout),
            time("start-period", self.start_period, default.start_period),
            (
                "on-failure",
                (self.on_unhealthy != default.on_unhealthy).then(|| self.on_unhealthy.to_string()),
            ),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
    }

    /// Whether it can be done.
    pub fn check(&self) -> Result<()> {
        let wrong = |what: &str, why: &str| Err(Error::usage(format!("--health-{what}"), why));
        match self {
            _ if self.command.is_empty() => wrong("cmd", "is missing or empty"),
            _ if self.command.contains('\0') => wrong("cmd", "contains a NUL byte"),
            _ if self.interval < SHORTEST => wrong("interval", "is shorter than 100 ms"),
            _ if self.timeout < SHORTEST => wrong("timeout", "is shorter than 100 ms"),
            _ if self.retries == 0 => wrong("retries", "must be at least 1"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn any_health() -> impl Strategy<Value = Health> {
        let time = || (100..u64::from(u32::MAX)).prop_map(Duration::from_millis);
        let action = prop::sample::select(OnUnhealthy::ALL.to_vec());
        ("[^\0]{1,9}", time(), 1..u32::MAX, time(), time(), action).prop_map(
            |(command, interval, retries, timeout, start_period, on_unhealthy)| Health {
                command,
                interval,
                retries,
                timeout,
                start_period,
                on_unhealthy,
            },
        )
    }

    #[test]
    fn what_cannot_be_done_is_refused() {
        let good = Health { command: "true".into(), ..Health::default() };
        good.check().unwrap();
        let short = Duration::from_millis(99);
        for bad in [
            Health::default(),
            Health { interval: short, ..good.clone() },
            Health { timeout: short, ..good.clone() },
            Health { retries: 0, ..good },
        ] {
            assert!(bad.check().is_err(), "{bad:?}");
        }
    }
}
