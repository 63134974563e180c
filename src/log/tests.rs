//! What a log gives back.

use std::fs::OpenOptions;
use std::io::Write;

use bytes::BytesMut;
use jiff::Timestamp;
use proptest::prelude::*;

use super::format::Format;
use super::reader::*;
use crate::log::line::{self, Stamp, Stream, Tag};

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
    drain(&mut Reader::open(&path, Format::K8sFile, selection).unwrap())
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
    let mut reader = Reader::open(&path, Format::K8sFile, Selection::default()).unwrap();
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
    let got = drain(&mut Reader::open(&path, Format::K8sFile, Selection::default()).unwrap());
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
        let mut reader = Reader::open(&new, Format::K8sFile, Selection::default()).unwrap();
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
