//! Encoding and decoding of headers and frames.

use bytes::Bytes;
use divan::{Bencher, black_box};
use rpc_runtime::protocol::{Body, Codec, Frame, FrameCodec, HEADER_LEN, Header, Kind, Output};

/// A small call, and W3 of `benches/harness`.
const SIZES: [usize; 2] = [200, 1 << 20];

fn header() -> Header {
    Header {
        id: 7,
        method: 0xd4d6_3530_0e53_7aab,
        deadline_ms: 10_000,
        ..Header::new(Kind::Request)
    }
}

fn codec() -> FrameCodec {
    FrameCodec::new(8 << 20)
}

#[divan::bench]
fn header_encode() -> [u8; HEADER_LEN] {
    black_box(header()).encode()
}

#[divan::bench]
fn header_decode(bencher: Bencher<'_, '_>) {
    let bytes = header().encode();
    bencher.bench_local(|| Header::decode(black_box(&bytes)));
}

/// With a payload from a slice, which is copied.
#[divan::bench(args = SIZES)]
fn frame_encode(bencher: Bencher<'_, '_>, size: usize) {
    let body = vec![7; size];
    encode(bencher, &Frame::new(header(), &body), size);
}

/// With a payload that has an owner. Large ones are not copied.
#[divan::bench(args = SIZES)]
fn frame_encode_owned(bencher: Bencher<'_, '_>, size: usize) {
    let body = Body::Owned(Bytes::from(vec![7; size]));
    encode(bencher, &Frame { header: header(), body }, size);
}

/// The output already has its memory, as on a busy connection.
fn encode(bencher: Bencher<'_, '_>, frame: &Frame<'_>, size: usize) {
    let mut codec = codec();
    let empty = || {
        let mut out = Output::default();
        out.reserve(HEADER_LEN + size);
        out
    };
    bencher.with_inputs(empty).bench_local_refs(|out| codec.encode(black_box(frame), out));
}

/// The payload is not copied.
#[divan::bench(args = SIZES)]
fn frame_decode(bencher: Bencher<'_, '_>, size: usize) {
    let mut codec = codec();
    let mut out = Output::default();
    codec.encode(&Frame::new(header(), &vec![7; size]), &mut out).unwrap();
    let bytes = out.to_vec();
    bencher.bench_local(|| assert!(codec.decode(black_box(&bytes)).is_ok()));
}
