//! A log whose writer was killed, or whose machine lost its power, at any byte: the next writer leaves
//! whole records only. Where the file is what an earlier writer of the same batch has left, the log is
//! exactly what an undisturbed writer would have made of it.

use std::fs;
use std::path::Path;

use bytes::BytesMut;
use jiff::Timestamp;
use podrun::log::format::Format;
use podrun::log::line::{Stamp, Stream};
use podrun::protocol::LogPosition;
use podrun::spec::logging::Logging;

use super::file::LogFile;
use super::journal::{Journal, Phase};

pub(super) fn check(data: &[u8]) {
    let Some((&[choice, cut, files, size], data)) = data.split_first_chunk() else { return };
    let format = if choice & 1 == 0 { Format::K8sFile } else { Format::JsonFile };
    let ours = choice & 2 == 0;
    let (before, batch) = data.split_at(data.len() / 2);
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let path = dir.path().join("log");

    let before = if ours { records(format, before) } else { BytesMut::from(before) };
    let batch = &batch[..batch.len().min(4096)];
    let records = records(format, batch);
    let max_size = (size > 0).then(|| u64::from(size) * 16);
    // An earlier writer begins with what fits into the file only.
    let fits = fitting(&records, before.len(), max_size);
    let cut = fits * usize::from(cut) / 255;
    let mut there = before.to_vec();
    if ours {
        there.extend_from_slice(&records[..cut]);
    }
    fs::write(&path, &there).expect("a file");

    let logging = Logging {
        max_size,
        max_files: if ours { u32::MAX } else { 1 + u32::from(files % 4) },
        ..Logging::default()
    };
    let offset = if ours { before.len() as u64 } else { u64::from(files) * 3 };
    let mut journal = Journal::open(&dir.path().join("journal")).expect("a journal");
    journal.room()[..batch.len()].copy_from_slice(batch);
    journal.commit(|slot| {
        slot.phase = if ours || choice & 4 == 0 { Phase::Writing } else { Phase::Idle };
        slot.length = batch.len() as u64;
        slot.places[0].position = LogPosition { rotation: 0, offset };
    });
    LogFile::new(format, &path, &logging, 0).write(&mut journal, &records).expect("room");

    let whole = all(dir.path());
    assert!(whole.is_empty() || whole.ends_with(b"\n"));
    if ours {
        assert_eq!(whole, [before, records].concat());
    } else if logging.max_files > 1 {
        assert!(whole.ends_with(&records) || logging.max_size.is_some());
    }
}

fn records(format: Format, output: &[u8]) -> BytesMut {
    let mut records = BytesMut::new();
    format.format(&Stamp::of(Timestamp::UNIX_EPOCH), Stream::Stdout, output, &mut records);
    records
}

/// How many bytes of `records` go into a file that has `length`: whole records, and at least one into an
/// empty file.
fn fitting(records: &[u8], length: usize, max_size: Option<u64>) -> usize {
    let Some(max) = max_size else { return records.len() };
    let room = usize::try_from(max).expect("a small size").saturating_sub(length);
    let first = records.iter().position(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    let least = if length == 0 { first } else { 0 };
    let whole =
        records[..room.min(records.len())].iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
    whole.max(least)
}

/// All files of the log, oldest first.
fn all(dir: &Path) -> Vec<u8> {
    let age =
        |name: &str| name.strip_prefix("log").map(|age| age.trim_start_matches('.').parse().unwrap_or(0));
    let mut found: Vec<(u32, Vec<u8>)> = fs::read_dir(dir)
        .expect("the directory")
        .filter_map(|entry| {
            let entry = entry.expect("an entry");
            Some((age(entry.file_name().to_str()?)?, fs::read(entry.path()).expect("a file")))
        })
        .collect();
    found.sort_by_key(|(age, _)| std::cmp::Reverse(*age));
    found.into_iter().flat_map(|(_, bytes)| bytes).collect()
}
