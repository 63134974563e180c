//! The limits that `create`, `run` and `update` share.

use podrun::spec::limits::Limits;

/// What a container may use. Sizes: 64m, 1g, or bytes.
#[derive(Debug, clap::Args)]
#[group(id = "limits", multiple = true)]
pub(super) struct LimitArgs {
    /// Most memory; the OOM killer ends what wants more
    #[arg(long, short, value_name = "SIZE", allow_hyphen_values = true)]
    memory: Option<String>,
    /// Memory from which on it is slowed down and its memory taken back; -1 for none
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_high: Option<String>,
    /// Memory that is not taken from it while others have more than theirs
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_low: Option<String>,
    /// Most memory and swap together; -1 for no limit [default: twice --memory]
    #[arg(long, value_name = "SIZE", allow_hyphen_values = true)]
    memory_swap: Option<String>,
    /// Most processes and threads; -1 for no limit
    #[arg(long, value_name = "COUNT", allow_hyphen_values = true)]
    pids_limit: Option<String>,
    /// Most CPU time, in CPUs: 0.5, 2
    #[arg(long, value_name = "CPUS", allow_hyphen_values = true)]
    cpus: Option<String>,
    /// Its share of the CPU time that is fought over: 1 to 10000, usually 100
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    cpu_weight: Option<String>,
    /// The CPUs it may run on: 0-3,8
    #[arg(long, value_name = "LIST", allow_hyphen_values = true)]
    cpuset_cpus: Option<String>,
    /// Its share of the disk time that is fought over: 1 to 10000, usually 100
    #[arg(long, value_name = "WEIGHT", allow_hyphen_values = true)]
    io_weight: Option<String>,
}

impl From<LimitArgs> for Limits {
    fn from(args: LimitArgs) -> Self {
        Self {
            memory: args.memory,
            memory_high: args.memory_high,
            memory_low: args.memory_low,
            memory_swap: args.memory_swap,
            pids_limit: args.pids_limit,
            cpus: args.cpus,
            cpu_weight: args.cpu_weight,
            cpuset_cpus: args.cpuset_cpus,
            io_weight: args.io_weight,
        }
    }
}
