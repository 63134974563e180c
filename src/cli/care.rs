//! The options of `create` and `run` that say how the shim looks after the container.

use std::time::Duration;

use podrun::spec::Options;
use podrun::spec::health::{Health, OnUnhealthy};
use podrun::spec::restart::RestartPolicy;

use super::time;

/// What the shim does by itself.
#[derive(Debug, clap::Args)]
#[group(id = "care", multiple = true)]
pub(super) struct CareArgs {
    /// Kill it once it has run for so many seconds; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u64,
    /// Start it again once it has ended: no, on-failure[:TIMES], always, or unless-stopped; after 100 ms, twice
    /// as long each time up to a minute, and after 100 ms again once it has run for 10 s
    #[arg(long, value_name = "POLICY", default_value_t = RestartPolicy::No)]
    restart: RestartPolicy,
    /// Check its health with this command, which /bin/sh runs inside; 0 is healthy
    #[arg(long, value_name = "CMD")]
    health_cmd: Option<String>,
    /// From the end of a check to the next one: 30s, 1m30s [default: 30s]
    #[arg(long, value_name = "TIME", requires = "health_cmd", value_parser = time::span)]
    health_interval: Option<Duration>,
    /// How many checks in a row must fail for it to be unhealthy [default: 3]
    #[arg(long, value_name = "COUNT", requires = "health_cmd")]
    health_retries: Option<u32>,
    /// A check that takes longer is killed, and has failed [default: 30s]
    #[arg(long, value_name = "TIME", requires = "health_cmd", value_parser = time::span)]
    health_timeout: Option<Duration>,
    /// For so long after its start a failed check does not count [default: 0s]
    #[arg(long, value_name = "TIME", requires = "health_cmd", value_parser = time::span)]
    health_start_period: Option<Duration>,
    /// What is done with it once it is unhealthy: none, restart, stop, or kill (then --restart decides) [default: none]
    #[arg(long, value_name = "ACTION", requires = "health_cmd")]
    health_on_failure: Option<OnUnhealthy>,
}

impl CareArgs {
    /// Says so in `options`.
    pub(super) fn apply(self, options: &mut Options) {
        let usual = Health::default();
        options.health = self.health_cmd.map(|command| Health {
            command,
            interval: self.health_interval.unwrap_or(usual.interval),
            retries: self.health_retries.unwrap_or(usual.retries),
            timeout: self.health_timeout.unwrap_or(usual.timeout),
            start_period: self.health_start_period.unwrap_or(usual.start_period),
            on_unhealthy: self.health_on_failure.unwrap_or(usual.on_unhealthy),
        });
        options.restart = self.restart;
        options.timeout = self.timeout.try_into().ok();
    }
}
