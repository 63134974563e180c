//! The container's log: the format of its lines, and the reader behind `podrun logs`.
//!
//! ```text
//!  shim ──line::format──▶ current.log ──reader──▶ podrun logs, logs -f, run
//! ```
//!
//! One record is one line of the file, whatever the container wrote: a newline in the output is
//! the end of a record, and nothing else can be. Whoever reads the records back and joins the
//! fragments of each stream gets the bytes that were written, no more and no less.

mod files;
pub mod format;
pub mod journald;
mod json;
pub mod kept;
pub mod line;
pub mod reader;
mod tail;

#[cfg(test)]
mod tests;
