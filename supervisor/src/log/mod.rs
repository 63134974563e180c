//! The pump: from the container's two pipes into its log file.
//!
//! ```text
//!  stdout ─▶ pipe ─┐                      ┌─▶ log/current.log
//!                  ├─▶ batch ─▶ records ──┤
//!  stderr ─▶ pipe ─┘   one clock reading  └─▶ Progress, which wakes the followers
//! ```
//!
//! A batch is whatever the pipes hold, up to [`BATCH`] of each; its records go to the file in one
//! write. Between batches the buffers shrink, so that an idle shim holds none.
//!
//! Where the file cannot be written (a full disk), nothing more is read: the pipes fill, and the
//! container waits for room as it would at any full disk. Writing is tried again, less and less
//! often; the file stays parseable, for a torn record is completed or cut off.
//!
//! What a container's own end leaves in the pipes is logged before its exit record is written. A
//! process elsewhere that still holds the writing end after that (it got it through a socket) fills
//! the pipe and then waits: it holds a reading end too, and nobody empties it any more.

use podrun::protocol::LogPosition;
use tokio::sync::oneshot;

mod pump;
mod source;
mod writer;

pub(crate) use pump::Pump;

/// How far the log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The position of its end.
    pub(crate) position: LogPosition,
    /// Nothing will follow.
    pub(crate) ended: bool,
}

/// The order to finish: what is in the pipes now is logged, then the answer tells whether all of it was.
pub(crate) type Drain = oneshot::Sender<bool>;
