//! A log that anybody may have written to: the reader ends, shows nothing that is not in a record, and
//! shows the same whether it reads at once or in steps, and in the tail what it shows of the whole.

use std::path::Path;

use podrun::log::format::Format;
use podrun::log::reader::{Progress, Reader, Selection};

pub(super) fn check(data: &[u8]) {
    let Some((&choice, data)) = data.split_first() else { return };
    let format = [Format::K8sFile, Format::JsonFile, Format::Raw][usize::from(choice % 3)];
    let dir = tempfile::tempdir_in("/dev/shm").expect("a directory");
    let path = dir.path().join("log");
    // An older file and the newest, cut anywhere.
    let middle = if choice & 0x80 == 0 { 0 } else { data.len() / 2 };
    if middle > 0 {
        std::fs::write(dir.path().join("log.1"), &data[..middle]).expect("a file");
    }
    std::fs::write(&path, &data[middle..]).expect("a file");

    let whole = read(&path, format, Selection::default(), u64::MAX);
    assert_eq!(whole, read(&path, format, Selection::default(), 7));
    let total: usize = whole.iter().map(Vec::len).sum();
    assert!(total <= data.len() + data.len() / 2, "{total} bytes out of {}", data.len());
    if format != Format::Raw {
        let lines = u64::from(choice / 3 % 8);
        let tail = read(&path, format, Selection { tail: Some(lines), ..Selection::default() }, u64::MAX);
        for (tail, whole) in tail.iter().zip(&whole) {
            assert!(whole.ends_with(tail));
        }
        let newlines: usize = tail.iter().map(|tail| memchr::memchr_iter(b'\n', tail).count()).sum();
        // A record may hold newlines of its own only in JSON.
        assert!(format == Format::JsonFile || newlines as u64 <= lines, "{newlines} of {lines}");
    }
}

/// What each stream has.
fn read(path: &Path, format: Format, selection: Selection, step: u64) -> [Vec<u8>; 2] {
    let mut out = [Vec::new(), Vec::new()];
    let mut reader = Reader::open(path, format, selection).expect("a log that can be opened");
    let mut sink = |stream, bytes: &[u8]| {
        out[usize::from(stream == podrun::log::line::Stream::Stderr)].extend_from_slice(bytes);
        Ok(())
    };
    loop {
        match reader.read_some(None, step, &mut sink) {
            Ok(Progress::More) => {}
            Ok(_) => return out,
            Err(_) => panic!("a file that can be read"),
        }
    }
}
