//! Where the last N lines begin, found from the end without reading the rest.
//!
//! A line is what a container wrote up to a newline, however many records it became and whatever the
//! other stream wrote between them; an unterminated end of a stream counts as one. So each stream
//! has a place of its own from which it is shown.
//!
//! ```text
//!   out F a │ err P b │ out F c │ err F d │ out P e         the last 2 lines: d (with b) and e
//!           └ stderr from here            └ stdout from here
//! ```

use std::fs::File;
use std::io::ErrorKind;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::log::files::LogFile;
use crate::log::format::Format;
use crate::log::line::{Stamp, Stream, Tag};
use crate::log::reader::{MAX_RECORD, Position, Selection};

/// How much is read first; then twice as much each time, up to a bound.
const FIRST: usize = 16 << 10;
const MOST: usize = 1 << 20;

/// One stream, seen from the end.
#[derive(Clone, Copy)]
enum Seen {
    /// Nothing of it yet.
    Nothing,
    /// The line it is in began here or earlier.
    Since(Position),
    /// It is shown from here.
    From(Position),
}

struct Tail {
    left: u64,
    seen: [Seen; 2],
}

impl Tail {
    /// One record further back.
    fn record(&mut self, stream: Stream, tag: Tag, position: Position) -> ControlFlow<()> {
        let seen = &mut self.seen[stream as usize];
        let ends_a_line = matches!((&seen, tag), (Seen::Nothing, _) | (Seen::Since(_), Tag::Full));
        *seen = match *seen {
            Seen::Nothing if self.left == 0 => Seen::Nothing,
            Seen::Since(start) if ends_a_line && self.left == 0 => Seen::From(start),
            Seen::Nothing | Seen::Since(_) => Seen::Since(position),
            Seen::From(start) => Seen::From(start),
        };
        self.left -= u64::from(ends_a_line && self.left > 0);
        let open = self.seen.iter().any(|seen| matches!(seen, Seen::Since(_)));
        if self.left == 0 && !open { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }
}

/// Where each stream begins when the last `lines` lines of the selection are shown.
pub(super) fn starts(
    files: &[LogFile],
    format: Format,
    selection: &Selection,
    until: Option<&Stamp>,
    lines: u64,
) -> Result<[Position; 2]> {
    let mut tail = Tail { left: lines, seen: [Seen::Nothing; 2] };
    let mut end = None;
    for (index, LogFile { path, file, .. }) in files.iter().enumerate().rev() {
        let mut found = ControlFlow::Continue(());
        let mut text = Vec::new();
        let rest = !format.has_records();
        let length = lines_backward(path, file, rest, &mut |offset, line| {
            let position = Position { file: index, offset };
            if lines == 0 {
                return ControlFlow::Break(());
            }
            match format.parse(line, &mut text) {
                Some(record)
                    if selection.has(record.stream) && until.is_none_or(|end| record.stamp <= *end) =>
                {
                    found = tail.record(record.stream, record.tag, position);
                    found
                }
                _ => ControlFlow::Continue(()),
            }
        })?;
        end.get_or_insert(Position { file: index, offset: length });
        if found.is_break() || lines == 0 {
            break;
        }
    }
    let end = end.unwrap_or_default();
    Ok(tail.seen.map(|seen| match seen {
        Seen::Nothing => end,
        Seen::Since(start) | Seen::From(start) => start,
    }))
}

/// Calls `visit` with the offset and the bytes of each line of `file`, last first, without its
/// newline; an unterminated last one is left out, unless the `rest` is a line too. Where the last line
/// ends.
fn lines_backward(
    path: &Path,
    file: &File,
    rest: bool,
    visit: &mut dyn FnMut(u64, &[u8]) -> ControlFlow<()>,
) -> Result<u64> {
    let failed = |error: &std::io::Error| Error::io("read", path, error);
    // `pending` holds the bytes from `start` on that belong to no line seen yet.
    let length = file.metadata().map_err(|error| failed(&error))?.len();
    let mut start = length;
    let mut pending: Vec<u8> = Vec::new();
    let mut end = None;
    let mut step = FIRST;
    loop {
        if end.is_none()
            && let Some(newline) = memchr::memrchr(b'\n', &pending)
        {
            pending.truncate(newline + 1);
            end = Some((start + pending.len() as u64).min(length));
        }
        while let Some((_, line)) = pending.split_last().filter(|_| end.is_some()) {
            let begin = match memchr::memrchr(b'\n', line) {
                Some(newline) => newline + 1,
                None if start == 0 => 0,
                None => break,
            };
            if visit(start + begin as u64, &line[begin..]).is_break() {
                return Ok(end.unwrap_or(0));
            }
            pending.truncate(begin);
        }
        if start == 0 {
            return Ok(end.unwrap_or(0));
        }
        if pending.len() > MAX_RECORD {
            // None of ours: only that it ends here matters.
            pending.drain(..pending.len() - 1);
        }
        let more = usize::try_from(start).unwrap_or(usize::MAX).min(step.max(pending.len()));
        step = (step * 2).min(MOST);
        let mut bytes = vec![0; more];
        start -= more as u64;
        match file.read_exact_at(&mut bytes, start) {
            Ok(()) => {}
            // Truncated meanwhile: what is gone is no line.
            Err(error) if error.kind() == ErrorKind::UnexpectedEof => return Ok(start),
            Err(error) => return Err(failed(&error)),
        }
        if rest && end.is_none() && bytes.last() != Some(&b'\n') && pending.is_empty() {
            bytes.push(b'\n');
        }
        bytes.append(&mut pending);
        pending = bytes;
    }
}
