//! The parts that every byte and every request pass through: `cargo bench --bench parts`.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use jiff::Timestamp;
use podrun::log::line::{Record, Stamp, Stream, format};
use podrun::protocol::frame;
use podrun::protocol::{Exec, Request};
use podrun::sys::program;

fn framing(c: &mut Criterion) {
    let small = Request::Signal { signal: 15, all: false };
    let large = Request::Exec(Box::new(Exec {
        args: (0..20).map(|i| format!("argument-{i}")).collect(),
        env: (0..30).map(|i| format!("VARIABLE_{i}=a value of the usual length")).collect(),
        ..Exec::default()
    }));
    let mut group = c.benchmark_group("framing");
    for (name, request) in [("signal", small), ("exec", large)] {
        let mut buffer = BytesMut::with_capacity(1 << 16);
        group.bench_function(format!("encode {name}"), |b| {
            b.iter(|| {
                buffer.clear();
                frame::encode(black_box(&request), &mut buffer).expect("it fits");
            });
        });
        let wire = buffer.clone();
        group.bench_function(format!("decode {name}"), |b| {
            b.iter(|| {
                buffer.clear();
                buffer.extend_from_slice(&wire);
                frame::decode::<Request>(black_box(&mut buffer)).expect("it is whole")
            });
        });
    }
    group.finish();
}

fn lines(c: &mut Criterion) {
    let stamp = Stamp::of(Timestamp::now());
    let mut group = c.benchmark_group("log lines");
    for length in [10, 100, 1000] {
        // One batch, as it comes from a pipe.
        let batch = [vec![b'x'; length - 1], vec![b'\n']].concat().repeat((1 << 20) / length);
        group.throughput(Throughput::Bytes(batch.len() as u64));
        let mut out = BytesMut::with_capacity(8 << 20);
        group.bench_function(format!("format {length}"), |b| {
            b.iter(|| {
                out.clear();
                format(&stamp, Stream::Stdout, black_box(&batch), &mut out);
            });
        });
        let file = out.clone();
        group.bench_function(format!("parse {length}"), |b| {
            b.iter(|| {
                let records = file.split_inclusive(|byte| *byte == b'\n').map(Record::parse);
                records.filter(|record| black_box(record).is_some()).count()
            });
        });
    }
    group.bench_function("stamp", |b| b.iter(|| Stamp::of(black_box(Timestamp::UNIX_EPOCH))));
    group.finish();
}

/// What keeps podrun's own program from being written: once for each program that is started.
fn protection(c: &mut Criterion) {
    let own = std::fs::File::open("/proc/self/exe").expect("this program");
    c.bench_function("an unwritable image of a program", |b| {
        b.iter(|| program::unwritable(black_box(&own)).expect("as root"));
    });
}

criterion_group!(parts, framing, lines, protection);
criterion_main!(parts);
