//! The formats a log file may have.

use bytes::BytesMut;

use crate::log::line::{self, Stamp, Stream};
use crate::spec::logging::Driver;

/// How records stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// [`line`].
    K8sFile,
}

impl Format {
    /// The format of the files that `driver` writes.
    pub fn of(driver: Driver) -> Option<Self> {
        match driver {
            Driver::K8sFile => Some(Self::K8sFile),
            _ => None,
        }
    }

    /// Appends to `out` the records of `output`, which a container wrote to `stream`.
    pub fn format(self, stamp: &Stamp, stream: Stream, output: &[u8], out: &mut BytesMut) {
        match self {
            Self::K8sFile => line::format(stamp, stream, output, out),
        }
    }

    /// How many bytes of `output` the first `records` bytes of what [`format`](Self::format) makes of it
    /// hold; whole records.
    pub fn covered(self, output: &[u8], records: &[u8]) -> usize {
        match self {
            Self::K8sFile => line::covered(output, memchr::memchr_iter(b'\n', records).count()),
        }
    }

    /// Appends the record that tells what of `stream` was not written, and why: one that no output
    /// can imitate.
    pub fn marker(
        self,
        stamp: &Stamp,
        stream: Stream,
        bytes: u64,
        lines: u64,
        why: &str,
        out: &mut BytesMut,
    ) {
        let text = format!("podrun: {bytes} bytes with {lines} newlines were dropped: {why}");
        match self {
            Self::K8sFile => line::marker(stamp, stream, &text, out),
        }
    }
}
