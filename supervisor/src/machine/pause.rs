//! Pausing: what a running container's machine does about standing still.
//!
//! ```text
//!       Pause: Freeze           frozen
//!  No ───────────────▶ Asked ───────────▶ Yes
//!  ▲                     │                 │
//!  └────── Resume, or a stop that is to be heard: Thaw
//! ```
//!
//! Those who asked are answered when everything stands still. Killing needs no thaw.

use podrun::error::Error;
use podrun::protocol::Reply;

use super::{Action, Machine, Phase, Ticket};

/// Whether a running container stands still.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) enum Pause {
    #[default]
    No,
    /// It is being frozen, for these.
    Asked(Vec<Ticket>),
    Yes,
}

impl Machine {
    pub(super) fn pause(&mut self, ticket: Ticket) -> Vec<Action> {
        match (&self.phase, &mut self.pause) {
            (Phase::Running, Pause::No) => {
                self.pause = Pause::Asked(vec![ticket]);
                vec![Action::Freeze]
            }
            (Phase::Running, Pause::Asked(tickets)) => {
                tickets.push(ticket);
                vec![]
            }
            (Phase::Running, Pause::Yes) => vec![Action::Answer(ticket, Reply::Nothing)],
            _ => vec![self.refuse_not_running(ticket)],
        }
    }

    pub(super) fn frozen(&mut self, outcome: Result<(), Error>) -> Vec<Action> {
        let Pause::Asked(tickets) = &mut self.pause else { return vec![] };
        let tickets = std::mem::take(tickets);
        let (first, reply) = match outcome {
            Ok(()) => (Action::Paused(true), Reply::Done),
            Err(error) => (Action::Thaw, Reply::Refused(error)),
        };
        self.pause = if reply == Reply::Done { Pause::Yes } else { Pause::No };
        let answers = tickets.into_iter().map(|ticket| Action::Answer(ticket, reply.clone()));
        std::iter::once(first).chain(answers).collect()
    }

    pub(super) fn go_on(&mut self, ticket: Ticket) -> Vec<Action> {
        match (&self.phase, &self.pause) {
            (Phase::Running, Pause::No) => vec![self.refuse(ticket, "is not paused", None)],
            (Phase::Running, _) => {
                let mut actions = self.thaw();
                actions.push(Action::Answer(ticket, Reply::Done));
                actions
            }
            _ => vec![self.refuse_not_running(ticket)],
        }
    }

    /// Frozen by somebody else, it is as paused as by podrun: what is born there never runs, and `resume` helps.
    pub(super) fn stands_still(&mut self) -> Vec<Action> {
        match (&self.phase, &self.pause) {
            (Phase::Running, Pause::No) => {
                self.pause = Pause::Yes;
                vec![Action::Paused(true)]
            }
            _ => vec![],
        }
    }

    pub(super) fn thaw(&mut self) -> Vec<Action> {
        match std::mem::take(&mut self.pause) {
            Pause::No => vec![],
            Pause::Yes => vec![Action::Thaw, Action::Paused(false)],
            Pause::Asked(tickets) => {
                let refused =
                    tickets.into_iter().map(|ticket| self.refuse(ticket, "was resumed meanwhile", None));
                std::iter::once(Action::Thaw).chain(refused).collect()
            }
        }
    }
}
