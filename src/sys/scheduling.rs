//! How the kernel treats this process beside others: system calls that have no wrapper.

use std::io;

use nix::libc;

/// `struct sched_attr` (`sched_setattr(2)`), in its first version.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedAttr {
    /// Of this struct: leave it as `default` has it.
    pub size: u32,
    /// `SCHED_*`
    pub policy: u32,
    /// `SCHED_FLAG_*`
    pub flags: u64,
    /// -20 to 19, for SCHED_OTHER and SCHED_BATCH.
    pub nice: i32,
    /// 1 to 99, for SCHED_FIFO and SCHED_RR.
    pub priority: u32,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub runtime: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub deadline: u64,
    /// Nanoseconds, for SCHED_DEADLINE.
    pub period: u64,
}

impl Default for SchedAttr {
    fn default() -> Self {
        // The size of the first version: 48 bytes.
        Self { size: 48, policy: 0, flags: 0, nice: 0, priority: 0, runtime: 0, deadline: 0, period: 0 }
    }
}

/// A policy of `set_mempolicy(2)`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// `MPOL_*`, with `MPOL_F_*`.
    pub mode: i32,
    /// The nodes, a bit each.
    pub nodes: [u64; Self::WORDS],
}

impl MemoryPolicy {
    /// Room for 1024 nodes, as many as Linux can be built for.
    pub const WORDS: usize = 16;
}

/// `ioprio_set(2)` for this process: `IOPRIO_PRIO_VALUE(class, level)`.
#[expect(unsafe_code, reason = "ioprio_set has no wrapper")]
pub fn set_io_priority(priority: u16) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    // SAFETY: integers only.
    super::check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, libc::c_int::from(priority)) })
        .map(drop)
}

/// `sched_setattr(2)` for this process.
#[expect(unsafe_code, reason = "sched_setattr has no wrapper")]
pub fn set_scheduler(attributes: &SchedAttr) -> io::Result<()> {
    // SAFETY: the kernel reads as many bytes of a live struct as its first field says, which are all it has.
    super::check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, std::ptr::from_ref(attributes), 0) })
        .map(drop)
}

/// `personality(2)` for this process.
#[expect(unsafe_code, reason = "nix knows only its flags")]
pub fn set_personality(persona: u64) -> io::Result<()> {
    // SAFETY: an integer.
    super::check(unsafe { libc::syscall(libc::SYS_personality, persona) }).map(drop)
}

/// `set_mempolicy(2)` for this process. ENOSYS where the kernel knows one node only.
#[expect(unsafe_code, reason = "set_mempolicy has no wrapper")]
pub fn set_memory_policy(policy: &MemoryPolicy) -> io::Result<()> {
    let none = policy.nodes.iter().all(|word| *word == 0);
    let nodes = if none { std::ptr::null() } else { policy.nodes.as_ptr() };
    // The kernel counts one more than it reads.
    let bits = if none { 0 } else { MemoryPolicy::WORDS * 64 + 1 };
    // SAFETY: the kernel reads as many bits of a live array, or none of a null one.
    super::check(unsafe { libc::syscall(libc::SYS_set_mempolicy, policy.mode, nodes, bits) }).map(drop)
}
