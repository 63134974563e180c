//! What a shim decides: a container's life as pure data, without a descriptor or a system call.
//!
//! ```text
//!             Start            executed
//!  Created ─────────▶ Starting ────────▶ Running
//!     │                   │ refused         │
//!     └───────────────────┴── init ends ────┴──▶ Ending ── exit record written ──▶ Ended
//!                                                  └─ to run again ([`restart`]) ──▶ Waiting
//! ```
//!
//! The driver feeds [`Event`]s and performs the [`Action`]s it gets back, in order. A request is
//! known by its [`Ticket`]; each ticket is answered once, or its client went away first.
//!
//! Invariants: the gate of a run is opened once; after `Ending` nothing is sent to init any more; a request
//! that caused the end is answered after the exit record is written, never before, so that
//! `kill X; delete X` cannot race.

mod event;
mod pause;
pub(crate) mod restart;
#[cfg(test)]
mod tests;

use std::time::Duration;

use podrun::error::{Error, Kind};
use podrun::protocol::Reply;
use podrun::spec::restart::RestartPolicy;
use podrun::spec::settings::Settings;
use podrun::state::{Ending, ExitRecord, Restarts, Status};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

pub(crate) use event::{Action, Delivery, Event, Sender, Ticket, Verdict};
use pause::Pause;
use restart::{Asked, Next};

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Created,
    Starting,
    Running,
    Ending,
    /// Between two runs.
    Waiting,
    Ended(Box<ExitRecord>),
}

/// What was decided and must outlive this shim.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Memory {
    /// The gate was opened, and what came of it is not known yet.
    pub(crate) starting: bool,
    /// `stop` has begun: its signal was sent.
    pub(crate) stopping: bool,
    /// The signal in whose name podrun ended init.
    pub(crate) ended_as: Option<i32>,
    /// podrun sent SIGKILL.
    pub(crate) killed: bool,
    /// Why podrun ends this run, or the container.
    #[serde(default)]
    pub(crate) asked: Option<Asked>,
    /// Why the command was not executed.
    pub(crate) start_failed: Option<Error>,
}

/// The container's life.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    stop_signal: i32,
    stop_timeout: Duration,
    policy: RestartPolicy,
    restarts: Restarts,
    /// What follows the run that is ending.
    next: Next,
    phase: Phase,
    pause: Pause,
    memory: Memory,
    /// Those who want the command to run, until it does.
    starters: Vec<Ticket>,
    waiters: Vec<Ticket>,
    /// `kill` and `stop` requests that are answered once the record is written.
    enders: Vec<Ticket>,
    deleters: Vec<Ticket>,
}

impl Machine {
    /// A container as `status` says that it is, and as `memory` tells of what was decided before.
    pub(crate) fn resume(
        name: String,
        settings: &Settings,
        status: Status,
        restarts: Restarts,
        memory: Memory,
    ) -> Self {
        let phase = match status {
            Status::Creating | Status::Created if memory.starting || memory.start_failed.is_some() => {
                Phase::Starting
            }
            Status::Creating | Status::Created => Phase::Created,
            Status::Stopped if restarts.due.is_some() => Phase::Waiting,
            _ => Phase::Running,
        };
        Self {
            name,
            stop_signal: settings.stop_signal,
            stop_timeout: Duration::from_secs(settings.stop_timeout),
            policy: settings.restart,
            restarts: Restarts { due: None, ..restarts },
            next: Next::End,
            phase,
            pause: if status == Status::Paused { Pause::Yes } else { Pause::No },
            memory,
            starters: Vec::new(),
            waiters: Vec::new(),
            enders: Vec::new(),
            deleters: Vec::new(),
        }
    }

    /// What must outlive this shim.
    pub(crate) fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Whether nothing is half done, and nobody waits for what is about to happen: but for its end, which
    /// whoever goes on with the container will see.
    pub(crate) fn is_calm(&self) -> bool {
        matches!(self.phase, Phase::Created | Phase::Running | Phase::Waiting)
            && !matches!(self.pause, Pause::Asked(_))
            && self.enders.is_empty()
            && self.deleters.is_empty()
    }

    /// Those who wait for the container to be gone. Not empty: it must be deleted.
    pub(crate) fn deleters(&self) -> &[Ticket] {
        &self.deleters
    }

    /// The next step.
    pub(crate) fn on(&mut self, event: Event) -> Vec<Action> {
        match event {
            Event::Start { ticket, again } => self.start(ticket, again),
            Event::Signal { ticket, signal, all } => self.signal(ticket, signal, all),
            Event::Stop { ticket, timeout } => self.stop(ticket, timeout),
            Event::Wait(ticket) => match &self.phase {
                Phase::Ended(record) => vec![Action::Answer(ticket, Reply::Ended(record.clone()))],
                _ => {
                    self.waiters.push(ticket);
                    vec![]
                }
            },
            Event::Delete { ticket, force } => self.delete(ticket, force),
            Event::Exec(ticket) => match (&self.phase, &self.pause) {
                (Phase::Running, Pause::No) => vec![Action::Exec(ticket)],
                // It would be born frozen, and never answer.
                (Phase::Running, _) => {
                    vec![self.refuse(
                        ticket,
                        "is paused",
                        Some(format!("`podrun resume {}` first", self.name)),
                    )]
                }
                _ => vec![self.refuse_not_running(ticket)],
            },
            Event::Pause(ticket) => self.pause(ticket),
            Event::Frozen(outcome) => self.frozen(outcome),
            Event::Resume(ticket) => self.go_on(ticket),
            Event::StandsStill => self.stands_still(),
            Event::Update(ticket) => match self.phase {
                Phase::Ending | Phase::Ended(_) => vec![self.refuse_not_running(ticket)],
                _ => vec![Action::Update(ticket)],
            },
            Event::Gone(ticket) => {
                if let Pause::Asked(tickets) = &mut self.pause {
                    tickets.retain(|waiting| *waiting != ticket);
                }
                for list in [&mut self.waiters, &mut self.enders, &mut self.deleters] {
                    list.retain(|waiting| *waiting != ticket);
                }
                vec![]
            }
            Event::Gate(outcome) => self.gate(outcome),
            Event::Delivered { sender, signal, delivery } => self.delivered(sender, signal, delivery),
            Event::TimeUp => match self.phase {
                Phase::Ending | Phase::Waiting | Phase::Ended(_) => vec![],
                _ => self.kill_all(),
            },
            Event::RunTimeOver => match self.phase {
                Phase::Running => {
                    self.ask(Asked::Timeout);
                    self.kill_all()
                }
                _ => vec![],
            },
            Event::Unhealthy(action) => self.unhealthy(action),
            Event::Terminate => {
                self.ask(Asked::Shutdown);
                self.begin_stop(None)
            }
            Event::InitEnded { ending, ran } => self.init_ended(ending, ran),
            Event::Due => self.due(),
            Event::Launched(outcome) => self.launched(outcome),
            Event::Recorded(record) => self.recorded(record),
        }
    }

    fn start(&mut self, ticket: Ticket, again: bool) -> Vec<Action> {
        match self.phase {
            Phase::Created => {
                self.phase = Phase::Starting;
                self.memory.starting = true;
                self.starters.push(ticket);
                vec![Action::OpenGate]
            }
            Phase::Starting if again => {
                self.starters.push(ticket);
                vec![]
            }
            Phase::Running if again => vec![Action::Answer(ticket, Reply::Done)],
            Phase::Starting | Phase::Running => {
                vec![self.refuse(ticket, "is already running", None)]
            }
            // Not answered: the client finds the connection closed, the container stopped, and
            // begins again with a new shim.
            Phase::Ending | Phase::Ended(_) => vec![],
            Phase::Waiting => self.hurry(ticket),
        }
    }

    fn gate(&mut self, outcome: Result<(), Error>) -> Vec<Action> {
        if self.phase != Phase::Starting {
            return vec![];
        }
        self.memory.starting = false;
        match outcome {
            Ok(()) => {
                self.phase = Phase::Running;
                vec![Action::Running(std::mem::take(&mut self.starters))]
            }
            Err(error) => {
                // Init is about to end; its starter is told once the record says so too.
                self.memory.start_failed = Some(error);
                vec![]
            }
        }
    }

    fn signal(&mut self, ticket: Ticket, signal: i32, all: bool) -> Vec<Action> {
        match self.phase {
            Phase::Ending | Phase::Ended(_) => vec![self.refuse_not_running(ticket)],
            Phase::Waiting => self.signal_between(ticket, signal),
            _ => {
                if self.means_the_end(signal) {
                    self.ask(Asked::User);
                }
                vec![Action::Deliver { sender: Sender::Client(ticket), signal, all }]
            }
        }
    }

    fn stop(&mut self, ticket: Ticket, timeout: Option<Duration>) -> Vec<Action> {
        match self.phase {
            Phase::Ended(_) => vec![Action::Answer(ticket, Reply::Nothing)],
            Phase::Ending => {
                self.enders.push(ticket);
                vec![]
            }
            _ => {
                self.ask(Asked::User);
                self.enders.push(ticket);
                self.begin_stop(timeout)
            }
        }
    }

    fn begin_stop(&mut self, timeout: Option<Duration>) -> Vec<Action> {
        match self.phase {
            Phase::Ending | Phase::Ended(_) => return vec![],
            Phase::Waiting => return self.conclude(),
            _ => {}
        }
        let again = std::mem::replace(&mut self.memory.stopping, true);
        // What stands still hears nothing.
        let mut actions = self.thaw();
        // A second `stop` may shorten or lengthen the wait; the signal is sent once.
        if !again || timeout.is_some() {
            actions.push(Action::Arm(timeout.unwrap_or(self.stop_timeout)));
        }
        if !again {
            actions.push(Action::Deliver { sender: Sender::Stop, signal: self.stop_signal, all: false });
        }
        actions
    }

    fn delivered(&mut self, sender: Sender, signal: i32, delivery: Delivery) -> Vec<Action> {
        match (delivery, sender) {
            (Delivery::Fatal, sender) => {
                self.memory.ended_as.get_or_insert(signal);
                self.memory.killed = true;
                if let Sender::Client(_) = sender {
                    self.ask(Asked::User);
                }
                match (sender, &self.phase) {
                    (Sender::Client(ticket), Phase::Ended(_)) => vec![Action::Answer(ticket, Reply::Done)],
                    (Sender::Client(ticket), _) => {
                        self.enders.push(ticket);
                        vec![]
                    }
                    (Sender::Stop, _) => vec![],
                }
            }
            (Delivery::Sent, Sender::Client(ticket)) => vec![Action::Answer(ticket, Reply::Done)],
            (Delivery::Sent, Sender::Stop) => vec![],
            (Delivery::Failed(error), Sender::Client(ticket)) => {
                vec![Action::Answer(ticket, Reply::Refused(error))]
            }
            // What the polite signal cannot do, SIGKILL will.
            (Delivery::Failed(_), Sender::Stop) => self.kill_all(),
        }
    }

    fn kill_all(&mut self) -> Vec<Action> {
        self.memory.killed = true;
        vec![Action::KillAll]
    }

    fn delete(&mut self, ticket: Ticket, force: bool) -> Vec<Action> {
        match self.phase {
            Phase::Starting | Phase::Running | Phase::Waiting if !force => {
                vec![self.refuse_delete(ticket)]
            }
            Phase::Waiting => {
                self.ask(Asked::User);
                self.deleters.push(ticket);
                self.conclude()
            }
            Phase::Ending | Phase::Ended(_) => {
                self.deleters.push(ticket);
                vec![]
            }
            Phase::Created | Phase::Starting | Phase::Running => {
                self.ask(Asked::User);
                self.deleters.push(ticket);
                self.kill_all()
            }
        }
    }

    fn init_ended(&mut self, ending: Option<Ending>, ran: Option<Duration>) -> Vec<Action> {
        if matches!(self.phase, Phase::Ending | Phase::Waiting | Phase::Ended(_)) {
            return vec![];
        }
        self.phase = Phase::Ending;
        let sigkill = Signal::KILL.as_raw();
        let was_killed = matches!(ending, Some(Ending::Signaled { signal, .. }) if signal == sigkill);
        let ending = match self.memory.ended_as {
            Some(signal) if was_killed => Some(Ending::Signaled { signal, core: false }),
            _ => ending,
        };
        let mut actions = Vec::new();
        if let Pause::Asked(tickets) = std::mem::take(&mut self.pause) {
            actions.extend(tickets.into_iter().map(|ticket| self.refuse_not_running(ticket)));
        }
        let failed = self.memory.start_failed.as_ref().map(|error| error.launch_exit_code().into());
        let code = failed.or(ending.map(Ending::code));
        self.next = restart::next(self.policy, self.restarts, code, ran, self.memory.asked);
        actions.push(Action::Record(Verdict {
            ending,
            killed_by_other: was_killed && !self.memory.killed,
            asked: self.memory.asked,
            start_failed: self.memory.start_failed.clone(),
            next: self.next,
        }));
        actions
    }

    fn recorded(&mut self, record: Box<ExitRecord>) -> Vec<Action> {
        let mut actions = Vec::new();
        if self.next == Next::End {
            for ticket in std::mem::take(&mut self.waiters) {
                actions.push(Action::Answer(ticket, Reply::Ended(record.clone())));
            }
        }
        for ticket in std::mem::take(&mut self.enders) {
            actions.push(Action::Answer(ticket, Reply::Done));
        }
        actions.extend(self.refuse_starters());
        if let Next::Again { after, restarts } = self.next {
            actions.push(self.wait_for_another(restarts, after));
            return actions;
        }
        self.phase = Phase::Ended(record);
        actions.push(Action::Finish);
        actions
    }

    fn refuse(&self, ticket: Ticket, why: &str, hint: Option<String>) -> Action {
        let mut error = Error::new(Kind::WrongState, format!("container {}", self.name), why);
        error.hint = hint;
        Action::Answer(ticket, Reply::Refused(error))
    }

    fn refuse_not_running(&self, ticket: Ticket) -> Action {
        let hint = match self.phase {
            Phase::Created => Some(format!("start it first: `podrun start {}`", self.name)),
            _ => None,
        };
        self.refuse(ticket, "container not running", hint)
    }
}
