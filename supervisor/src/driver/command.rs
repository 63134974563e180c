//! What clients ask, as events for the machine.
//!
//! ```text
//!  server ─Command─▶ command ─┬─▶ Event ─▶ machine          what it needs beside it waits under its ticket
//!                             └─▶ answered here: nothing is to be decided
//! ```

use std::time::Duration;

use podrun::protocol::{Reply, Request};

use super::Driver;
use crate::clock::{Alarm, QUIET};
use crate::exits::Orphan;
use crate::machine::Event;
use crate::server::{Answer, Ask, Command};

impl Driver<'_> {
    /// Takes what a client asks.
    pub(crate) async fn command(&mut self, command: Command) {
        let ticket = command.ticket;
        self.clock.set(Alarm::Quiet, QUIET);
        if let Some(answer) = command.answer {
            self.answers.insert(ticket, answer);
        }
        let event = match command.ask {
            Ask::Plain(Request::Start) => Event::Start { ticket, again: false },
            Ask::Plain(Request::StartAndStay) => {
                self.hasty.push(ticket);
                Event::Start { ticket, again: false }
            }
            Ask::Plain(Request::StartAgain) => Event::Start { ticket, again: true },
            Ask::Plain(Request::Signal { signal, all }) => Event::Signal { ticket, signal, all },
            Ask::Plain(Request::Stop { timeout }) => {
                Event::Stop { ticket, timeout: timeout.map(Duration::from_secs) }
            }
            Ask::Plain(Request::Delete { created: Some(created), .. })
                if created != self.state.created_at =>
            {
                return self.answer(ticket, Reply::Nothing);
            }
            Ask::Plain(Request::Delete { force, .. }) => Event::Delete { ticket, force },
            Ask::Plain(Request::Wait) => Event::Wait(ticket),
            Ask::Orphan(process) => {
                let orphan = Orphan::of(process, self.cgroup.as_ref());
                if let Some(answer) = self.answers.remove(&ticket) {
                    let _ = answer.send(Answer::Orphan(orphan, self.shared.ledger.unsent()));
                }
                return;
            }
            Ask::Plain(Request::Pause) => Event::Pause(ticket),
            Ask::Plain(Request::Resume) => Event::Resume(ticket),
            Ask::Plain(Request::Update { resources }) => {
                self.updates.insert(ticket, resources);
                Event::Update(ticket)
            }
            Ask::Plain(other) => unreachable!("the server keeps {other:?}"),
            Ask::Exec(exec, stdio, witness) => {
                self.execs.insert(ticket, (exec, stdio, witness));
                Event::Exec(ticket)
            }
            Ask::Upgrade(program, client) => return self.upgrade(ticket, &program, client),
            Ask::Gone => {
                self.answers.remove(&ticket);
                self.hasty.retain(|hasty| *hasty != ticket);
                Event::Gone(ticket)
            }
        };
        // The kernel's word counts: a container that may freeze itself, or the host, has not asked podrun.
        let matters = matches!(event, Event::Exec(_) | Event::Resume(_) | Event::Stop { .. });
        if matters && self.cgroup.as_ref().is_some_and(|cgroup| cgroup.is_frozen().unwrap_or(false)) {
            self.on(Event::StandsStill).await;
        }
        self.on(event).await;
        self.execs.remove(&ticket);
        self.updates.remove(&ticket);
    }
}
