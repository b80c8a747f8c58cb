//! Frames through handlers that pass everything on.

use std::time::Instant;

use divan::counter::ItemsCount;
use divan::{Bencher, black_box};
use rpc_runtime::pipeline::{
    Change, ChannelContext, ChannelHandler, Flow, Handled, Pipeline, Tail, Watermarks,
};
use rpc_runtime::protocol::{Codec, Frame, FrameCodec, Header, Kind, Output};

const HANDLERS: [usize; 3] = [0, 2, 6];
const BODY: [u8; 200] = [7; 200];
const BATCH: usize = 64;

/// A handler that counts frames, similar to the idle handler.
#[derive(Default)]
struct Counts {
    read: u64,
    written: u64,
}

impl ChannelHandler for Counts {
    fn channel_read(&mut self, _: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        self.read += 1;
        Ok(Flow::Next)
    }

    fn write(&mut self, _: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        self.written += 1;
        Ok(Flow::Next)
    }
}

/// The tail, which counts frames.
struct End(usize);

impl<'a> Tail<'a> for End {
    fn read(&mut self, frame: Frame<'a>) {
        self.0 += black_box(frame).body.as_slice().len();
    }
}

fn codec() -> FrameCodec {
    FrameCodec::new(8 << 20)
}

fn frame() -> Frame<'static> {
    Frame::new(Header { id: 7, ..Header::new(Kind::Request) }, &BODY)
}

fn pipeline(handlers: usize, now: Instant) -> Pipeline {
    let mut pipeline = Pipeline::new(codec(), Watermarks::default());
    for _ in 0..handlers {
        let change = Change::add_last(None, Counts::default());
        pipeline.change(change, now, &mut End(0)).unwrap();
    }
    pipeline
}

#[divan::bench(args = HANDLERS)]
fn read_one(bencher: Bencher<'_, '_>, handlers: usize) {
    read(bencher, handlers, 1);
}

#[divan::bench(args = HANDLERS)]
fn read_batch(bencher: Bencher<'_, '_>, handlers: usize) {
    read(bencher, handlers, BATCH);
}

fn read(bencher: Bencher<'_, '_>, handlers: usize, frames: usize) {
    let (now, mut tail, mut out) = (Instant::now(), End(0), Output::default());
    let mut pipeline = pipeline(handlers, now);
    (0..frames).for_each(|_| codec().encode(&frame(), &mut out).unwrap());
    let input = out.to_vec();
    bencher.counter(ItemsCount::new(frames)).bench_local(|| {
        let consumed = pipeline.read(black_box(&input), now, &mut tail);
        assert_eq!(consumed, input.len());
        pipeline.read_complete(now, &mut tail);
    });
}

#[divan::bench(args = HANDLERS)]
fn write_one(bencher: Bencher<'_, '_>, handlers: usize) {
    write(bencher, handlers, 1);
}

#[divan::bench(args = HANDLERS)]
fn write_batch(bencher: Bencher<'_, '_>, handlers: usize) {
    write(bencher, handlers, BATCH);
}

fn write(bencher: Bencher<'_, '_>, handlers: usize, frames: usize) {
    let (now, mut tail) = (Instant::now(), End(0));
    let mut pipeline = pipeline(handlers, now);
    let frame = frame();
    let empty = || {
        let mut out = Output::default();
        out.reserve(frames * (BODY.len() + 32));
        out
    };
    pipeline.take_output(empty());
    bencher.counter(ItemsCount::new(frames)).with_inputs(empty).bench_local_values(|empty| {
        for _ in 0..frames {
            pipeline.write(black_box(&frame).clone(), now, &mut tail).unwrap();
        }
        let output = pipeline.take_output(empty);
        pipeline.written(output.len(), now, &mut tail);
        output
    });
}
