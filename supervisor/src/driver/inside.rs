//! Processes that clients want inside the container: from the machine's word to their first instruction.

use std::os::fd::AsFd;

use podrun::error::Error;
use podrun::events::{What, emit};
use podrun::launch;
use podrun::protocol::{Exec, Reply};
use tokio::sync::oneshot::Sender;

use super::Driver;
use crate::exec;
use crate::machine::Ticket;
use crate::server::Answer;

impl Driver<'_> {
    /// Makes the process that the request of `ticket` wants.
    pub(super) fn exec(&mut self, ticket: Ticket) {
        let Some((exec, stdio, witness)) = self.execs.remove(&ticket) else { return };
        // Its client has withdrawn it, or died, before its turn came.
        if self.answers.get(&ticket).is_none_or(Sender::is_closed) {
            return;
        }
        if self.cgroup.is_none() && self.state.has_cgroup() {
            let error = Error::failed(format!("container {}", self.state.id), "its cgroup is gone");
            return self.answer(ticket, Reply::Refused(error));
        }
        let Exec { args, env, cwd, user, terminal, privileged, .. } = *exec;
        let terminal = terminal.is_some();
        let command = args.join(" ");
        let (roots, id) = (self.roots.clone(), self.state.id.clone());
        let executed = move |pid| emit(&roots, &id, What::Exec { pid, command });
        let process = launch::Process { args, env, cwd, user, terminal, privileged, ..Default::default() };
        let running = launch::plan_exec(self.spec, &process)
            .and_then(|mut plan| {
                plan.tell_container(&self.state);
                launch::exec(plan, self.pidfd.as_fd(), self.cgroup.as_ref(), stdio, witness)
            })
            .and_then(|execed| {
                let ledger = &self.shared.ledger;
                let starting = Some(ledger.answer());
                exec::watch(execed, ledger, &self.known, &self.upgrades.inside, starting, executed)
            });
        match running {
            Ok(running) => {
                if let Some(answer) = self.answers.remove(&ticket) {
                    let _ = answer.send(Answer::Exec(running));
                }
            }
            Err(error) => self.answer(ticket, Reply::Refused(error)),
        }
    }
}
