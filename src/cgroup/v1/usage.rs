//! What a container uses, from the files of cgroup v1.

use crate::cgroup::usage::Usage;
use crate::cgroup::{Cgroup, field};

/// What `memory.limit_in_bytes` says where there is no limit, and more: as many pages as a number can count.
const NO_LIMIT: u64 = i64::MAX as u64 - (1 << 20);

impl Cgroup {
    /// Fills in what its legs count.
    pub(in crate::cgroup) fn use_of_legs(&self, usage: &mut Usage) {
        let number = |leg: &Self, file: &str| leg.read(file).ok()?.trim().parse::<u64>().ok();
        if let Some(leg) = self.leg("memory") {
            usage.memory = number(&leg, "memory.usage_in_bytes");
            usage.memory_limit = number(&leg, "memory.limit_in_bytes").filter(|limit| *limit < NO_LIMIT);
            let both = number(&leg, "memory.memsw.usage_in_bytes");
            usage.swap = both.zip(usage.memory).map(|(both, memory)| both.saturating_sub(memory));
        }
        if let Some(leg) = self.leg("pids") {
            usage.pids = number(&leg, "pids.current");
            usage.pids_limit = number(&leg, "pids.max");
        }
        if let Some(leg) = self.leg("cpu") {
            let text = leg.read("cpu.stat").unwrap_or_default();
            usage.cpu_throttled_usec = field(&text, "throttled_time").map(|nanoseconds| nanoseconds / 1000);
        }
        if let Some(text) =
            self.leg("blkio").and_then(|leg| leg.read("blkio.throttle.io_service_bytes_recursive").ok())
        {
            usage.io_read = Some(io_sum(&text, "Read"));
            usage.io_written = Some(io_sum(&text, "Write"));
        }
    }
}

/// `MAJOR:MINOR Operation bytes`, a line for each: the sum over all devices.
fn io_sum(text: &str, operation: &str) -> u64 {
    let numbers = text.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace().skip(1);
        (words.next()? == operation).then(|| words.next()?.parse::<u64>().ok())?
    });
    numbers.sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_add_up() {
        let text = "8:0 Read 5\n8:0 Write 7\n8:0 Total 12\n8:16 Read 2\nTotal 14\n";
        assert_eq!((io_sum(text, "Read"), io_sum(text, "Write"), io_sum("", "Read")), (7, 7, 0));
    }
}
