//! The control protocol between a command and a shim.
//!
//! A unix stream socket carries frames ([`frame`]): a length and a JSON body, file descriptors
//! beside it. The first frame both ways is [`Hello`]; a client may send its first request right
//! behind its own. JSON never carries stream bytes: descriptors are passed.
//!
//! ```text
//!  client                                  shim
//!    Hello, Request ─────────────────────▶
//!           ◀───────────────────────────── Hello, Reply
//!    Request ────────────────────────────▶          one reply for each request, in order;
//!           ◀───────────────────────────── Reply    exec has two: Started, then ExecEnded
//!    (closes) ───────────────────────────▶          closing acknowledges the last reply
//! ```
//!
//! A request is answered in one of three ways: [`Reply::Done`] (or the reply it asks for),
//! [`Reply::Nothing`] (it was so already), or [`Reply::Refused`] with the reason.

use jiff::Timestamp;
use oci_spec::runtime::LinuxResources;
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::paths::{ContainerId, Roots};
use crate::spec::terminal::WindowSize;
use crate::state::{Ending, ExitRecord, ProcessRef};

pub mod frame;
pub mod socket;

/// The protocol this build speaks.
pub const VERSION: u32 = 1;
/// The oldest protocol this build still understands.
pub const OLDEST: u32 = 1;

/// The first frame, both ways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Hello {
    /// [`VERSION`] of the sender.
    pub protocol: u32,
    /// [`OLDEST`] of the sender.
    pub oldest: u32,
    /// The sender's release, for messages: `podrun 0.1.0`.
    pub build: String,
}

impl Hello {
    /// What this build says of itself.
    pub fn ours() -> Self {
        Self {
            protocol: VERSION,
            oldest: OLDEST,
            build: concat!("podrun ", env!("CARGO_PKG_VERSION")).to_owned(),
        }
    }

    /// The newest protocol both sides speak, or why there is none.
    pub fn agree(&self) -> Result<u32> {
        let common = self.protocol.min(VERSION);
        if common >= self.oldest.max(OLDEST) {
            return Ok(common);
        }
        Err(Error::failed(
            "control socket",
            format!(
                "the other side is {} and speaks protocols {} to {}, this is {} and speaks {OLDEST} to {VERSION}",
                self.build,
                self.oldest,
                self.protocol,
                Self::ours().build,
            ),
        )
        .hint("install podrun and podrun-shim of the same release"))
    }
}

/// What a command asks of a shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Build the container up to, not including, running its command. Only the first request of
    /// the creating command, over the socketpair it made; the container's lock travels beside it.
    /// Answered by [`Reply::Launched`].
    Launch {
        /// The container.
        id: ContainerId,
        /// Where it lives.
        roots: Roots,
    },
    /// Take over a container whose keeper and shim are dead: like [`Request::Launch`], its lock beside
    /// it, and answered in the same way.
    Adopt {
        /// The container.
        id: ContainerId,
        /// Where it lives.
        roots: Roots,
    },
    /// Run the command of a created container. Done once it was executed, and its `poststart` hooks have been run.
    Start,
    /// The same, from a client that stays with the container: it is not told to wait for the hooks.
    StartAndStay,
    /// The same, from a client that has said so to a shim that died before it answered: where the
    /// command runs, that is done.
    StartAgain,
    /// Send a signal to init, or to every process.
    Signal {
        /// The signal's number.
        signal: i32,
        /// To every process of the container.
        all: bool,
    },
    /// The stop signal, then SIGKILL after a while. Done once the exit record is written.
    Stop {
        /// Seconds between the two; the container's own setting where absent.
        timeout: Option<u64>,
    },
    /// Answered by [`Reply::Ended`] when the container has ended.
    Wait,
    /// Run a process inside. Its stdin, stdout and stderr travel beside the frame. Answered by
    /// [`Reply::Started`], then [`Reply::ExecEnded`].
    Exec(Box<Exec>),
    /// Wait for the end of a process that a shim started which is dead now; a start time of 0 is
    /// unknown. Answered by [`Reply::ExecEnded`].
    ExecWait(ProcessRef),
    /// Send a signal to the process that this connection's [`Request::Exec`] or [`Request::ExecWait`]
    /// is about. Not answered.
    ExecSignal {
        /// The signal's number.
        signal: i32,
    },
    /// The writing end of the container's stdin; with `once`, stdin ends with this connection.
    /// Answered by [`Reply::Stdin`] with the descriptor beside it.
    Stdin {
        /// Whether the container's stdin ends when this connection does.
        once: bool,
    },
    /// The master of the container's terminal, for its input and its size; its output is the
    /// log's. Answered by [`Reply::Terminal`] with the descriptor beside it.
    Terminal,
    /// Answered by [`Reply::Log`] as soon as the log has grown beyond `seen`, or has ended.
    Follow {
        /// What the client has read.
        seen: LogPosition,
    },
    /// Freeze every process inside. Done once all of them stand still.
    Pause,
    /// Let them go on.
    Resume,
    /// Change the limits: what is not named stays. Done once the kernel has them and they are kept.
    Update {
        /// The limits to change.
        resources: Box<LinuxResources>,
    },
    /// Become the program whose descriptor (`O_PATH` will do) travels beside the frame, and go on with the
    /// container. Done by that program; refused where it does not start or does not understand the
    /// shim's state, and then nothing has changed.
    Upgrade,
    /// End the container if need be, remove everything it had, and answer when it is gone.
    /// [`Reply::Nothing`] where it is another one that has the name.
    Delete {
        /// Also if it is running.
        force: bool,
        /// When the container that is meant was created; any one where absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        created: Option<Timestamp>,
    },
}

/// A process to run inside a container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Exec {
    /// The command and its arguments; not empty.
    pub args: Vec<String>,
    /// `KEY=VALUE`, on top of the container's own environment.
    pub env: Vec<String>,
    /// The working directory; the container's own where absent.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`, by name or number; the container's own where absent.
    pub user: Option<String>,
    /// Nobody waits: the process goes on when this connection ends, and is answered by
    /// [`Reply::Started`] only.
    pub detach: bool,
    /// A socket travels beside the frame as the fourth descriptor. The new process sends a byte over it
    /// before all else, which tells the client that there is one, and its pid (`SCM_CREDENTIALS`),
    /// whatever becomes of the shim.
    #[serde(default)]
    pub witnessed: bool,
    /// With every capability and without a filter.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub privileged: bool,
    /// Its stdio is a terminal of this size: of the descriptors beside the frame the first three are not
    /// used, and the terminal's master is beside [`Reply::Started`].
    #[serde(default)]
    pub terminal: Option<WindowSize>,
}

/// How far a log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LogPosition {
    /// How often the log was rotated since the container was created.
    pub rotation: u64,
    /// Bytes written to the file that is current since then.
    pub offset: u64,
}

/// What a shim answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Reply {
    /// It is done.
    Done,
    /// It was so already.
    Nothing,
    /// It is not done, and this is why.
    Refused(Error),
    /// The container is built; this is its init.
    Launched {
        /// Init's pid on the host.
        pid: i32,
    },
    /// The container has ended.
    Ended(Box<ExitRecord>),
    /// The process was executed.
    Started {
        /// Its pid on the host.
        pid: i32,
        /// When it was started: field 22 of its `/proc/PID/stat`, 0 where that could not be read.
        #[serde(default)]
        start_time: u64,
    },
    /// The process has ended.
    ExecEnded(Ending),
    /// The writing end of stdin is beside this frame.
    Stdin,
    /// The master of the terminal is beside this frame.
    Terminal,
    /// How far the log has come.
    Log {
        /// The position of its end.
        position: LogPosition,
        /// Nothing will follow.
        ended: bool,
    },
}
