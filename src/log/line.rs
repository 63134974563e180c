//! One record of the `k8s-file` format, as kubelet, CRI-O, fluent-bit and podman read it:
//!
//! ```text
//!  2026-01-02T03:04:05.123456789Z stdout F hello\n
//!  └───────── Stamp: 30 ────────┘ stream │ payload, without its newline
//!                                        F the payload's newline follows it in the output
//!                                        P a fragment: the line goes on in the stream's next record
//! ```
//!
//! Nanoseconds always have nine digits and the zone is always `Z`, so that the [`HEADER`] has the
//! same length in every record and stamps compare as text. Other writers' stamps are read too.

use bytes::{BufMut, BytesMut};
use jiff::Timestamp;
use jiff::tz::Offset;

/// The length of everything before the payload.
pub const HEADER: usize = Stamp::LEN + 10;
/// The longest payload that [`format`] puts into one record: what other readers of this format
/// are prepared for. A longer line becomes several fragments.
pub const MAX_PAYLOAD: usize = 16 << 10;

/// Where a line was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// File descriptor 1.
    Stdout,
    /// File descriptor 2.
    Stderr,
}

impl Stream {
    /// Both, in the order of their descriptors.
    pub const ALL: [Self; 2] = [Self::Stdout, Self::Stderr];

    pub(super) fn name(self) -> &'static [u8; 6] {
        match self {
            Self::Stdout => b"stdout",
            Self::Stderr => b"stderr",
        }
    }

    pub(super) fn named(name: &[u8]) -> Option<Self> {
        Self::ALL.into_iter().find(|stream| stream.name() == name)
    }
}

/// Whether a record ends its line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tag {
    /// It does: `F`.
    Full,
    /// The line goes on in the stream's next record: `P`.
    Partial,
}

/// A point in time as the records carry it. Ordered like time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp([u8; Self::LEN]);

impl Stamp {
    /// The length of the text.
    pub const LEN: usize = 30;

    /// The text of `time`. A clock before 1970 reads as 1970.
    pub fn of(time: Timestamp) -> Self {
        let time = Offset::UTC.to_datetime(time.max(Timestamp::UNIX_EPOCH));
        let mut text = *b"0000-00-00T00:00:00.000000000Z";
        // `unsigned_abs`: no field is negative after 1970.
        digits(&mut text[0..4], time.year().unsigned_abs().into());
        digits(&mut text[5..7], time.month().unsigned_abs().into());
        digits(&mut text[8..10], time.day().unsigned_abs().into());
        digits(&mut text[11..13], time.hour().unsigned_abs().into());
        digits(&mut text[14..16], time.minute().unsigned_abs().into());
        digits(&mut text[17..19], time.second().unsigned_abs().into());
        digits(&mut text[20..29], time.subsec_nanosecond().unsigned_abs());
        Self(text)
    }

    /// The text.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Everything before the payload of a record.
    pub fn header(&self, stream: Stream, tag: Tag) -> [u8; HEADER] {
        let mut header = [b' '; HEADER];
        header[..30].copy_from_slice(&self.0);
        header[31..37].copy_from_slice(stream.name());
        header[38] = match tag {
            Tag::Full => b'F',
            Tag::Partial => b'P',
        };
        header
    }

    /// The stamp in `text`: ours as it is, any other RFC 3339 time rewritten.
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        if let Ok(ours) = <[u8; Self::LEN]>::try_from(text)
            && is_ours(&ours)
        {
            return Some(Self(ours));
        }
        Some(Self::of(std::str::from_utf8(text).ok()?.parse().ok()?))
    }
}

fn digits(field: &mut [u8], mut value: u32) {
    for place in field.iter_mut().rev() {
        // `as`: a digit.
        *place = b'0' + (value % 10) as u8;
        value /= 10;
    }
}

fn is_ours(text: &[u8; Stamp::LEN]) -> bool {
    text.iter().zip(b"0000-00-00T00:00:00.000000000Z").all(|(byte, shape)| match shape {
        b'0' => byte.is_ascii_digit(),
        _ => byte == shape,
    })
}

/// Writes the header of one record into `out`.
pub fn header(now: Timestamp, stream: Stream, tag: Tag, out: &mut BytesMut) {
    out.put_slice(&Stamp::of(now).header(stream, tag));
}

/// Appends to `out` the records of `output`, which a container wrote to `stream`: one for each
/// line, and a fragment for what follows the last newline.
pub fn format(stamp: &Stamp, stream: Stream, output: &[u8], out: &mut BytesMut) {
    let full = stamp.header(stream, Tag::Full);
    let records = memchr::memchr_iter(b'\n', output).count() + output.len() / MAX_PAYLOAD + 1;
    out.reserve(output.len() + records * (HEADER + 1));
    let mut start = 0;
    for newline in memchr::memchr_iter(b'\n', output) {
        let last = fragments(stamp, stream, &output[start..newline], out);
        out.put_slice(&full);
        out.put_slice(&output[newline - last..=newline]);
        start = newline + 1;
    }
    let rest = &output[start..];
    let last = fragments(stamp, stream, rest, out);
    if last > 0 {
        out.put_slice(&stamp.header(stream, Tag::Partial));
        out.put_slice(&rest[rest.len() - last..]);
        out.put_u8(b'\n');
    }
}

/// Appends whole fragments of `line` while it is longer than one record; how much of its end
/// remains.
fn fragments(stamp: &Stamp, stream: Stream, mut line: &[u8], out: &mut BytesMut) -> usize {
    while line.len() > MAX_PAYLOAD {
        out.put_slice(&stamp.header(stream, Tag::Partial));
        out.put_slice(&line[..MAX_PAYLOAD]);
        out.put_u8(b'\n');
        line = &line[MAX_PAYLOAD..];
    }
    line.len()
}

/// The payloads that `output` is cut into, and whether a newline follows each: what [`format`] makes
/// records of, and every other format does too.
pub fn pieces(mut output: &[u8]) -> impl Iterator<Item = (&[u8], Tag)> {
    std::iter::from_fn(move || {
        let window = &output[..output.len().min(MAX_PAYLOAD + 1)];
        let (length, newline) = match memchr::memchr(b'\n', window) {
            Some(newline) => (newline, 1),
            None => (output.len().min(MAX_PAYLOAD), 0),
        };
        let piece = &output[..length];
        output = &output[length + newline..];
        let tag = if newline == 1 { Tag::Full } else { Tag::Partial };
        (length + newline > 0).then_some((piece, tag))
    })
}

/// How many bytes of `output` the first `records` records hold that [`format`] makes of it.
pub fn covered(output: &[u8], records: usize) -> usize {
    let length = |(piece, tag): (&[u8], Tag)| piece.len() + usize::from(tag == Tag::Full);
    pieces(output).take(records).map(length).sum()
}

/// The tag of a record that podrun wrote itself: `F:podrun`.
const OWN: &[u8] = b":podrun";

/// Appends a record of podrun's own to `out`. The tag behind its `F` is one that no output gets.
pub fn marker(stamp: &Stamp, stream: Stream, text: &str, out: &mut BytesMut) {
    let header = stamp.header(stream, Tag::Full);
    out.put_slice(&header[..HEADER - 1]);
    out.put_slice(OWN);
    out.put_u8(b' ');
    out.put_slice(text.as_bytes());
    out.put_u8(b'\n');
}

/// One record, read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// When it was logged.
    pub stamp: Stamp,
    /// Where it was written.
    pub stream: Stream,
    /// Whether it ends its line.
    pub tag: Tag,
    /// The bytes, without the newline.
    pub payload: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record that `line`, without its newline, is; `None` where it is none.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let space = memchr::memchr(b' ', line)?;
        let rest = &line[space + 1..];
        let stream = Stream::named(rest.get(..6)?)?;
        let (b' ', rest) = rest[6..].split_first()? else { return None };
        let end = memchr::memchr(b' ', rest)?;
        // Other writers may put more tags behind the first, with a colon between.
        let tag = match (rest.first()?, rest.get(1)?) {
            (b'F', b' ' | b':') => Tag::Full,
            (b'P', b' ' | b':') => Tag::Partial,
            _ => return None,
        };
        Some(Self { stamp: Stamp::parse(&line[..space])?, stream, tag, payload: &rest[end + 1..] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(text: &str) -> Stamp {
        Stamp::of(text.parse().unwrap())
    }

    #[test]
    fn a_header_has_one_length_and_nine_digits() {
        let stamp = at("2026-01-02T03:04:05.1Z");
        assert_eq!(stamp.header(Stream::Stderr, Tag::Partial), *b"2026-01-02T03:04:05.100000000Z stderr P ",);
        assert!(at("1960-01-01T00:00:00Z") == at("1970-01-01T00:00:00Z"));
    }

    #[test]
    fn records_of_other_writers_are_read() {
        let record = Record::parse(b"2026-01-02T04:04:05.5+01:00 stdout F:x hello world").unwrap();
        assert_eq!(record.stamp, at("2026-01-02T03:04:05.5Z"));
        assert_eq!((record.tag, record.payload), (Tag::Full, &b"hello world"[..]));
    }

    #[test]
    fn output_that_imitates_a_record_stays_one_record() {
        let stamp = at("2026-01-02T03:04:05Z");
        let mut out = BytesMut::new();
        format(&stamp, Stream::Stdout, b"2026-01-02T03:04:05.000000000Z stderr F no\n", &mut out);
        let lines: Vec<_> = out[..].split(|byte| *byte == b'\n').collect();
        assert_eq!(lines.len(), 2);
        let record = Record::parse(lines[0]).unwrap();
        assert_eq!(record.stream, Stream::Stdout);
    }

    #[test]
    fn a_long_line_becomes_fragments_and_never_a_longer_record() {
        let mut out = BytesMut::new();
        let line = vec![b'x'; 3 * MAX_PAYLOAD];
        format(&at("2026-01-02T03:04:05Z"), Stream::Stdout, &[&line[..], b"\n"].concat(), &mut out);
        let records: Vec<_> = out[..]
            .split(|byte| *byte == b'\n')
            .filter_map(Record::parse)
            .map(|r| (r.tag, r.payload.len()))
            .collect();
        let (partial, full) = ((Tag::Partial, MAX_PAYLOAD), (Tag::Full, MAX_PAYLOAD));
        assert_eq!(records, [partial, partial, full]);
    }

    #[test]
    fn a_marker_is_a_record_that_output_cannot_imitate() {
        let mut out = BytesMut::new();
        marker(&at("2026-01-02T03:04:05Z"), Stream::Stderr, "podrun: so it is", &mut out);
        assert_eq!(out[..], *b"2026-01-02T03:04:05.000000000Z stderr F:podrun podrun: so it is\n");
        let record = Record::parse(&out[..out.len() - 1]).unwrap();
        assert_eq!(
            (record.stream, record.tag, record.payload),
            (Stream::Stderr, Tag::Full, &b"podrun: so it is"[..])
        );
    }

    proptest! {
        #[test]
        fn the_first_records_cover_the_first_bytes(
            lines in prop::collection::vec((0usize..3, 0usize..40), 0..9), records in 0usize..30, ends: bool,
        ) {
            let mut output: Vec<u8> = lines.iter().flat_map(|(long, more)| {
                [vec![b'x'; long * MAX_PAYLOAD + more], vec![b'\n']].concat()
            }).collect();
            if !ends {
                output.pop();
            }
            let mut out = BytesMut::new();
            format(&at("2026-01-02T03:04:05Z"), Stream::Stdout, &output, &mut out);
            let payload: usize = out.split_inclusive(|byte| *byte == b'\n').take(records).map(|line| {
                let record = Record::parse(&line[..line.len() - 1]).unwrap();
                record.payload.len() + usize::from(record.tag == Tag::Full)
            }).sum();
            prop_assert_eq!(covered(&output, records), payload);
        }

        #[test]
        fn a_record_comes_back_as_it_was_written(
            nanos in 0i128..200_000_000_000_000_000_000, stderr: bool, partial: bool,
            payload in prop::collection::vec(any::<u8>().prop_filter("a newline ends", |b| *b != b'\n'), 0..99),
        ) {
            let stamp = Stamp::of(Timestamp::from_nanosecond(nanos).unwrap());
            let stream = if stderr { Stream::Stderr } else { Stream::Stdout };
            let tag = if partial { Tag::Partial } else { Tag::Full };
            let line = [&stamp.header(stream, tag)[..], &payload].concat();
            prop_assert_eq!(Record::parse(&line), Some(Record { stamp, stream, tag, payload: &payload }));
        }

        #[test]
        fn stamps_order_like_time(a in 0i64..253_370_764_800, b in 0i64..253_370_764_800) {
            let stamp = |seconds| Stamp::of(Timestamp::from_second(seconds).unwrap());
            prop_assert_eq!(stamp(a).cmp(&stamp(b)), a.cmp(&b));
        }

        #[test]
        fn anything_else_is_no_record_and_no_panic(line in prop::collection::vec(any::<u8>(), 0..99)) {
            prop_assert_eq!(Record::parse(&line), None);
        }

        #[test]
        fn a_cut_record_never_panics(cut in 0usize..60) {
            let line = b"2026-01-02T03:04:05.100000000Z stderr P hello, wide and wonderful";
            let _ = Record::parse(&line[..cut.min(line.len())]);
        }
    }
}
