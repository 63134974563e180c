//! The options of `create` and `run` that say how the shim looks after the container.

use podrun::spec::Options;
use podrun::spec::restart::RestartPolicy;

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
}

impl CareArgs {
    /// Says so in `options`.
    pub(super) fn apply(self, options: &mut Options) {
        options.restart = self.restart;
        options.timeout = self.timeout.try_into().ok();
    }
}
