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
mod hooks;
mod identity;
mod init;
mod join;
mod labels;
mod masks;
mod means;
mod mount_options;
mod mounts;
mod net_devices;
mod netlink;
mod network;
mod plan;
pub mod probe;
mod root;
mod rootfs;
mod scheduling;
mod seccomp;
mod sources;
mod terminal;
#[cfg(test)]
mod tests;
mod time;
mod userns;
mod usher;

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::Spec;
use rustix::fs::{FileType, OFlags};

use crate::error::{Error, Result};
use crate::spec::terminal::WindowSize;

pub use child::create;
pub use exec::{ExecPlan, Execed, Process, exec, plan_exec};
pub use gate::Gate;
pub use hooks::Hooks;
pub use means::{beyond_capabilities, suffice};
pub use mount_options::KNOWN as MOUNT_OPTIONS;
pub use plan::{Plan, plan};
pub use terminal::Terminal;

/// What becomes a process's descriptors 0, 1 and 2.
#[derive(Debug)]
pub enum Stdio {
    /// These descriptors, in this order.
    Files([OwnedFd; 3]),
    /// A terminal of its own, made in the container: [`Terminal`] comes back.
    Terminal {
        /// The size it has from the beginning.
        size: Option<WindowSize>,
    },
}

impl Stdio {
    /// The terminal that `spec` asks for, where it does (`process.terminal`).
    pub fn terminal_of(spec: &Spec) -> Option<Self> {
        let process = spec.process().as_ref().filter(|process| process.terminal().unwrap_or(false))?;
        Some(Self::Terminal { size: WindowSize::of(process) })
    }

    /// The same without the host's own null device.
    fn shielded(mut self) -> Result<Self> {
        if let Self::Files(files) = &mut self {
            for (file, what) in files.iter().zip(["standard input", "standard output", "standard error"]) {
                no_way_out(file, what)?;
            }
            dev::shield(files)?;
        }
        Ok(self)
    }

    /// The descriptors that a child must keep for it.
    fn fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        match self {
            Self::Files(files) => files.as_slice(),
            Self::Terminal { .. } => &[],
        }
        .iter()
        .map(AsFd::as_fd)
    }
}

/// Refuses a directory, and what was opened only to be a place in a file system: from the host's, a process inside
/// would come to all of its files by `openat` or `fchdir` (CVE-2024-21626).
fn no_way_out(file: &OwnedFd, what: &str) -> Result<()> {
    let failed = |errno| Error::os(format!("look at {what}"), errno);
    let refused = |why: &str| {
        Err(Error::failed(format!("give a container its {what}"), why)
            .hint("what is inside could go from there to every file of the host"))
    };
    let kind = FileType::from_raw_mode(rustix::fs::fstat(file).map_err(failed)?.st_mode);
    if kind == FileType::Directory {
        return refused("it is a directory");
    }
    if rustix::fs::fcntl_getfl(file).map_err(failed)?.contains(OFlags::PATH) {
        return refused("it was opened with O_PATH");
    }
    Ok(())
}

/// Lets go of what was kept for the next process: memory of whoever rests.
pub fn forget() {
    seccomp::forget();
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
    /// The terminal, where there is one.
    pub terminal: Option<Terminal>,
}
