//! One record of the `json-file` format, as Docker writes it:
//!
//! ```text
//!  {"log":"hello\n","stream":"stdout","time":"2026-01-02T03:04:05.123456789Z"}
//!  {"log":"a fragment","stream":"stdout","time":"…"}      the line goes on in the stream's next record
//! ```
//!
//! JSON is text, and output is any bytes: a byte `b` that belongs to no character of UTF-8 is written as
//! `\udcb…`, the lone surrogate that Python's `surrogateescape` uses. Most readers show it as `�`, as they
//! show what Docker writes; ours gives the byte back.

use std::borrow::Cow;

use bytes::{BufMut, BytesMut};

use crate::log::line::{self, Record, Stamp, Stream, Tag};

const BEFORE: &[u8] = b"{\"log\":\"";

/// Appends the records of `output` to `out`; see [`line::format`].
pub(super) fn format(stamp: &Stamp, stream: Stream, output: &[u8], out: &mut BytesMut) {
    let end = [b"\",", &after(stamp, stream)[..]].concat();
    out.reserve(output.len() + output.len() / 8);
    for (payload, tag) in line::pieces(output) {
        out.put_slice(BEFORE);
        escape(payload, out);
        if tag == Tag::Full {
            out.put_slice(b"\\n");
        }
        out.put_slice(&end);
        out.put_slice(b"}\n");
    }
}

/// Appends a record of podrun's own; its `attrs` are what no output gets.
pub(super) fn marker(stamp: &Stamp, stream: Stream, text: &str, out: &mut BytesMut) {
    out.put_slice(BEFORE);
    escape(text.as_bytes(), out);
    out.put_slice(b"\\n\",\"attrs\":{\"podrun\":\"dropped\"},");
    out.put_slice(&after(stamp, stream));
    out.put_slice(b"}\n");
}

/// What follows the text, without the last brace.
fn after(stamp: &Stamp, stream: Stream) -> Vec<u8> {
    [b"\"stream\":\"", &stream.name()[..], b"\",\"time\":\"", stamp.as_bytes(), b"\""].concat()
}

fn escape(payload: &[u8], out: &mut BytesMut) {
    for chunk in payload.utf8_chunks() {
        let text = chunk.valid().as_bytes();
        let mut plain = 0;
        for (index, byte) in text.iter().enumerate() {
            let short: &[u8] = match byte {
                b'"' => b"\\\"",
                b'\\' => b"\\\\",
                b'\t' => b"\\t",
                b'\r' => b"\\r",
                0..=0x1f => b"",
                _ => continue,
            };
            out.put_slice(&text[plain..index]);
            plain = index + 1;
            if short.is_empty() { hex(0, *byte, out) } else { out.put_slice(short) }
        }
        out.put_slice(&text[plain..]);
        for byte in chunk.invalid() {
            hex(0xdc, *byte, out);
        }
    }
}

fn hex(high: u8, low: u8, out: &mut BytesMut) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    out.put_slice(b"\\u");
    for byte in [high, low] {
        out.put_u8(DIGITS[usize::from(byte >> 4)]);
        out.put_u8(DIGITS[usize::from(byte & 15)]);
    }
}

/// The record that `line`, without its newline, is; its payload is put into `text`.
pub(super) fn parse<'a>(line: &'a [u8], text: &'a mut Vec<u8>) -> Option<Record<'a>> {
    let (stream, stamp) = own(line, text).or_else(|| foreign(line, text))?;
    let tag = match text.last() {
        Some(b'\n') => {
            text.pop();
            Tag::Full
        }
        _ => Tag::Partial,
    };
    Some(Record { stamp, stream, tag, payload: text })
}

/// A record as [`format`] writes it.
fn own(line: &[u8], text: &mut Vec<u8>) -> Option<(Stream, Stamp)> {
    const NAME: usize = 6;
    let rest = line.strip_prefix(BEFORE)?.strip_suffix(b"\"}")?;
    let (rest, time) = rest.split_at_checked(rest.len().checked_sub(Stamp::LEN)?)?;
    let rest = rest.strip_suffix(b"\",\"time\":\"")?;
    let (rest, name) = rest.split_at_checked(rest.len().checked_sub(NAME)?)?;
    let payload = rest.strip_suffix(b"\",\"stream\":\"")?;
    text.clear();
    unescape(payload, text)?;
    Some((Stream::named(name)?, Stamp::parse(time)?))
}

/// `None` where a quote stands alone: it is the end of something else.
fn unescape(mut payload: &[u8], text: &mut Vec<u8>) -> Option<()> {
    while let Some(special) = memchr::memchr2(b'\\', b'"', payload) {
        text.extend_from_slice(&payload[..special]);
        let (escape, mut rest) = payload[special..].split_at_checked(2)?;
        match escape {
            b"\\n" => text.push(b'\n'),
            b"\\t" => text.push(b'\t'),
            b"\\r" => text.push(b'\r'),
            b"\\\"" => text.push(b'"'),
            b"\\\\" => text.push(b'\\'),
            b"\\u" => {
                let digits;
                (digits, rest) = rest.split_at_checked(4)?;
                let value = u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
                match value.to_be_bytes() {
                    [0, byte] if byte < 0x20 => text.push(byte),
                    [0xdc, byte] if byte >= 0x80 => text.push(byte),
                    _ => return None,
                }
            }
            _ => return None,
        }
        payload = rest;
    }
    text.extend_from_slice(payload);
    Some(())
}

/// A record as anybody writes it.
fn foreign(line: &[u8], text: &mut Vec<u8>) -> Option<(Stream, Stamp)> {
    #[derive(serde::Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        log: Cow<'a, str>,
        #[serde(borrow)]
        stream: Cow<'a, str>,
        #[serde(borrow)]
        time: Cow<'a, str>,
    }
    let entry: Entry<'_> = serde_json::from_slice(line).ok()?;
    text.clear();
    text.extend_from_slice(entry.log.as_bytes());
    Some((Stream::named(entry.stream.as_bytes())?, Stamp::parse(entry.time.as_bytes())?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamp() -> Stamp {
        Stamp::of("2026-01-02T03:04:05.1Z".parse().unwrap())
    }

    fn formatted(output: &[u8]) -> Vec<u8> {
        let mut out = BytesMut::new();
        format(&stamp(), Stream::Stderr, output, &mut out);
        out.to_vec()
    }

    #[test]
    fn records_look_as_docker_writes_them() {
        let expected = concat!(
            "{\"log\":\"a \\\"b\\\"\\t\\u0000\\n\",\"stream\":\"stderr\",\"time\":\"2026-01-02T03:04:05.100000000Z\"}\n",
            "{\"log\":\"ä\\udcff\",\"stream\":\"stderr\",\"time\":\"2026-01-02T03:04:05.100000000Z\"}\n",
        );
        assert_eq!(String::from_utf8(formatted(b"a \"b\"\t\0\n\xc3\xa4\xff")).unwrap(), expected);
    }

    #[test]
    fn records_of_docker_are_read() {
        let line = b"{\"log\":\"a \\u003c\\n\",\"stream\":\"stdout\",\"attrs\":{\"a\":\"b\"},\"time\":\"2026-01-02T03:04:05.1Z\"}";
        let mut text = Vec::new();
        let record = parse(line, &mut text).unwrap();
        assert_eq!((record.stream, record.tag, record.payload), (Stream::Stdout, Tag::Full, &b"a <"[..]));
        let mut out = BytesMut::new();
        marker(&stamp(), Stream::Stdout, "podrun: \"x\"", &mut out);
        let record = parse(&out[..out.len() - 1], &mut text).unwrap();
        assert_eq!(record.payload, b"podrun: \"x\"");
    }

    proptest! {
        #[test]
        fn every_byte_comes_back(output in prop::collection::vec(any::<u8>(), 0..200)) {
            let file = formatted(&output);
            let (mut back, mut text) = (Vec::new(), Vec::new());
            for line in file.split_inclusive(|byte| *byte == b'\n') {
                let record = parse(&line[..line.len() - 1], &mut text).unwrap();
                prop_assert_eq!((record.stream, record.stamp), (Stream::Stderr, stamp()));
                back.extend_from_slice(record.payload);
                back.extend((record.tag == Tag::Full).then_some(b'\n'));
            }
            prop_assert_eq!(back, output);
        }

        #[test]
        fn text_is_json_for_everybody(output in "\\PC{0,40}") {
            let file = formatted(output.as_bytes());
            for line in file.split_inclusive(|byte| *byte == b'\n') {
                let value: serde_json::Value = serde_json::from_slice(line).unwrap();
                prop_assert!(output.contains(value["log"].as_str().unwrap().trim_end_matches('\n')));
            }
        }

        #[test]
        fn anything_else_is_no_record_and_no_panic(line in prop::collection::vec(any::<u8>(), 0..99), cut in 0usize..90) {
            let mut text = Vec::new();
            prop_assert_eq!(parse(&line, &mut text), None);
            let whole = formatted(b"hello \"wide\" \xff world\n");
            let _ = parse(&whole[..cut.min(whole.len())], &mut text);
        }
    }
}
