//! What a shim decides: a container's life as pure data, without a descriptor or a system call.
//!
//! ```text
//!             Start            executed
//!  Created ─────────▶ Starting ────────▶ Running
//!     │                   │ refused         │
//!     └───────────────────┴── init ends ────┴──▶ Ending ── exit record written ──▶ Ended
//! ```
//!
//! The driver feeds [`Event`]s and performs the [`Action`]s it gets back, in order. A request is
//! known by its [`Ticket`]; each ticket is answered once, or its client went away first.
//!
//! Invariants: the gate is opened once; after `Ending` nothing is sent to init any more; a request
//! that caused the end is answered after the exit record is written, never before, so that
//! `kill X; delete X` cannot race.

use std::time::Duration;

use podrun::error::{Error, Kind};
use podrun::protocol::Reply;
use podrun::state::{Ending, ExitRecord, Status};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

/// One request that waits for its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Ticket(pub(crate) u64);

/// Why SIGKILL, or another signal, goes to init.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sender {
    /// A client's `kill`.
    Client(Ticket),
    /// `stop`, or SIGTERM to the shim.
    Stop,
}

/// What became of a signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// Init has it.
    Sent,
    /// Init could not have heard it, or it was SIGKILL: init was ended in its name.
    Fatal,
    /// It could not be sent.
    Failed(Error),
}

/// What happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// A client wants the command to run; `again` where it has said so to a shim that died.
    Start { ticket: Ticket, again: bool },
    /// A client sends a signal.
    Signal { ticket: Ticket, signal: i32, all: bool },
    /// A client wants the container to stop.
    Stop { ticket: Ticket, timeout: Option<Duration> },
    /// A client waits for the end.
    Wait(Ticket),
    /// A client wants the container gone.
    Delete { ticket: Ticket, force: bool },
    /// A client wants a process inside.
    Exec(Ticket),
    /// A client went away before it was answered.
    Gone(Ticket),
    /// The gate was opened, and the command was executed or not.
    Gate(Result<(), Error>),
    /// What became of [`Action::Deliver`].
    Delivered { sender: Sender, signal: i32, delivery: Delivery },
    /// The time that [`Action::Arm`] set is over.
    TimeUp,
    /// SIGTERM to the shim.
    Terminate,
    /// Init has ended; it is not reaped yet.
    /// How is `None` where nobody can tell.
    InitEnded(Option<Ending>),
    /// The exit record is written.
    Recorded(Box<ExitRecord>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Answer a client.
    Answer(Ticket, Reply),
    /// Let init execute its command; [`Event::Gate`] follows.
    OpenGate,
    /// The command runs: publish it.
    Running,
    /// Send a signal by the rules for PID 1; [`Event::Delivered`] follows.
    Deliver { sender: Sender, signal: i32, all: bool },
    /// SIGKILL to everything in the container.
    KillAll,
    /// [`Event::TimeUp`] after this long, instead of what was armed before.
    Arm(Duration),
    /// Run the process of this ticket; the driver answers it.
    Exec(Ticket),
    /// Drain the log, write the exit record, reap; [`Event::Recorded`] follows.
    Record(Verdict),
    /// Finish: the durable record, the last acknowledgements, and the end of the shim.
    Finish,
}

/// What the exit record says beyond what can be measured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How init ended, in the name of the signal that podrun ended it for; `None` where nobody knows.
    pub(crate) ending: Option<Ending>,
    /// Init was ended by a SIGKILL that podrun did not send.
    pub(crate) killed_by_other: bool,
    /// The command was never executed, and this is why.
    pub(crate) start_failed: Option<Error>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Phase {
    Created,
    Starting,
    Running,
    Ending,
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
    /// Why the command was not executed.
    pub(crate) start_failed: Option<Error>,
}

/// The container's life.
#[derive(Debug)]
pub(crate) struct Machine {
    name: String,
    stop_signal: i32,
    stop_timeout: Duration,
    phase: Phase,
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
        stop_signal: i32,
        stop_timeout: Duration,
        status: Status,
        memory: Memory,
    ) -> Self {
        let phase = match status {
            Status::Creating | Status::Created if memory.starting || memory.start_failed.is_some() => {
                Phase::Starting
            }
            Status::Creating | Status::Created => Phase::Created,
            _ => Phase::Running,
        };
        Self {
            name,
            stop_signal,
            stop_timeout,
            phase,
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
            Event::Exec(ticket) => match self.phase {
                Phase::Running => vec![Action::Exec(ticket)],
                _ => vec![self.refuse_not_running(ticket)],
            },
            Event::Gone(ticket) => {
                for list in [&mut self.waiters, &mut self.enders, &mut self.deleters] {
                    list.retain(|waiting| *waiting != ticket);
                }
                vec![]
            }
            Event::Gate(outcome) => self.gate(outcome),
            Event::Delivered { sender, signal, delivery } => self.delivered(sender, signal, delivery),
            Event::TimeUp => match self.phase {
                Phase::Ending | Phase::Ended(_) => vec![],
                _ => self.kill_all(),
            },
            Event::Terminate => self.begin_stop(None),
            Event::InitEnded(ending) => self.init_ended(ending),
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
                let done = |ticket| Action::Answer(ticket, Reply::Done);
                std::iter::once(Action::Running).chain(self.starters.drain(..).map(done)).collect()
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
            _ => vec![Action::Deliver { sender: Sender::Client(ticket), signal, all }],
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
                self.enders.push(ticket);
                self.begin_stop(timeout)
            }
        }
    }

    fn begin_stop(&mut self, timeout: Option<Duration>) -> Vec<Action> {
        if matches!(self.phase, Phase::Ending | Phase::Ended(_)) {
            return vec![];
        }
        let again = std::mem::replace(&mut self.memory.stopping, true);
        let mut actions = Vec::new();
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
            Phase::Starting | Phase::Running if !force => {
                let hint = format!("stop it first, or use `podrun delete -f {}`", self.name);
                vec![self.refuse(ticket, "is running", Some(hint))]
            }
            Phase::Ending | Phase::Ended(_) => {
                self.deleters.push(ticket);
                vec![]
            }
            Phase::Created | Phase::Starting | Phase::Running => {
                self.deleters.push(ticket);
                self.kill_all()
            }
        }
    }

    fn init_ended(&mut self, ending: Option<Ending>) -> Vec<Action> {
        if matches!(self.phase, Phase::Ending | Phase::Ended(_)) {
            return vec![];
        }
        self.phase = Phase::Ending;
        let sigkill = Signal::KILL.as_raw();
        let was_killed = matches!(ending, Some(Ending::Signaled { signal, .. }) if signal == sigkill);
        let ending = match self.memory.ended_as {
            Some(signal) if was_killed => Some(Ending::Signaled { signal, core: false }),
            _ => ending,
        };
        vec![Action::Record(Verdict {
            ending,
            killed_by_other: was_killed && !self.memory.killed,
            start_failed: self.memory.start_failed.clone(),
        })]
    }

    fn recorded(&mut self, record: Box<ExitRecord>) -> Vec<Action> {
        let mut actions = Vec::new();
        for ticket in std::mem::take(&mut self.waiters) {
            actions.push(Action::Answer(ticket, Reply::Ended(record.clone())));
        }
        for ticket in std::mem::take(&mut self.enders) {
            actions.push(Action::Answer(ticket, Reply::Done));
        }
        for ticket in std::mem::take(&mut self.starters) {
            let error = self.memory.start_failed.clone().unwrap_or_else(|| {
                Error::failed(format!("container {}", self.name), "ended before its command was executed")
            });
            actions.push(Action::Answer(ticket, Reply::Refused(error)));
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    const TERM: i32 = 15;

    fn machine() -> Machine {
        Machine::resume("c".into(), TERM, Duration::from_secs(10), Status::Created, Memory::default())
    }

    fn running() -> Machine {
        let mut machine = machine();
        assert_eq!(machine.on(Event::Start { ticket: Ticket(0), again: false }), [Action::OpenGate]);
        let actions = machine.on(Event::Gate(Ok(())));
        assert_eq!(actions, [Action::Running, Action::Answer(Ticket(0), Reply::Done)]);
        machine
    }

    fn record() -> Box<ExitRecord> {
        Box::new(ExitRecord::unknown(None, "").ended(Ending::Exited(0)))
    }

    #[test]
    fn a_kill_that_ends_the_container_is_answered_after_the_record() {
        let mut machine = running();
        machine.on(Event::Signal { ticket: Ticket(1), signal: TERM, all: false });
        let sender = Sender::Client(Ticket(1));
        let delivered = Event::Delivered { sender, signal: TERM, delivery: Delivery::Fatal };
        assert_eq!(machine.on(delivered), []);
        let ended = machine.on(Event::InitEnded(Some(Ending::Signaled { signal: 9, core: false })));
        let [Action::Record(verdict)] = &ended[..] else { panic!("{ended:?}") };
        assert_eq!(verdict.ending, Some(Ending::Signaled { signal: TERM, core: false }));
        assert!(!verdict.killed_by_other);
        let answers = machine.on(Event::Recorded(record()));
        assert_eq!(answers, [Action::Answer(Ticket(1), Reply::Done), Action::Finish]);
    }

    #[test]
    fn a_sigkill_from_elsewhere_is_told_apart() {
        let ended = running().on(Event::InitEnded(Some(Ending::Signaled { signal: 9, core: false })));
        let [Action::Record(verdict)] = &ended[..] else { panic!("{ended:?}") };
        assert!(verdict.killed_by_other);
    }

    #[test]
    fn stop_sends_its_signal_once_and_then_kills() {
        let mut machine = running();
        let first = machine.on(Event::Stop { ticket: Ticket(1), timeout: None });
        assert_eq!(first.len(), 2);
        assert_eq!(machine.on(Event::Terminate), [], "SIGTERM to the shim does not send it again");
        assert_eq!(machine.on(Event::TimeUp), [Action::KillAll]);
    }

    #[test]
    fn a_running_container_is_deleted_only_by_force() {
        let mut machine = running();
        let refused = machine.on(Event::Delete { ticket: Ticket(1), force: false });
        assert!(matches!(&refused[..], [Action::Answer(_, Reply::Refused(_))]), "{refused:?}");
        assert_eq!(machine.on(Event::Delete { ticket: Ticket(2), force: true }), [Action::KillAll]);
        assert_eq!(machine.deleters(), [Ticket(2)]);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let ending = prop_oneof![
            (0..256).prop_map(Ending::Exited),
            (1..65).prop_map(|signal| Ending::Signaled { signal, core: false }),
        ];
        prop_oneof![
            4 => Just(Event::Start { ticket: Ticket(0), again: false }),
            2 => Just(Event::Gate(Ok(()))),
            1 => Just(Event::Gate(Err(Error::failed("a", "b")))),
            2 => (1..65).prop_map(|signal| Event::Signal { ticket: Ticket(0), signal, all: false }),
            2 => Just(Event::Stop { ticket: Ticket(0), timeout: None }),
            2 => Just(Event::Wait(Ticket(0))),
            1 => any::<bool>().prop_map(|force| Event::Delete { ticket: Ticket(0), force }),
            1 => Just(Event::Exec(Ticket(0))),
            1 => Just(Event::TimeUp),
            1 => Just(Event::Terminate),
            1 => ending.prop_map(|ending| Event::InitEnded(Some(ending))),
        ]
    }

    proptest! {
        /// Whatever comes in whatever order: the gate opens once, one record is written, nothing
        /// is sent to an ended init, and every request is answered once, `Start` after the end
        /// excepted.
        #[test]
        fn any_sequence_keeps_the_invariants(events in prop::collection::vec(any_event(), 0..60), fatal: bool) {
            let mut machine = machine();
            let (mut gates, mut records, mut finished) = (0, 0, 0);
            let mut owed: HashMap<Ticket, bool> = HashMap::new();
            let mut next = 1;
            let end = Event::InitEnded(Some(Ending::Exited(0)));
            for mut event in events.into_iter().chain([end]) {
                if let Event::Gate(_) = event && gates == 0 { continue; }
                match &mut event {
                    Event::Start { ticket, .. } | Event::Wait(ticket) | Event::Exec(ticket)
                    | Event::Signal { ticket, .. } | Event::Stop { ticket, .. } | Event::Delete { ticket, .. } => {
                        *ticket = Ticket(next);
                        next += 1;
                    }
                    _ => {}
                }
                let answered = match &event {
                    Event::Start { ticket, .. } => (records == 0).then_some(*ticket),
                    Event::Wait(ticket) | Event::Exec(ticket) | Event::Signal { ticket, .. } => Some(*ticket),
                    Event::Stop { ticket, .. } => Some(*ticket),
                    _ => None,
                };
                owed.extend(answered.map(|ticket| (ticket, true)));
                let mut queue = machine.on(event);
                while !queue.is_empty() {
                    let mut more = Vec::new();
                    for action in queue.drain(..) {
                        match action {
                            Action::OpenGate => gates += 1,
                            Action::Deliver { sender, signal, .. } => {
                                prop_assert_eq!(records, 0, "a signal after the end");
                                let delivery = if fatal { Delivery::Fatal } else { Delivery::Sent };
                                more.extend(machine.on(Event::Delivered { sender, signal, delivery }));
                            }
                            Action::KillAll => prop_assert_eq!(records, 0, "a kill after the end"),
                            Action::Record(_) => {
                                records += 1;
                                more.extend(machine.on(Event::Recorded(record())));
                            }
                            Action::Answer(ticket, _) => { owed.remove(&ticket); }
                            Action::Exec(ticket) => { owed.remove(&ticket); }
                            Action::Finish => finished += 1,
                            Action::Running | Action::Arm(_) => {}
                        }
                    }
                    queue = more;
                }
            }
            prop_assert!(gates <= 1);
            prop_assert_eq!((records, finished), (1, 1));
            prop_assert!(owed.is_empty(), "unanswered: {:?}", owed);
        }
    }
}
