//! The formats a log file may have.

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;

use crate::log::json;
use crate::log::line::{self, Record, Stamp, Stream, Tag};
use crate::spec::logging::Driver;

/// How records stand in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// [`line`].
    K8sFile,
    /// A JSON object a line, as Docker writes it.
    JsonFile,
    /// The bytes as they are: both streams in one, and no times.
    Raw,
}

impl Format {
    /// The format of the files that `driver` writes; `None` where it writes none.
    pub fn of(driver: Driver) -> Option<Self> {
        match driver {
            Driver::K8sFile => Some(Self::K8sFile),
            Driver::JsonFile => Some(Self::JsonFile),
            Driver::Raw => Some(Self::Raw),
            Driver::Journald | Driver::None => None,
        }
    }

    /// Whether a file is whole lines, each a record.
    pub fn has_records(self) -> bool {
        self != Self::Raw
    }

    /// Appends to `out` the records of `output`, which a container wrote to `stream`.
    pub fn format(self, stamp: &Stamp, stream: Stream, output: &[u8], out: &mut BytesMut) {
        match self {
            Self::K8sFile => line::format(stamp, stream, output, out),
            Self::JsonFile => json::format(stamp, stream, output, out),
            Self::Raw => out.put_slice(output),
        }
    }

    /// How many bytes of `output` the first `records` bytes of what [`format`](Self::format) makes of it
    /// hold; whole records.
    pub fn covered(self, output: &[u8], records: &[u8]) -> usize {
        match self {
            Self::Raw => records.len(),
            _ => line::covered(output, memchr::memchr_iter(b'\n', records).count()),
        }
    }

    /// Appends the record that tells what of `stream` was not written, and why: one that no output
    /// can imitate, where the format has records.
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
            Self::JsonFile => json::marker(stamp, stream, &text, out),
            Self::Raw => {
                out.put_slice(text.as_bytes());
                out.put_u8(b'\n');
            }
        }
    }

    /// The record that `line`, without its newline, is; `text` is room for its payload.
    pub(super) fn parse<'a>(self, line: &'a [u8], text: &'a mut Vec<u8>) -> Option<Record<'a>> {
        match self {
            Self::K8sFile => Record::parse(line),
            Self::JsonFile => json::parse(line, text),
            Self::Raw => Some(Record {
                stamp: Stamp::of(Timestamp::UNIX_EPOCH),
                stream: Stream::Stdout,
                tag: Tag::Full,
                payload: line,
            }),
        }
    }
}
