//! The options of `create` and `run` that say how the shim looks after the container.

use podrun::spec::Options;

/// What the shim does by itself.
#[derive(Debug, clap::Args)]
#[group(id = "care", multiple = true)]
pub(super) struct CareArgs {
    /// Kill it once it has run for so many seconds; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = 0)]
    timeout: u64,
}

impl CareArgs {
    /// Says so in `options`.
    pub(super) fn apply(self, options: &mut Options) {
        options.timeout = self.timeout.try_into().ok();
    }
}
