//! What a machine hears and says.

use std::time::Duration;

use podrun::error::Error;
use podrun::protocol::Reply;
use podrun::spec::health::OnUnhealthy;
use podrun::state::{Ending, ExitRecord};

use super::restart::{Asked, Next};

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
    /// A client wants everything inside to stand still.
    Pause(Ticket),
    /// What came of [`Action::Freeze`].
    Frozen(Result<(), Error>),
    /// A client wants it to go on.
    Resume(Ticket),
    /// Everything in the cgroup stands still; who has done that is not said.
    StandsStill,
    /// A client changes the limits.
    Update(Ticket),
    /// A client went away before it was answered.
    Gone(Ticket),
    /// The gate was opened, and the command was executed or not.
    Gate(Result<(), Error>),
    /// What became of [`Action::Deliver`].
    Delivered { sender: Sender, signal: i32, delivery: Delivery },
    /// The time that [`Action::Arm`] set is over.
    TimeUp,
    /// The command has run for as long as it may.
    RunTimeOver,
    /// The container is unhealthy, and this is what to do.
    Unhealthy(OnUnhealthy),
    /// SIGTERM to the shim.
    Terminate,
    /// Init has ended; it is not reaped yet.
    InitEnded {
        /// How; `None` where nobody can tell.
        ending: Option<Ending>,
        /// How long its command has run; `None` where it was never executed.
        ran: Option<Duration>,
    },
    /// The exit record is written.
    Recorded(Box<ExitRecord>),
    /// The time that [`Action::Rest`] set is over.
    Due,
    /// What came of [`Action::Launch`].
    Launched(Result<(), Error>),
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Answer a client.
    Answer(Ticket, Reply),
    /// Let init execute its command; [`Event::Gate`] follows.
    OpenGate,
    /// The command runs: publish it, and answer those who started it.
    Running(Vec<Ticket>),
    /// Send a signal by the rules for PID 1; [`Event::Delivered`] follows.
    Deliver { sender: Sender, signal: i32, all: bool },
    /// SIGKILL to everything in the container.
    KillAll,
    /// [`Event::TimeUp`] after this long, instead of what was armed before.
    Arm(Duration),
    /// Run the process of this ticket; the driver answers it.
    Exec(Ticket),
    /// Freeze everything inside; [`Event::Frozen`] follows, unless it is let go on before.
    Freeze,
    /// Let everything inside go on.
    Thaw,
    /// Publish whether the container is paused.
    Paused(bool),
    /// Change the limits as this ticket asks; the driver answers it.
    Update(Ticket),
    /// Drain the log, write the exit record, reap; [`Event::Recorded`] follows.
    Record(Verdict),
    /// [`Event::Due`] after this long, between two runs, instead of what was said before.
    Rest(Duration),
    /// Build the container anew; [`Event::Launched`] follows.
    Launch,
    /// Publish that the last run was the last one; [`Event::Recorded`] follows.
    Conclude,
    /// Finish: the durable record, the last acknowledgements, and the end of the shim.
    Finish,
}

/// What the exit record says beyond what can be measured.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    /// How init ended, in the name of the signal that podrun ended it for; `None` where nobody knows.
    pub(crate) ending: Option<Ending>,
    /// Init was ended by a SIGKILL that podrun did not send.
    pub(crate) killed_by_other: bool,
    /// Why podrun ended it, where it did.
    pub(crate) asked: Option<Asked>,
    /// The command was never executed, and this is why.
    pub(crate) start_failed: Option<Error>,
    /// What follows.
    pub(crate) next: Next,
}
