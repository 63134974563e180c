//! From an OCI configuration to a running init: one code path for every container.
//!
//! Owns nothing once it has returned; assumes one thread (a fork is safe only then) and root.
//!
//! ```text
//!  plan (pure) ──▶ create ──clone3──▶ child: namespaces ▸ rootfs ▸ mounts ▸ /dev ▸ masks ▸
//!     Spec           │                pivot_root ▸ identity ▸ which command
//!                    │ ◀── built, or the Error as JSON ── gate ──▶ waits
//!                    ▼ Init                              go ──▶ execve
//!  plan_exec ──▶ exec ──clone3──▶ child: setns ▸ identity ▸ which command ▸ execve
//! ```
//!
//! What a child must know is decided by [`plan`](plan()) before it exists. A child keeps no
//! descriptor but the ones it was given, runs with every signal blocked until just before `execve`,
//! and reports the first step that fails as the [`Error`](crate::error::Error) the user will read.

mod child;
mod command;
mod copy_up;
mod credentials;
mod dev;
mod exec;
pub mod gate;
mod identity;
mod init;
mod labels;
mod masks;
mod mount_options;
mod mounts;
mod network;
mod plan;
pub mod probe;
mod root;
mod rootfs;
mod seccomp;
mod sources;
#[cfg(test)]
mod tests;
mod userns;

use std::os::fd::OwnedFd;

pub use child::create;
pub use exec::{ExecPlan, Execed, Process, exec, plan_exec};
pub use gate::Gate;
pub use plan::{Plan, plan};

/// What becomes a process's descriptors 0, 1 and 2.
#[derive(Debug)]
pub struct Stdio {
    /// Descriptor 0.
    pub stdin: OwnedFd,
    /// Descriptor 1.
    pub stdout: OwnedFd,
    /// Descriptor 2.
    pub stderr: OwnedFd,
}

/// The init of a container: built, and waiting just before `execve`.
#[derive(Debug)]
pub struct Init {
    /// Its pid on the host.
    pub pid: i32,
    /// A descriptor for it.
    pub pidfd: OwnedFd,
    /// Where it is released, and tells what came of it: see [`gate`]. None in OCI mode, where
    /// it listens on the socket it was given.
    pub gate: Option<OwnedFd>,
    /// With `--init`: four bytes, little-endian, the wait status of the command, written before
    /// PID 1 ends. PID 1 cannot die of the command's signal itself.
    pub ending: Option<OwnedFd>,
}
