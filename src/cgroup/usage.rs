//! What a cgroup uses now, from the kernel's own files.

use serde::Serialize;

use super::{Cgroup, field};

/// One look at a cgroup. What its controllers do not count is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Usage {
    /// CPU time of all its processes so far: microseconds (`cpu.stat`).
    pub cpu_usec: Option<u64>,
    /// Of that, in user mode.
    pub cpu_user_usec: Option<u64>,
    /// Of that, in kernel mode.
    pub cpu_system_usec: Option<u64>,
    /// How long its processes had to wait because of `cpu.max`: microseconds.
    pub cpu_throttled_usec: Option<u64>,
    /// Bytes (`memory.current`).
    pub memory: Option<u64>,
    /// Bytes (`memory.max`); absent where there is no limit.
    pub memory_limit: Option<u64>,
    /// The most it ever was: bytes (`memory.peak`, Linux 5.19).
    pub memory_peak: Option<u64>,
    /// Bytes (`memory.swap.current`).
    pub swap: Option<u64>,
    /// How often the OOM killer ended one of its processes.
    pub oom_kills: Option<u64>,
    /// Processes and threads (`pids.current`).
    pub pids: Option<u64>,
    /// How many there may be (`pids.max`); absent where there is no limit.
    pub pids_limit: Option<u64>,
    /// Bytes read from every device (`io.stat`).
    pub io_read: Option<u64>,
    /// Bytes written to every device.
    pub io_written: Option<u64>,
}

impl Cgroup {
    /// What it uses now.
    pub fn usage(&self) -> Usage {
        let number = |file: &str| self.read(file).ok()?.trim().parse().ok();
        let cpu = self.read("cpu.stat").unwrap_or_default();
        let io = self.read("io.stat").ok();
        let io = |key: &str| io.as_deref().map(|text| io_sum(text, key));
        let mut usage = Usage {
            cpu_usec: field(&cpu, "usage_usec"),
            cpu_user_usec: field(&cpu, "user_usec"),
            cpu_system_usec: field(&cpu, "system_usec"),
            cpu_throttled_usec: field(&cpu, "throttled_usec"),
            memory: number("memory.current"),
            memory_limit: number("memory.max"),
            memory_peak: self.memory_peak(),
            swap: number("memory.swap.current"),
            oom_kills: self.oom_kills(),
            pids: number("pids.current"),
            pids_limit: number("pids.max"),
            io_read: io("rbytes"),
            io_written: io("wbytes"),
        };
        self.use_of_legs(&mut usage);
        usage
    }
}

/// `MAJOR:MINOR key=number key=number …`, a line for each device: the sum over all of them.
fn io_sum(text: &str, key: &str) -> u64 {
    let numbers = text.split_ascii_whitespace().filter_map(|word| word.split_once('='));
    numbers.filter(|(name, _)| *name == key).filter_map(|(_, number)| number.parse::<u64>().ok()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_add_up() {
        let text = "8:0 rbytes=5 wbytes=7 rios=1\n98:0 \n8:16 rbytes=2 wbytes=1 rios=1\n";
        assert_eq!((io_sum(text, "rbytes"), io_sum(text, "wbytes"), io_sum("", "rbytes")), (7, 8, 0));
    }
}
