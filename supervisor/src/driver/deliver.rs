//! Signals on their way into a container, and its forced end.
//!
//! ```text
//!  signal ─▶ does PID 1 hear it? ─yes─▶ init (and the others)
//!                └─no, and it would end a process ─▶ SIGKILL, recorded as that signal
//! ```

use nix::libc::SIGKILL;
use podrun::error::{Error, Result};
use podrun::{runtime, sys};

use super::Driver;
use crate::child;
use crate::machine::Delivery;
use crate::machine::restart::Asked;

impl Driver<'_> {
    pub(super) fn deliver(&mut self, signal: i32, all: bool) -> Result<Delivery> {
        if !(0..=sys::signal::MAX).contains(&signal) {
            return Err(Error::usage(format!("signal {signal}"), "is not one that Linux knows"));
        }
        let init = self.state.init.map_or(0, |init| init.pid);
        if all && signal == SIGKILL {
            self.intend_to_kill(signal);
            self.kill_all();
            return Ok(Delivery::Fatal);
        }
        if all && self.cgroup.is_none() && !self.state.has_cgroup() {
            return Err(runtime::no_cgroup(&self.state));
        }
        // Init first: a shell must have its signal before it sees its children end of theirs.
        // Before it is executed the command cannot hear anything, and its init blocks what comes.
        let deaf = || self.closed_gate.is_some() || !child::hears(init, signal);
        let fatal = signal == SIGKILL || (child::terminates_by_default(signal) && deaf());
        let sent = if fatal { SIGKILL } else { signal };
        if fatal {
            self.intend_to_kill(signal);
        }
        sys::signal::send(&self.pidfd, sent)
            .map_err(|error| Error::io("signal container", self.state.id.as_str(), &error))?;
        match &self.cgroup {
            Some(cgroup) if all => match cgroup.signal(signal, Some(init)) {
                // Init ends of it all the same, and that is what is to be recorded.
                Err(error) if fatal => tracing::warn!("{error}"),
                other => other?,
            },
            _ => {}
        }
        Ok(if fatal { Delivery::Fatal } else { Delivery::Sent })
    }

    /// Init is about to be ended in the name of `signal`: whoever sees its end must know.
    fn intend_to_kill(&mut self, signal: i32) {
        let mut memory = self.machine.memory().clone();
        memory.ended_as.get_or_insert(signal);
        memory.killed = true;
        memory.asked.get_or_insert(Asked::User);
        self.remember(memory);
    }

    pub(super) fn kill_all(&self) {
        if let Some(cgroup) = &self.cgroup
            && let Err(error) = cgroup.kill()
        {
            tracing::warn!("{error}");
        }
        // The end of PID 1 is the end of its namespace, whatever became of the cgroup.
        let _ = sys::signal::send(&self.pidfd, SIGKILL);
    }
}
