//! One log file and its older siblings: written to its limit, then rotated away.
//!
//! Everything here can be killed at any instruction and done again. How much of a batch is in the file
//! is the file's length; a rotation is the same whether it begins or goes on.

use std::fs::{self, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use podrun::error::{Error, Result};
use podrun::log::format::Format;
use podrun::log::kept::Kept;
use podrun::log::line::MAX_PAYLOAD;
use podrun::protocol::LogPosition;
use podrun::spec::logging::Logging;
use rustix::io::Errno;

use super::journal::{Journal, Phase, Place};
use super::rotate;

/// A log file, open for appending.
#[derive(Debug)]
pub(super) struct LogFile {
    pub(super) format: Format,
    path: PathBuf,
    max_size: u64,
    max_files: u32,
    /// Which of the journal's places is this file's.
    index: usize,
    /// Older files that are being read; `None` where nobody's reading counts.
    kept: Option<Kept>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    inode: u64,
    /// How many bytes of the batch it has behind the journal's position.
    ahead: usize,
}

impl LogFile {
    /// The file at `path`, whose state is the journal's place number `index`.
    pub(super) fn new(format: Format, path: &Path, logging: &Logging, index: usize) -> Self {
        Self {
            format,
            path: path.to_owned(),
            max_size: logging.max_size.unwrap_or(u64::MAX),
            max_files: logging.max_files,
            index,
            kept: Some(Kept::of(path)),
            open: None,
        }
    }

    /// The same without regard to readers, who get what they are quick enough for.
    pub(super) fn for_the_quick(self) -> Self {
        Self { kept: None, ..self }
    }

    /// Removes what was kept for readers who do not need it any more.
    pub(super) fn sweep(&mut self) {
        self.kept.iter_mut().for_each(Kept::sweep);
    }

    /// Whether somebody has made it.
    pub(super) fn exists(&self) -> bool {
        self.path.exists()
    }

    /// How long it is now.
    pub(super) fn length(&self) -> u64 {
        fs::metadata(&self.path).map_or(0, |found| found.len())
    }

    fn place(&self, journal: &Journal) -> Place {
        journal.slot().places[self.index]
    }

    /// Brings `records`, all of the journal's batch, into the file. After an error it may be called again,
    /// by this process or by the next.
    pub(super) fn write(&mut self, journal: &mut Journal, records: &[u8]) -> Result<()> {
        loop {
            self.make_ready(journal, records)?;
            let place = self.place(journal);
            let rest = behind(records, place.done);
            let part = part(rest, self.max_size.saturating_sub(place.position.offset));
            let part = if place.position.offset == 0 { part.max(self.first(rest)) } else { part };
            if let Some(open) = &mut self.open {
                while open.ahead < part {
                    match open.file.write(&rest[open.ahead..part]) {
                        Ok(0) => return Err(Error::at("write", &self.path, Errno::NOSPC)),
                        Ok(written) => open.ahead += written,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        // What is there for readers makes room for what is to come.
                        Err(error)
                            if error.kind() == ErrorKind::StorageFull
                                && self.kept.as_mut().is_some_and(Kept::remove_oldest) => {}
                        Err(error) => return Err(Error::io("write", &self.path, &error)),
                    }
                }
                open.ahead = 0;
            }
            if part > 0 {
                self.commit(journal, |place| {
                    place.done += part as u64;
                    place.position.offset += part as u64;
                });
            }
            if part == rest.len() {
                return Ok(());
            }
            let inode = self.open.as_ref().map_or(0, |open| open.inode);
            self.commit(journal, |place| place.rotating = inode);
            self.rotate(journal)?;
        }
    }

    /// What goes into an empty file at least: the first record, or of bytes what fits.
    fn first(&self, records: &[u8]) -> usize {
        match self.format.has_records() {
            true => memchr::memchr(b'\n', records).map_or(records.len(), |end| end + 1),
            false => records.len().min(usize::try_from(self.max_size).unwrap_or(usize::MAX)),
        }
    }

    /// Where the last whole record in the file ends, while `records` are being written.
    pub(super) fn position(&self, journal: &Journal, records: &[u8]) -> LogPosition {
        let Place { mut position, done, .. } = self.place(journal);
        position.offset += self.whole(records, done) as u64;
        position
    }

    /// How many bytes of whole records are ahead of the journal's position.
    fn whole(&self, records: &[u8], done: u64) -> usize {
        let ahead = self.open.as_ref().map_or(0, |open| open.ahead);
        match self.format.has_records() {
            true => memchr::memrchr(b'\n', &behind(records, done)[..ahead]).map_or(0, |end| end + 1),
            false => ahead,
        }
    }

    /// Leaves out the records that are not in the file, and cuts off a torn one. How many bytes of
    /// whole records are in it.
    pub(super) fn give_up(&mut self, journal: &Journal, records: &[u8]) -> (usize, LogPosition) {
        let Place { mut position, done, .. } = self.place(journal);
        let whole = self.whole(records, done);
        position.offset += whole as u64;
        if let Some(open) = &mut self.open {
            if open.ahead > whole
                && let Err(error) = open.file.set_len(position.offset)
            {
                tracing::warn!("cut off a torn record of {}: {error}", self.path.display());
            }
            open.ahead = 0;
        }
        (usize::try_from(done).unwrap_or(usize::MAX).min(records.len()) + whole, position)
    }

    fn commit(&self, journal: &mut Journal, change: impl FnOnce(&mut Place)) {
        journal.commit(|slot| change(&mut slot.places[self.index]));
    }

    /// Opens the file, finishes a rotation, and notices what others did to the file.
    fn make_ready(&mut self, journal: &mut Journal, records: &[u8]) -> Result<()> {
        if self.place(journal).rotating != 0 {
            return self.rotate(journal);
        }
        let failed = |error: std::io::Error| Error::io("open", &self.path, &error);
        let Some(open) = &self.open else {
            let (file, length, inode) = create(&self.path).map_err(failed)?;
            return self.resume(journal, records, Open { file, inode, ahead: 0 }, length);
        };
        if open.ahead > 0 {
            return Ok(());
        }
        let place = self.place(journal);
        let same = match fs::metadata(&self.path) {
            Ok(found) if found.ino() == open.inode => Some(found.len()),
            Ok(_) => None,
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            Err(error) => return Err(failed(error)),
        };
        match same {
            Some(length) if length == place.position.offset => Ok(()),
            // Cut short, or written to, by somebody else.
            Some(length) => {
                self.commit(journal, |place| {
                    place.position.rotation += u64::from(length < place.position.offset);
                    place.position.offset = length;
                });
                Ok(())
            }
            // Rotated by somebody else: go on in a new one.
            None => {
                let (file, length, inode) = create(&self.path).map_err(failed)?;
                self.open = Some(Open { file, inode, ahead: 0 });
                self.commit(journal, |place| {
                    place.position = LogPosition { rotation: place.position.rotation + 1, offset: length };
                });
                Ok(())
            }
        }
    }

    /// Goes on in a file that an earlier writer, perhaps this log's, has left.
    fn resume(&mut self, journal: &mut Journal, records: &[u8], mut open: Open, length: u64) -> Result<()> {
        let failed = |error: std::io::Error| Error::io("read", &self.path, &error);
        let place = self.place(journal);
        let rest = behind(records, place.done);
        let in_flight = journal.slot().phase == Phase::Writing;
        let ahead = length.checked_sub(place.position.offset).and_then(|ahead| usize::try_from(ahead).ok());
        if let (true, Some(ahead)) = (in_flight, ahead.filter(|ahead| *ahead <= rest.len())) {
            let mut there = vec![0; ahead];
            open.file.read_exact_at(&mut there, place.position.offset).map_err(failed)?;
            if there == rest[..ahead] {
                open.ahead = ahead;
                self.open = Some(open);
                return Ok(());
            }
        }
        let end = match self.format.has_records() {
            true => end_of_records(&open.file, length).map_err(failed)?,
            false => length,
        };
        if end < length {
            open.file.set_len(end).map_err(|error| Error::io("repair", &self.path, &error))?;
        }
        self.open = Some(open);
        self.commit(journal, |place| place.position.offset = end);
        Ok(())
    }

    /// Rotates, from wherever an earlier attempt was killed.
    fn rotate(&mut self, journal: &mut Journal) -> Result<()> {
        rotate::move_aside(&self.path, self.place(journal).rotating, self.max_files, self.kept.as_mut())?;
        let failed = |error: std::io::Error| Error::io("open", &self.path, &error);
        let (file, _, inode) = create(&self.path).map_err(failed)?;
        self.open = Some(Open { file, inode, ahead: 0 });
        self.commit(journal, |place| {
            place.rotating = 0;
            place.position = LogPosition { rotation: place.position.rotation + 1, offset: 0 };
        });
        Ok(())
    }
}

/// Opens the log at `path`, or creates it; its length and inode.
pub(super) fn create(path: &Path) -> std::io::Result<(File, u64, u64)> {
    let file = OpenOptions::new().append(true).read(true).create(true).mode(0o600).open(path)?;
    let found = file.metadata()?;
    Ok((file, found.len(), found.ino()))
}

fn behind(records: &[u8], done: u64) -> &[u8] {
    usize::try_from(done).ok().and_then(|done| records.get(done..)).unwrap_or_default()
}

/// How much of `records` fits into `room`, in whole records.
fn part(records: &[u8], room: u64) -> usize {
    match usize::try_from(room) {
        Ok(room) if room < records.len() => memchr::memrchr(b'\n', &records[..room]).map_or(0, |end| end + 1),
        _ => records.len(),
    }
}

/// Where the last whole record of a file of `length` bytes ends. What is behind was torn by a power cut,
/// or by whoever wrote here before.
fn end_of_records(file: &File, length: u64) -> std::io::Result<u64> {
    let mut chunk = vec![0; 2 * MAX_PAYLOAD];
    let mut end = length;
    while end > 0 {
        let size = chunk.len().min(usize::try_from(end).unwrap_or(usize::MAX));
        let start = end - size as u64;
        file.read_exact_at(&mut chunk[..size], start)?;
        if let Some(newline) = memchr::memrchr(b'\n', &chunk[..size]) {
            return Ok(start + newline as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}
