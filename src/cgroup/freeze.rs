//! The freezer: everything in a cgroup stops where it is, and goes on as if nothing had been.
//!
//! Frozen processes can be killed, and `cgroup.kill` works on them. Freezing takes a moment: a
//! process that is inside a system call is frozen when it leaves it (cgroup-v2.rst).

use std::time::{Duration, Instant};

use super::{Cgroup, field};
use crate::error::{Error, Result};

/// How long freezing may take. Only a process in an uninterruptible wait takes longer than a moment.
const PATIENCE: Duration = Duration::from_secs(10);

impl Cgroup {
    /// Begins to freeze; [`is_frozen`](Self::is_frozen) tells when it is done, and
    /// [`events`](Self::events) when to look.
    pub fn freeze(&self) -> Result<()> {
        self.write("cgroup.freeze", "1")
    }

    /// Lets everything go on.
    pub fn thaw(&self) -> Result<()> {
        self.write("cgroup.freeze", "0")
    }

    /// Whether every process in it and below is frozen.
    pub fn is_frozen(&self) -> Result<bool> {
        Ok(field(&self.read("cgroup.events")?, "frozen") == Some(1))
    }

    /// Freezes, and waits until that is done; where it takes too long everything goes on.
    pub fn freeze_and_wait(&self) -> Result<()> {
        self.freeze()?;
        let frozen = self.wait_for("frozen", 1, Instant::now() + PATIENCE);
        if !matches!(frozen, Ok(true)) {
            let _ = self.thaw();
        }
        if frozen? { Ok(()) } else { Err(self.not_frozen()) }
    }

    /// That freezing takes too long.
    pub fn not_frozen(&self) -> Error {
        Error::failed(format!("freeze {}", self.path.display()), "a process in it cannot be stopped")
            .hint("it waits for a device or a server that does not answer; try again")
    }
}
