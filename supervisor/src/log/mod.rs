//! The log: from the container's pipes into its files, exactly, and without anybody waiting for a disk.
//!
//! ```text
//!            shim: pump                       a child of it: worker
//!  stdout ─▶ pipe ─┐ something to read?       ┌─▶ journal ─▶ records ─▶ log/current.log
//!                  ├──────────fork───────────▶│   (run root)            └─ full ─▶ .1 ─▶ .2
//!  stderr ─▶ pipe ─┘                          └─ how far ─▶ shim ─▶ the followers
//! ```
//!
//! *Nothing is consumed before it is safe*: a batch goes from its pipe into the [`journal`], which
//! outlives every process, in one step that was either made or not. Whoever is killed at whatever
//! instruction, the next worker writes what is left of the batch, no byte less and no byte twice.
//!
//! *A stalled disk stalls only the log*: nothing but the worker ever touches the log's files. While it
//! waits the pipes fill, and the container waits for room as it would at any full pipe.
//!
//! *A full disk* is tried again, less and less often. With `mode=block` the output waits; with
//! `mode=drop` it is counted instead, and a marker in the log tells how much is missing once there is
//! room. In both, every line of a file is a whole record.
//!
//! What a container's own end leaves in the pipes is logged before its exit record is written, unless
//! that takes too long: the rest follows. A process elsewhere that still holds the writing end after
//! that (it got it through a socket) fills the pipe and then waits: it holds a reading end too, and
//! nobody empties it any more.

use podrun::protocol::LogPosition;
use tokio::sync::oneshot;

mod file;
mod journal;
mod journald;
mod logger;
mod message;
mod output;
mod pump;
mod rotate;
mod source;
mod worker;

pub(crate) use logger::Logger;
pub(crate) use output::create_files;
pub(crate) use pump::{Follow, Pump};

/// How far the log has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Progress {
    /// The position of its end.
    pub(crate) position: LogPosition,
    /// Nothing will follow.
    pub(crate) ended: bool,
}

/// The order to finish: what is in the pipes now is logged.
#[derive(Debug)]
pub(crate) struct Drain {
    /// Told whether all of it was.
    pub(crate) done: oneshot::Sender<bool>,
    /// Nothing will follow.
    pub(crate) last: bool,
}

#[cfg(test)]
#[path = "../../../fuzz/bodies/log_repair.rs"]
mod repair;

#[cfg(test)]
#[test]
fn what_a_killed_writer_left_is_repaired() {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../fuzz/corpus/log_repair");
    let mut inputs = 0;
    for entry in std::fs::read_dir(corpus).expect("a corpus") {
        repair::check(&std::fs::read(entry.expect("an entry").path()).expect("an input"));
        inputs += 1;
    }
    assert!(inputs > 0, "an empty corpus");
}
