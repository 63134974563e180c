//! Telling one process from another, and the living from the dead.

use crate::state::ProcessRef;

/// The id of this boot (`proc_sys_kernel(5)`), empty where `/proc` does not tell.
pub fn boot_id() -> String {
    procfs::sys::kernel::random::boot_id().unwrap_or_default()
}

impl ProcessRef {
    /// The process that has `pid` now.
    pub fn of(pid: i32) -> Option<Self> {
        let stat = procfs::process::Process::new(pid).and_then(|process| process.stat()).ok()?;
        Some(Self { pid, start_time: stat.starttime })
    }

    /// Whether this very process still runs. One that has ended and was not waited for does not.
    pub fn is_alive(self) -> bool {
        let stat = procfs::process::Process::new(self.pid).and_then(|process| process.stat());
        stat.is_ok_and(|stat| stat.starttime == self.start_time && !matches!(stat.state, 'Z' | 'X'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_recycled_pid_is_not_the_same_process() {
        let own = ProcessRef::of(std::process::id().try_into().unwrap()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessRef { start_time: own.start_time + 1, ..own }.is_alive());
    }
}
