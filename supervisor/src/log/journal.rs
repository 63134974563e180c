//! What keeps the log exact when its writer is killed: the batch in flight, in a file of the run root
//! that is mapped into memory and outlives every process.
//!
//! ```text
//!  Idle ──▶ Reading: "the first byte here is not the pipe's" ──read(2)──▶ Writing ──write(2)…──▶ Idle
//!             │ killed before the read: the byte is still wrong             │ killed in the middle: the
//!             │ killed after it: the byte has changed, the batch is here    │ file's length tells how far
//! ```
//!
//! Nothing is consumed before it is in here, and what is in here is written again until the file has
//! it. Both are exact because each step is one system call whose effect can be seen afterwards: the
//! first byte of the pipe is looked at before (`tee`), and its complement put where the read will put
//! the byte itself; the records of a batch depend on nothing but what is in here, so that the next
//! writer makes the same ones and goes on where the file ends.
//!
//! The [`Slot`] of all this is stored twice, and one word says which of the two counts: it changes as a
//! whole or not at all.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use podrun::error::{Error, Result};
use podrun::log::line::Stream;
use podrun::protocol::LogPosition;
use podrun::sys::map::SharedMap;

/// The most of one batch: what a processor's own cache holds, together with the records it becomes.
pub(super) const BATCH: usize = 256 << 10;
/// `podrunl` and the version of the layout.
const MAGIC: u64 = u64::from_be_bytes(*b"podrunl\x01");
/// Where in the words which slot counts, and the first slot.
const CURRENT: usize = 1;
const FIRST: usize = 8;
/// The words of a slot.
const SLOT: usize = 32;
/// How many outputs there may be.
pub(super) const OUTPUTS: usize = 2;

/// What is being done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Phase {
    /// Nothing: everything that was consumed is in the log.
    #[default]
    Idle,
    /// A batch is about to be read; until then its first byte is the mark.
    Reading,
    /// A batch is here, and being written.
    Writing,
}

/// How far one output has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Place {
    /// Where the records behind `done` begin.
    pub(super) position: LogPosition,
    /// How many bytes of the batch's records are in files that are full.
    pub(super) done: u64,
    /// The inode that is being rotated away; 0 where none is.
    pub(super) rotating: u64,
    /// Of each stream: what earlier batches dropped. Its markers stand before the batch's records.
    pub(super) dropped: [Dropped; 2],
    /// What will be [`dropped`](Self::dropped) for the next batch.
    pub(super) lost: [Dropped; 2],
}

/// What was dropped of a stream and has no marker yet.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) bytes: u64,
    pub(super) lines: u64,
}

/// Everything there is to know about the batch in flight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    /// Where the batch was written; an index into [`Stream::ALL`].
    pub(super) stream: u64,
    /// How many bytes it has.
    pub(super) length: u64,
    /// What its first byte is not.
    pub(super) mark: u8,
    /// When it was taken, in nanoseconds since 1970.
    pub(super) nanos: u64,
    pub(super) places: [Place; OUTPUTS],
}

impl Slot {
    pub(super) fn stream(&self) -> Stream {
        if self.stream == 0 { Stream::Stdout } else { Stream::Stderr }
    }

    fn store(&self, words: &[AtomicU64]) {
        let places = self.places.iter().flat_map(|place| {
            let Place { position, done, rotating, dropped: [a, b], lost: [c, d] } = *place;
            [position.rotation, position.offset, done, rotating]
                .into_iter()
                .chain([a, b, c, d].into_iter().flat_map(|count| [count.bytes, count.lines]))
        });
        // `as`: the number of a variant.
        let head = [self.phase as u64, self.stream, self.length, self.mark.into(), self.nanos];
        for (word, value) in words.iter().zip(head.into_iter().chain(places)) {
            word.store(value, Ordering::Relaxed);
        }
    }

    fn load(mut next: impl FnMut() -> u64) -> Self {
        let mut slot = Self {
            phase: match next() {
                1 => Phase::Reading,
                2 => Phase::Writing,
                _ => Phase::Idle,
            },
            stream: next(),
            length: next(),
            // `as`: stored as a byte.
            mark: next() as u8,
            nanos: next(),
            ..Self::default()
        };
        for place in &mut slot.places {
            place.position = LogPosition { rotation: next(), offset: next() };
            (place.done, place.rotating) = (next(), next());
            for count in place.dropped.iter_mut().chain(&mut place.lost) {
                *count = Dropped { bytes: next(), lines: next() };
            }
        }
        slot
    }
}

/// The journal, held by the one writer of the log.
#[derive(Debug)]
pub(super) struct Journal {
    map: SharedMap,
    slot: Slot,
}

impl Journal {
    /// Opens or creates the journal, once the writer before this one is gone for good.
    pub(super) fn open(path: &Path) -> Result<Self> {
        let failed = |error: std::io::Error| Error::io("open", path, &error);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let map = SharedMap::lock(options.open(path).map_err(failed)?, BATCH).map_err(failed)?;
        let words = map.words();
        let mut slot = Slot::default();
        if words[0].load(Ordering::Acquire) == MAGIC {
            let mut at = first(words[CURRENT].load(Ordering::Acquire));
            slot = Slot::load(|| {
                at += 1;
                words[at - 1].load(Ordering::Relaxed)
            });
        } else {
            words[CURRENT].store(0, Ordering::Relaxed);
            slot.store(&words[FIRST..]);
            words[0].store(MAGIC, Ordering::Release);
        }
        let mut journal = Self { map, slot };
        if slot.phase == Phase::Reading {
            let was_read = slot.length > 0 && journal.map.peek()[0] != slot.mark;
            journal.commit(|slot| slot.phase = if was_read { Phase::Writing } else { Phase::Idle });
        }
        Ok(journal)
    }

    /// What is being done.
    pub(super) fn slot(&self) -> &Slot {
        &self.slot
    }

    /// Changes what is being done, as a whole.
    pub(super) fn commit(&mut self, change: impl FnOnce(&mut Slot)) {
        change(&mut self.slot);
        let words = self.map.words();
        let next = 1 - (words[CURRENT].load(Ordering::Relaxed) & 1);
        self.slot.store(&words[first(next)..]);
        // A killed process has executed its stores up to some point, in their order.
        words[CURRENT].store(next, Ordering::Release);
    }

    /// Where a batch is read to.
    pub(super) fn room(&mut self) -> &mut [u8] {
        self.map.bytes()
    }

    /// The batch.
    pub(super) fn batch(&self) -> &[u8] {
        let length = usize::try_from(self.slot.length).unwrap_or(0);
        &self.map.peek()[..length.min(BATCH)]
    }

    /// Gives back the memory of a journal that has nothing in flight.
    pub(super) fn rest(self) {
        // It was only memory.
        let _ = self.map.shrink();
    }
}

fn first(slot: u64) -> usize {
    if slot & 1 == 0 { FIRST } else { FIRST + SLOT }
}

/// What the journal at `path` says, without being its writer: whether something is in flight, and where
/// the first output is. The default where there is no journal.
pub(super) fn glance(path: &Path) -> Slot {
    let words: Option<Vec<u64>> = File::open(PathBuf::from(path)).ok().and_then(|file| {
        let mut page = [0; 8 * (FIRST + 2 * SLOT)];
        file.read_exact_at(&mut page, 0).ok()?;
        Some(page.as_chunks().0.iter().map(|word| u64::from_ne_bytes(*word)).collect())
    });
    match words {
        Some(words) if words[0] == MAGIC => {
            let mut at = first(words[CURRENT]);
            Slot::load(|| {
                at += 1;
                words[at - 1]
            })
        }
        _ => Slot::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_slot() -> impl Strategy<Value = Slot> {
        let count = || any::<(u64, u64)>().prop_map(|(bytes, lines)| Dropped { bytes, lines });
        let place = || {
            let counts = [count(), count(), count(), count()];
            (any::<[u64; 4]>(), counts).prop_map(|([rotation, offset, done, rotating], [a, b, c, d])| Place {
                position: LogPosition { rotation, offset },
                done,
                rotating,
                dropped: [a, b],
                lost: [c, d],
            })
        };
        let phase = prop_oneof![Just(Phase::Idle), Just(Phase::Writing)];
        (phase, 0..2u64, 0..1000u64, any::<(u8, u64)>(), [place(), place()]).prop_map(
            |(phase, stream, length, (mark, nanos), places)| Slot {
                phase,
                stream,
                length,
                mark,
                nanos,
                places,
            },
        )
    }

    proptest! {
        #[test]
        fn the_next_writer_finds_what_was_committed_last(slots in prop::collection::vec(any_slot(), 1..5)) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("journal");
            for slot in slots {
                let mut journal = Journal::open(&path).unwrap();
                journal.commit(|current| *current = slot);
                drop(journal);
                let journal = Journal::open(&path).unwrap();
                prop_assert_eq!(journal.slot(), &slot);
                prop_assert_eq!(glance(&path), slot);
            }
        }
    }

    #[test]
    fn whether_a_batch_was_read_shows_in_its_first_byte() {
        let dir = tempfile::tempdir().unwrap();
        for (byte, phase) in [(b'x', Phase::Writing), (!b'x', Phase::Idle)] {
            let path = dir.path().join("journal");
            let mut journal = Journal::open(&path).unwrap();
            journal.commit(|slot| *slot = Slot { phase: Phase::Reading, length: 3, mark: !b'x', ..*slot });
            journal.room()[0] = byte;
            drop(journal);
            assert_eq!(Journal::open(&path).unwrap().slot().phase, phase);
        }
    }
}
