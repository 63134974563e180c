//! The outputs of a log: what each driver makes of a batch, and where it puts it.

use bytes::BytesMut;
use podrun::error::{Error, Result};
use podrun::log::format::Format;
use podrun::log::line::{self, Stream};
use podrun::paths::ContainerPaths;
use podrun::protocol::LogPosition;
use podrun::spec::logging::{Driver, Logging, OnFull};

use super::file::{self, LogFile};
use super::journal::{Dropped, Journal, Slot};
use super::journald::Journald;
use super::worker::stamp;

/// Why output is dropped.
const WHY: &str = "the log could not be written";

/// One output.
#[derive(Debug)]
pub(super) enum Output {
    /// A file.
    File(LogFile),
    /// The host's journal.
    Journald(Journald),
    /// The file for those who watch, where they have no other: nobody's, until one of them makes it.
    Relay(LogFile),
}

/// Those that `logging` asks for; each has the journal's place of its index.
pub(super) fn all(logging: &Logging, paths: &ContainerPaths) -> Vec<Output> {
    let one = |(index, driver): (usize, &Driver)| {
        if *driver == Driver::Journald {
            return Some(Output::Journald(Journald::new(&id(paths), index)));
        }
        let (format, name) = (Format::of(*driver)?, driver.file()?);
        Some(Output::File(LogFile::new(format, &paths.log_dir().join(name), logging, index)))
    };
    let mut outputs: Vec<_> = logging.drivers.iter().enumerate().filter_map(one).collect();
    if logging.readable().is_none() {
        let file = LogFile::new(Format::K8sFile, &paths.relay(), &Logging::relay(), outputs.len());
        outputs.push(Output::Relay(file.for_the_quick()));
    }
    outputs
}

fn id(paths: &ContainerPaths) -> String {
    paths.dir.file_name().map(|id| id.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Creates the files of a log, so that what cannot be opened is told before there is output.
pub(crate) fn create_files(logging: &Logging, paths: &ContainerPaths) -> Result<()> {
    for name in logging.drivers.iter().filter_map(|driver| driver.file()) {
        let path = paths.log_dir().join(name);
        file::create(&path).map_err(|error| Error::io("open", &path, &error))?;
    }
    Ok(())
}

/// The index of the output that is read back, or at least watched.
pub(super) fn followed(outputs: &[Output], logging: &Logging) -> Option<usize> {
    match logging.readable() {
        Some(readable) => logging.drivers.iter().position(|driver| *driver == readable),
        None => outputs.iter().position(|output| matches!(output, Output::Relay(_))),
    }
}

impl Output {
    /// What becomes of output that cannot be written, where the settings say `on_full`.
    pub(super) fn on_full(&self, on_full: OnFull) -> OnFull {
        // Watching never slows the container.
        if matches!(self, Self::Relay(_)) { OnFull::Drop } else { on_full }
    }

    /// Where it begins to write, when the journal knows nothing of it.
    pub(super) fn length(&self) -> u64 {
        match self {
            Self::File(file) | Self::Relay(file) => file.length(),
            Self::Journald(_) => 0,
        }
    }

    /// Fills `records` with what the batch is for this output, the markers of what was dropped before
    /// it first.
    pub(super) fn records(&self, slot: &Slot, index: usize, batch: &[u8], records: &mut BytesMut) {
        records.clear();
        if matches!(self, Self::Relay(file) if !file.exists()) {
            return;
        }
        self.markers(slot, index, records);
        match self {
            Self::File(file) | Self::Relay(file) => {
                file.format.format(&stamp(slot), slot.stream(), batch, records)
            }
            Self::Journald(journald) => journald.format(slot.stream(), batch, records),
        }
    }

    fn markers(&self, slot: &Slot, index: usize, out: &mut BytesMut) {
        for (stream, dropped) in Stream::ALL.into_iter().zip(slot.places[index].dropped) {
            if dropped == Dropped::default() {
                continue;
            }
            match self {
                Self::File(file) | Self::Relay(file) => {
                    file.format.marker(&stamp(slot), stream, dropped.bytes, dropped.lines, WHY, out);
                }
                Self::Journald(journald) => {
                    let Dropped { bytes, lines } = dropped;
                    journald.marker(
                        &format!("podrun: {bytes} bytes with {lines} newlines of {stream:?} were dropped"),
                        out,
                    );
                }
            }
        }
    }

    /// How many bytes of the records are markers.
    pub(super) fn markers_length(&self, slot: &Slot, index: usize) -> usize {
        let mut markers = BytesMut::new();
        self.markers(slot, index, &mut markers);
        markers.len()
    }

    /// How many bytes of `batch` its first `records` hold.
    pub(super) fn covered(&self, batch: &[u8], records: &[u8]) -> usize {
        match self {
            Self::File(file) | Self::Relay(file) => file.format.covered(batch, records),
            Self::Journald(_) => line::covered(batch, Journald::count(records)),
        }
    }

    /// Brings the records out; after an error to be called again.
    pub(super) fn write(&mut self, journal: &mut Journal, records: &[u8]) -> Result<()> {
        match self {
            // Writing would make it.
            Self::Relay(_) if records.is_empty() => Ok(()),
            Self::File(file) | Self::Relay(file) => file.write(journal, records),
            Self::Journald(journald) => journald.write(journal, records),
        }
    }

    /// How many bytes of the records are out for good, and where that is; the others never will be.
    pub(super) fn give_up(&mut self, journal: &Journal, records: &[u8]) -> (usize, LogPosition) {
        match self {
            Self::File(file) | Self::Relay(file) => file.give_up(journal, records),
            Self::Journald(journald) => journald.give_up(journal),
        }
    }

    /// Has nothing to do for a while.
    pub(super) fn rest(&mut self) {
        if let Self::File(file) = self {
            file.sweep();
        }
    }

    /// Where the last whole record ends.
    pub(super) fn position(&self, journal: &Journal, records: &[u8]) -> LogPosition {
        match self {
            Self::File(file) | Self::Relay(file) => file.position(journal, records),
            Self::Journald(_) => LogPosition::default(),
        }
    }
}
