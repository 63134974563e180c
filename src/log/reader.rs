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

use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use jiff::Timestamp;

use crate::error::{Error, Result};
use crate::log::line::{Record, Stamp, Stream, Tag};
use crate::log::tail;

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

/// Where a reader is: an index into its files, and a byte of that file.
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
    /// It can, once the log has grown.
    More,
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
pub(super) const MAX_RECORD: usize = 32 << 20;

/// A reader over the files of one log.
#[derive(Debug)]
pub struct Reader {
    files: Vec<(PathBuf, File)>,
    /// The newest file, while it does not exist.
    missing: Option<PathBuf>,
    selection: Selection,
    since: Option<Stamp>,
    until: Option<Stamp>,
    /// Where each stream begins to be shown.
    starts: [Position; 2],
    position: Position,
    lines: [Line; 2],
    buffer: Vec<u8>,
    /// The rest of an overlong line is being passed over.
    overlong: bool,
    past_until: bool,
    skipped: u64,
}

impl Reader {
    /// A reader over `paths`, oldest first. A file that does not exist is an empty one; what it
    /// is asked to tail is what the files hold now.
    pub fn open<P: AsRef<Path>>(paths: &[P], selection: Selection) -> Result<Self> {
        let (mut files, mut missing) = (Vec::new(), None);
        for path in paths.iter().map(AsRef::as_ref) {
            match File::open(path) {
                Ok(file) => {
                    files.push((path.to_owned(), file));
                    missing = None;
                }
                Err(error) if error.kind() == ErrorKind::NotFound => missing = Some(path.to_owned()),
                Err(error) => return Err(Error::io("read", path, &error)),
            }
        }
        let until = selection.until.map(Stamp::of);
        let starts = match selection.tail {
            None => [Position::default(); 2],
            Some(lines) => tail::starts(&files, &selection, until.as_ref(), lines)?,
        };
        Ok(Self {
            since: selection.since.map(Stamp::of),
            until,
            position: starts[0].min(starts[1]),
            starts,
            selection,
            files,
            missing,
            lines: [Line::Outside; 2],
            buffer: Vec::new(),
            overlong: false,
            past_until: false,
            skipped: 0,
        })
    }

    /// Where the next record begins.
    pub fn position(&self) -> Position {
        self.position
    }

    /// How long the newest file is now.
    pub fn end(&mut self) -> Result<u64> {
        self.find_missing()?;
        let Some((path, file)) = self.files.last() else { return Ok(0) };
        Ok(file.metadata().map_err(|error| Error::io("read", path, &error))?.len())
    }

    /// Opens the newest file if it has come into being.
    fn find_missing(&mut self) -> Result<()> {
        let Some(path) = self.missing.take() else { return Ok(()) };
        match File::open(&path) {
            Ok(file) => self.files.push((path, file)),
            Err(error) if error.kind() == ErrorKind::NotFound => self.missing = Some(path),
            Err(error) => return Err(Error::io("read", &path, &error)),
        }
        Ok(())
    }

    /// How many lines were passed over because they are no records.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// Goes on with `path` when the newest file has been read to its end: what rotation put in
    /// its place.
    pub fn add(&mut self, path: &Path) -> Result<()> {
        let file = File::open(path).map_err(|error| Error::io("read", path, &error))?;
        self.files.push((path.to_owned(), file));
        Ok(())
    }

    /// Gives `sink` every whole record from here up to byte `limit` of the newest file, or to its
    /// end.
    pub fn read_up_to(
        &mut self,
        limit: Option<u64>,
        sink: &mut dyn FnMut(Stream, &[u8]) -> io::Result<()>,
    ) -> Result<Progress, ReadError> {
        self.find_missing().map_err(ReadError::Log)?;
        while self.position.file < self.files.len() && !self.past_until {
            let newest = self.position.file + 1 == self.files.len();
            let limit = limit.filter(|_| newest).unwrap_or(u64::MAX);
            let rest = self.read_file(limit, sink)?;
            if newest {
                break;
            }
            // A file that will not grow has no rest to wait for.
            self.skipped += u64::from(rest && !std::mem::take(&mut self.overlong));
            self.position = Position { file: self.position.file + 1, offset: 0 };
        }
        Ok(if self.past_until { Progress::PastUntil } else { Progress::More })
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
            buffer.resize(BUFFER, 0);
        }
        let mut filled = 0;
        loop {
            let (path, file) = &self.files[self.position.file];
            let at = self.position.offset + filled as u64;
            let room =
                (buffer.len() - filled).min(usize::try_from(limit.saturating_sub(at)).unwrap_or(usize::MAX));
            let read = match file.read_at(&mut buffer[filled..filled + room], at) {
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
            } else if let Some(record) = Record::parse(&line[..length]) {
                self.record(&record, line, sink).map_err(ReadError::Sink)?;
            } else {
                self.skipped += 1;
            }
            used += length + 1;
            self.position.offset += length as u64 + 1;
            if self.past_until {
                break;
            }
        }
        Ok(used)
    }

    /// Gives one record to the sink, if it is asked for. `line` is the record with its newline.
    fn record(
        &mut self,
        record: &Record<'_>,
        line: &[u8],
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
            Tag::Full => sink(stream, &line[line.len() - 1 - record.payload.len()..]),
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

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::io::Write;

    use bytes::BytesMut;
    use proptest::prelude::*;

    use super::*;
    use crate::log::line;

    /// A log written piece by piece, one second apart.
    #[derive(Default)]
    struct Log {
        file: BytesMut,
        second: i64,
    }

    impl Log {
        fn write(&mut self, stream: Stream, output: &[u8]) -> &mut Self {
            let stamp = Stamp::of(at(self.second));
            line::format(&stamp, stream, output, &mut self.file);
            self.second += 1;
            self
        }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn read(bytes: &[u8], selection: Selection) -> [Vec<u8>; 2] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current.log");
        std::fs::write(&path, bytes).unwrap();
        drain(&mut Reader::open(&[path], selection).unwrap())
    }

    fn drain(reader: &mut Reader) -> [Vec<u8>; 2] {
        let mut got = [Vec::new(), Vec::new()];
        let result = reader.read_up_to(None, &mut |stream, bytes| {
            got[stream as usize].extend_from_slice(bytes);
            Ok(())
        });
        result.unwrap();
        got
    }

    fn text(got: &[Vec<u8>; 2]) -> [&str; 2] {
        [str::from_utf8(&got[0]).unwrap(), str::from_utf8(&got[1]).unwrap()]
    }

    use Stream::{Stderr as E, Stdout as O};

    #[test]
    fn tail_counts_lines_and_not_fragments() {
        let mut log = Log::default();
        log.write(O, b"a\n").write(E, b"b").write(O, b"c\n").write(E, b"d\n").write(O, b"e");
        let tail = |lines| read(&log.file, Selection { tail: Some(lines), ..Selection::default() });
        assert_eq!(text(&tail(0)), ["", ""]);
        assert_eq!(text(&tail(1)), ["e", ""]);
        assert_eq!(text(&tail(2)), ["e", "bd\n"]);
        assert_eq!(text(&tail(3)), ["c\ne", "bd\n"]);
        assert_eq!(text(&tail(9)), ["a\nc\ne", "bd\n"]);
        let only = Selection { tail: Some(1), stderr: false, ..Selection::default() };
        assert_eq!(text(&read(&log.file, only)), ["e", ""]);
    }

    #[test]
    fn since_and_until_ask_when_a_line_began() {
        let mut log = Log::default();
        log.write(O, b"0\n").write(O, b"1").write(E, b"2\n").write(O, b"3\n4\n").write(O, b"5\n");
        let all = Selection::default();
        let between = |since, until, tail| {
            let (since, until) = (Some(at(since)), Some(at(until)));
            read(&log.file, Selection { since, until, tail, ..all.clone() })
        };
        assert_eq!(text(&between(1, 2, None)), ["13\n", "2\n"]);
        assert_eq!(text(&between(2, 9, None)), ["4\n5\n", "2\n"]);
        assert_eq!(text(&between(0, 3, Some(1))), ["4\n", ""]);
        assert_eq!(text(&between(0, 1, Some(1))), ["13\n", ""]);
    }

    #[test]
    fn timestamps_stand_once_before_each_line() {
        let mut log = Log::default();
        log.write(O, b"a").write(E, b"x\n").write(O, b"b\nc");
        let got = read(&log.file, Selection { timestamps: true, ..Selection::default() });
        let [a, x, c] = [0, 1, 2].map(|second| {
            let stamp = Stamp::of(at(second));
            str::from_utf8(stamp.as_bytes()).unwrap().to_owned()
        });
        assert_eq!(text(&got), [format!("{a} ab\n{c} c"), format!("{x} x\n")]);
    }

    #[test]
    fn what_is_no_record_is_passed_over_and_an_unfinished_end_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current.log");
        let mut log = Log::default();
        log.write(O, b"a\n");
        let mut bytes = b"\n\0\xff foreign\n2026-01-01T0 stdout F no\n".to_vec();
        bytes.extend_from_slice(&log.file);
        let torn = log.file.len() / 2;
        bytes.extend_from_slice(&log.file[..torn]);
        std::fs::write(&path, &bytes).unwrap();
        let mut reader = Reader::open(&[&path], Selection::default()).unwrap();
        assert_eq!(text(&drain(&mut reader)), ["a\n", ""]);
        assert_eq!(reader.skipped(), 3);
        assert_eq!(text(&drain(&mut reader)), ["", ""]);
        let mut file = OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(&log.file[torn..]).unwrap();
        assert_eq!(text(&drain(&mut reader)), ["a\n", ""]);
        assert_eq!(reader.position().offset, file.metadata().unwrap().len());
    }

    #[test]
    fn a_line_longer_than_any_buffer_comes_back_whole() {
        let mut line = vec![b'x'; 10 << 20];
        line.push(b'\n');
        let mut log = Log::default();
        log.write(O, b"first\n").write(O, &line).write(E, b"\0\xff");
        assert_eq!(
            read(&log.file, Selection { tail: Some(2), ..Selection::default() }),
            [line, b"\0\xff".to_vec()]
        );
        // Another writer's record, in one piece.
        let mut log = Stamp::of(at(0)).header(O, Tag::Full).to_vec();
        log.extend(vec![b'x'; 1 << 20]);
        log.push(b'\n');
        for tail in [None, Some(1)] {
            assert_eq!(read(&log, Selection { tail, ..Selection::default() })[0].len(), (1 << 20) + 1);
        }
    }

    #[test]
    fn a_file_without_newlines_is_passed_over_in_bounded_memory() {
        let foreign = [vec![b'x'; MAX_RECORD + 5], b"\n".to_vec()].concat();
        let mut log = Log::default();
        log.write(O, b"a\n");
        let bytes = [&foreign[..], &log.file, &foreign].concat();
        for tail in [None, Some(1)] {
            assert_eq!(text(&read(&bytes, Selection { tail, ..Selection::default() })), ["a\n", ""]);
        }
    }

    #[test]
    fn a_million_alternating_lines_are_read_fast() {
        let mut log = Log::default();
        for line in 0..1_000_000 {
            log.write(if line % 2 == 0 { O } else { E }, format!("{line}\n").as_bytes());
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("current.log");
        std::fs::write(&path, &log.file).unwrap();
        let begin = std::time::Instant::now();
        let got = drain(&mut Reader::open(&[path], Selection::default()).unwrap());
        assert_eq!(got[0].len() + got[1].len(), 6_888_890);
        assert!(begin.elapsed().as_secs() < 5, "{:?}", begin.elapsed());
    }

    fn pieces() -> impl Strategy<Value = Vec<(bool, Vec<u8>)>> {
        let byte = prop_oneof![3 => any::<u8>(), 1 => Just(b'\n'), 1 => Just(b'\0')];
        prop::collection::vec((any::<bool>(), prop::collection::vec(byte, 0..40)), 0..40)
    }

    proptest! {
        #[test]
        fn both_streams_come_back_byte_for_byte(pieces in pieces(), cuts in prop::collection::vec(0usize..4000, 0..5), rotate in 0usize..40) {
            let (mut log, mut want) = (Log::default(), [Vec::new(), Vec::new()]);
            let mut border = 0;
            for (index, (stderr, output)) in pieces.iter().enumerate() {
                if index == rotate {
                    border = log.file.len();
                }
                log.write(if *stderr { E } else { O }, output);
                want[usize::from(*stderr)].extend_from_slice(output);
            }
            let dir = tempfile::tempdir().unwrap();
            let (old, new) = (dir.path().join("current.log.1"), dir.path().join("current.log"));
            std::fs::write(&old, &log.file[..border]).unwrap();
            std::fs::write(&new, &log.file[border..]).unwrap();
            let mut reader = Reader::open(&[old, new], Selection::default()).unwrap();
            let mut got = [Vec::new(), Vec::new()];
            let limits = cuts.iter().map(|cut| Some(*cut as u64)).chain([None]);
            for limit in limits {
                reader.read_up_to(limit, &mut |stream, bytes| {
                    got[stream as usize].extend_from_slice(bytes);
                    Ok(())
                }).unwrap();
            }
            prop_assert_eq!(got, want);
            prop_assert_eq!(reader.skipped(), 0);
        }

        #[test]
        fn a_tail_is_the_end_of_the_whole(pieces in pieces(), lines in 0u64..20) {
            let mut log = Log::default();
            for (stderr, output) in &pieces {
                log.write(if *stderr { E } else { O }, output);
            }
            let whole = read(&log.file, Selection::default());
            let tail = read(&log.file, Selection { tail: Some(lines), ..Selection::default() });
            let count = |bytes: &[u8]| bytes.split_inclusive(|byte| *byte == b'\n').count() as u64;
            prop_assert!(whole[0].ends_with(&tail[0]) && whole[1].ends_with(&tail[1]));
            let all = count(&whole[0]) + count(&whole[1]);
            prop_assert_eq!(count(&tail[0]) + count(&tail[1]), lines.min(all));
        }

        #[test]
        fn garbage_never_panics_and_never_loops(bytes in prop::collection::vec(any::<u8>(), 0..300), tail in prop::option::of(0u64..5)) {
            read(&bytes, Selection { tail, ..Selection::default() });
        }
    }
}
