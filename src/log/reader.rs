//! Reads a log back, byte for byte, from any point, as far as it has come, and on from there.
//!
//! ```text
//!  files, oldest first ──▶ whole records ──▶ selection ──▶ sink(stream, bytes)
//!                              │
//!                              └── what is not a record is passed over and counted
//! ```
//!
//! Memory is bounded by one buffer whatever a line's length: fragments go to the sink as they
//! come, and only which streams are in the middle of a line is remembered. Two rules for what
//! is no record: a line that cannot be parsed is passed over and counted, and an unterminated end
//! of the newest file is left for later, when it may have been completed.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::log::files::{self, LogFile};
use crate::log::format::Format;
use crate::log::kept::{self, Kept};
use crate::log::line::{Record, Stamp, Stream, Tag};
use crate::log::tail;

fn inode_of_dir(path: &Path) -> Option<u64> {
    Some(path.parent()?.metadata().ok()?.ino())
}

/// What is asked of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selection {
    /// Show what was written to stdout.
    pub stdout: bool,
    /// Show what was written to stderr.
    pub stderr: bool,
    /// Only lines that began at this time or later.
    pub since: Option<Timestamp>,
    /// Only lines that began at this time or before.
    pub until: Option<Timestamp>,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Put its time before each line.
    pub timestamps: bool,
}

impl Default for Selection {
    fn default() -> Self {
        Self { stdout: true, stderr: true, since: None, until: None, tail: None, timestamps: false }
    }
}

impl Selection {
    pub(super) fn has(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

/// Where a reader is: an index into the files that it has open, and a byte of that file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// Which file; 0 is the oldest.
    pub file: usize,
    /// The byte at which the next record begins.
    pub offset: u64,
}

/// Whether reading on can bring anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// It can, at once.
    More,
    /// It can, once the log has grown.
    Exhausted,
    /// It cannot: the log has passed the selection's `until`.
    PastUntil,
}

/// One stream's place in its current line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Line {
    /// Between two lines.
    #[default]
    Outside,
    /// Inside a line that is shown.
    Shown,
    /// Inside a line that is not.
    Hidden,
}

/// How much is read at once. A record that is longer than [`MAX_RECORD`] is none of ours.
const BUFFER: usize = 256 << 10;
/// The most files that are kept open unread: what rotation deletes meanwhile still takes its place on
/// the disk.
const MAX_AHEAD: usize = 32;
pub(super) const MAX_RECORD: usize = 32 << 20;

/// A reader over the files of one log.
#[derive(Debug)]
pub struct Reader {
    /// The name of the newest file.
    path: PathBuf,
    format: Format,
    files: Vec<LogFile>,
    /// There are more files than were opened.
    behind: bool,
    selection: Selection,
    since: Option<Stamp>,
    until: Option<Stamp>,
    /// Where each stream begins to be shown.
    starts: [Position; 2],
    position: Position,
    lines: [Line; 2],
    buffer: Vec<u8>,
    /// Room for one payload.
    text: Vec<u8>,
    /// The rest of an overlong line is being passed over.
    overlong: bool,
    past_until: bool,
    skipped: u64,
    missed: bool,
    /// Rotation has kept files, perhaps for our sake.
    kept: bool,
    /// The inode of the directory: one of the same name may be another container's.
    dir: Option<u64>,
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.kept {
            self.files.clear();
            Kept::of(&self.path).sweep();
        }
    }
}

impl Reader {
    /// A reader over the log at `path` and what was rotated away before it. A log that does not exist
    /// is an empty one; what it is asked to tail is what the files hold now. From then on nothing that it has
    /// not read is rotated away, within the bounds of [`kept`].
    pub fn open(path: &Path, format: Format, selection: Selection) -> Result<Self> {
        loop {
            let reader = Self::look(path, format, selection.clone())?;
            // One that was removed before it was held: what comes behind it may be gone, too.
            if reader.hold()? {
                return Ok(reader);
            }
        }
    }

    fn look(path: &Path, format: Format, selection: Selection) -> Result<Self> {
        let dir = inode_of_dir(path);
        let files = files::open(path)?;
        let until = selection.until.map(Stamp::of);
        let starts = match selection.tail {
            None => [Position::default(); 2],
            Some(lines) => tail::starts(&files, format, &selection, until.as_ref(), lines)?,
        };
        Ok(Self {
            since: selection.since.map(Stamp::of),
            until,
            position: starts[0].min(starts[1]),
            starts,
            selection,
            path: path.to_owned(),
            format,
            files,
            behind: false,
            lines: [Line::Outside; 2],
            buffer: Vec::new(),
            text: Vec::new(),
            overlong: false,
            past_until: false,
            skipped: 0,
            missed: false,
            kept: false,
            dir,
        })
    }

    /// Holds the file that is read; whether it still has a name.
    fn hold(&self) -> Result<bool> {
        let Some(LogFile { path, file, .. }) = self.files.get(self.position.file) else { return Ok(true) };
        let held = kept::hold(file).and_then(|()| Ok(file.metadata()?.nlink() > 0));
        held.map_err(|error| Error::io("read", path, &error))
    }

    /// Goes on to the next file, and forgets those before it.
    fn pass(&mut self) -> Result<()> {
        let passed = self.position.file + 1;
        self.position = Position { file: passed, offset: 0 };
        self.hold()?;
        self.files.drain(..passed);
        self.position.file = 0;
        for start in &mut self.starts {
            *start = match start.file.checked_sub(passed) {
                Some(file) => Position { file, ..*start },
                None => Position::default(),
            };
        }
        Ok(())
    }

    /// Where the next record begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// There is no file yet.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// How long the newest file is now.
    pub fn end(&self) -> Result<u64> {
        let Some(LogFile { path, file, .. }) = self.files.last() else { return Ok(0) };
        Ok(file.metadata().map_err(|error| Error::io("read", path, &error))?.len())
    }

    /// Looks for files that rotation has put before the newest. To be called soon after it has: what is
    /// rotated away before it was opened cannot be read any more.
    pub fn refresh(&mut self) -> Result<()> {
        let dir = inode_of_dir(&self.path);
        self.dir = self.dir.or(dir);
        if dir != self.dir {
            // The container was deleted: what is open is all there ever was.
            return Ok(());
        }
        self.behind = self.files.len() - self.position.file.min(self.files.len()) > MAX_AHEAD;
        if self.behind {
            return Ok(());
        }
        if self.position.file + 1 == self.files.len() && self.end()? < self.position.offset {
            // Truncated by somebody else: what it has now is new.
            self.position.offset = 0;
        }
        let mut behind = files::open_behind(&self.path, self.files.last(), MAX_AHEAD)?;
        self.kept |= behind.files.iter().any(|file| kept::number(&file.path).is_some());
        (self.behind, self.missed) = (behind.more, self.missed | behind.gap);
        let had_none = self.files.is_empty();
        self.files.append(&mut behind.files);
        if had_none {
            self.hold()?;
        }
        Ok(())
    }

    /// How many lines were passed over because they are no records.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Whether something was rotated away before it could be read.
    pub fn has_missed(&self) -> bool {
        self.missed
    }

    /// Gives `sink` every whole record from here up to byte `end` of the newest file, or to its
    /// end.
    pub fn read_up_to(
        &mut self,
        end: Option<u64>,
        sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<Progress, ReadError> {
        loop {
            match self.read_some(end, u64::MAX, sink)? {
                Progress::More => {}
                done => return Ok(done),
            }
        }
    }

    /// The same, but at most `step` bytes, or one record that is longer.
    pub fn read_some(
        &mut self,
        end: Option<u64>,
        mut step: u64,
        sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<Progress, ReadError> {
        if self.past_until {
            return Ok(Progress::PastUntil);
        }
        while self.position.file < self.files.len() {
            let newest = self.position.file + 1 == self.files.len();
            let end = end.filter(|_| newest && !self.behind).unwrap_or(u64::MAX);
            let from = self.position;
            let limit = end.min(from.offset.saturating_add(step));
            let rest = self.read_file(limit, sink)?;
            if self.past_until {
                return Ok(Progress::PastUntil);
            }
            if self.position != from {
                return Ok(Progress::More);
            }
            let LogFile { path, file, .. } = &self.files[from.file];
            let length =
                file.metadata().map_err(|error| ReadError::Log(Error::io("read", path, &error)))?.len();
            if limit < end.min(length) {
                step = step.saturating_mul(2);
            } else if newest && self.behind {
                self.refresh().map_err(ReadError::Log)?;
                if self.position.file + 1 == self.files.len() {
                    break;
                }
            } else if newest {
                break;
            } else {
                // A file that will not grow has no rest to wait for.
                self.skipped += u64::from(rest && !std::mem::take(&mut self.overlong));
                self.pass().map_err(ReadError::Log)?;
            }
        }
        Ok(Progress::Exhausted)
    }

    /// Reads the current file; whether an unterminated line is left at its end.
    fn read_file(
        &mut self,
        limit: u64,
        sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<bool, ReadError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        let result = self.read_with(&mut buffer, limit, sink);
        self.buffer = buffer;
        result
    }

    fn read_with(
        &mut self,
        buffer: &mut Vec<u8>,
        limit: u64,
        sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<bool, ReadError> {
        if buffer.is_empty() {
            // Made, not grown: of fresh memory only those pages exist that something is read into.
            *buffer = vec![0; BUFFER];
        }
        let mut filled = 0;
        loop {
            let LogFile { path, file, .. } = &self.files[self.position.file];
            let at = self.position.offset + filled as u64;
            let room =
                (buffer.len() - filled).min(usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX));
            let read = match file.read_at(&mut buffer[filled..filled + room], at) {
                Ok(0) if filled > 0 && !self.format.has_records() => {
                    self.raw(&buffer[..filled], Tag::Partial, sink).map_err(ReadError::Sink)?;
                    self.position.offset += filled as u64;
                    return Ok(false);
                }
                Ok(0) => return Ok(filled > 0),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(ReadError::Log(Error::io("read", path, &error))),
            };
            filled += read;
            let used = self.records(&buffer[..filled], sink)?;
            if self.past_until {
                return Ok(false);
            }
            buffer.copy_within(used..filled, 0);
            filled -= used;
            if filled < buffer.len() {
                continue;
            }
            if filled >= MAX_RECORD {
                self.skipped += u64::from(!self.overlong);
                self.overlong = true;
                self.position.offset += filled as u64;
                filled = 0;
            } else {
                buffer.resize(buffer.len() * 2, 0);
            }
        }
    }

    /// Takes the whole lines at the front of `bytes`; how many bytes they were.
    fn records(
        &mut self,
        bytes: &[u8],
        sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<usize, ReadError> {
        let mut used = 0;
        while let Some(length) = memchr::memchr(b'\n', &bytes[used..]) {
            let line = &bytes[used..=used + length];
            if std::mem::take(&mut self.overlong) {
                // The end of what was too long.
            } else if self.format.has_records() {
                let mut text = std::mem::take(&mut self.text);
                match self.format.parse(&line[..length], &mut text) {
                    Some(record) => self.record(&record, sink).map_err(ReadError::Sink)?,
                    None => self.skipped += 1,
                }
                self.text = text;
            } else {
                self.raw(&line[..length], Tag::Full, sink).map_err(ReadError::Sink)?;
            }
            used += length + 1;
            self.position.offset += length as u64 + 1;
            if self.past_until {
                break;
            }
        }
        Ok(used)
    }

    /// Gives output without a record to the sink.
    fn raw(
        &mut self,
        payload: &[u8],
        tag: Tag,
        sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let stamp = Stamp::of(Timestamp::UNIX_EPOCH);
        self.record(&Record { stamp, stream: Stream::Stdout, tag, payload }, sink)
    }

    /// Gives one record to the sink, if it is asked for.
    fn record(
        &mut self,
        record: &Record<'_>,
        sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> io::Result<()> {
        let stream = record.stream;
        let index = stream as usize;
        let begins = self.lines[index] == Line::Outside;
        if begins {
            self.lines[index] = self.judge(record);
        }
        let shown = self.lines[index] == Line::Shown;
        if record.tag == Tag::Full {
            self.lines[index] = Line::Outside;
        }
        if !shown {
            return Ok(());
        }
        if begins && self.selection.timestamps {
            sink(stream, record.stamp.as_bytes())?;
            sink(stream, b" ")?;
        }
        match record.tag {
            Tag::Full => {
                sink(stream, record.payload)?;
                sink(stream, b"\n")
            }
            Tag::Partial => sink(stream, record.payload),
        }
    }

    /// Whether the line that `record` begins is shown.
    fn judge(&mut self, record: &Record<'_>) -> Line {
        let late = self.until.is_some_and(|until| record.stamp > until);
        // A line that began in time is shown to its end; a stream in the middle of one goes on.
        self.past_until |= late && !self.lines.contains(&Line::Shown);
        let hidden = late
            || !self.selection.has(record.stream)
            || self.position < self.starts[record.stream as usize]
            || self.since.is_some_and(|since| record.stamp < since);
        if hidden { Line::Hidden } else { Line::Shown }
    }
}

/// Why reading stopped: the log could not be read, or its reader not be served.
#[derive(Debug)]
pub enum ReadError {
    /// The log.
    Log(Error),
    /// The sink.
    Sink(io::Error),
}
