//! When a connection counts as idle, in virtual time.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "all of this is test code, and a failure is to be loud"
)]

use std::any::Any;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rpc_runtime::RpcError;
use rpc_runtime::handlers::{IdleEvent, IdleHandler, IdleKind};
use rpc_runtime::pipeline::{Change, Pipeline, Tail, Watermarks};
use rpc_runtime::protocol::{Body, Frame, FrameCodec, HEADER_LEN, Header, Kind, Output};

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECOND: Duration = Duration::from_secs(1);

/// `(when, what, first, for how long)`, in milliseconds.
type Seen = (u64, IdleKind, bool, u64);

#[derive(Default)]
struct Events(Vec<IdleEvent>);

impl<'a> Tail<'a> for Events {
    fn read(&mut self, _: Frame<'a>) {}

    fn user_event(&mut self, event: Box<dyn Any + Send>) {
        self.0.push(*event.downcast().unwrap());
    }
}

/// A pipeline with an idle handler, whose reads and writes may be taken apart.
struct Probe {
    pipeline: Pipeline,
    started: Instant,
    now: Instant,
    seen: Vec<Seen>,
}

impl Probe {
    fn new(handler: IdleHandler) -> Self {
        let now = Instant::now();
        let mut pipeline = Pipeline::new(FrameCodec::new(1 << 20), Watermarks::default());
        let mut tail = Events::default();
        pipeline.change(Change::add_last("idle", handler), now, &mut tail).unwrap();
        pipeline.channel_active(now, &mut tail);
        Self { pipeline, started: now, now, seen: Vec::new() }
    }

    fn with<T>(&mut self, act: impl FnOnce(&mut Pipeline, Instant, &mut Events) -> T) -> T {
        let mut tail = Events::default();
        let done = act(&mut self.pipeline, self.now, &mut tail);
        let at = (self.now - self.started).as_millis() as u64;
        self.seen
            .extend(tail.0.into_iter().map(|e| (at, e.kind, e.first, e.idle.as_millis() as u64)));
        done
    }

    fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(due) = self.pipeline.poll_timeout().filter(|due| *due <= end) {
            assert!(due >= self.now, "a timer is set to the past");
            self.now = due;
            self.with(|pipeline, now, tail| pipeline.handle_timeout(now, tail));
            assert_ne!(self.pipeline.poll_timeout(), Some(due), "a timer is not set anew");
        }
        self.now = end;
    }

    /// A frame arrives, and others of its batch are to come.
    fn begin_read(&mut self) {
        let frame = Header::new(Kind::Oneway).encode();
        assert_eq!(self.with(|pipeline, now, tail| pipeline.read(&frame, now, tail)), HEADER_LEN);
    }

    fn end_read(&mut self) {
        self.with(|pipeline, now, tail| pipeline.read_complete(now, tail));
    }

    fn read(&mut self) {
        self.begin_read();
        self.end_read();
    }

    /// A frame of so many bytes waits to be written.
    fn write(&mut self, bytes: usize) {
        let body = vec![0; bytes - HEADER_LEN];
        let frame = Frame { header: Header::new(Kind::Oneway), body: Body::Slice(&body) };
        self.with(|pipeline, now, tail| pipeline.write(frame, now, tail)).unwrap();
        self.pipeline.take_output(Output::default());
    }

    /// The operating system takes so many bytes.
    fn taken(&mut self, bytes: usize) {
        self.with(|pipeline, now, tail| pipeline.written(bytes, now, tail));
    }

    fn write_all(&mut self) {
        self.write(100);
        self.taken(100);
    }

    fn seen(&mut self) -> Vec<Seen> {
        std::mem::take(&mut self.seen)
    }
}

#[derive(Clone, Debug)]
enum Step {
    BeginRead,
    EndRead,
    Write,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        Just(Step::BeginRead),
        Just(Step::EndRead),
        Just(Step::Write),
        (0..40_u64).prop_map(Step::Wait),
        (0..400_u64).prop_map(Step::Wait),
    ]
}

/// What Netty's rules come to, without timers: something is idle at each whole multiple of its
/// timeout since it last happened.
fn reference(timeouts: [u64; 3], steps: &[Step]) -> Vec<Seen> {
    let (mut now, mut read, mut written, mut reading) = (0_u64, 0, 0, false);
    let mut seen = Vec::new();
    for step in steps {
        match step {
            Step::BeginRead => reading = true,
            Step::EndRead => (read, reading) = (now, false),
            Step::Write => written = now,
            Step::Wait(time) => {
                for at in now + 1..=now + time {
                    let kinds = [
                        (IdleKind::Reader, read, reading),
                        (IdleKind::Writer, written, false),
                        (IdleKind::All, read.max(written), reading),
                    ];
                    for ((kind, last, open), timeout) in kinds.into_iter().zip(timeouts) {
                        let idle = at - last;
                        if timeout > 0 && idle > 0 && idle % timeout == 0 && !open {
                            seen.push((at, kind, idle == timeout, idle));
                        }
                    }
                }
                now += time;
            }
        }
    }
    seen
}

proptest! {
    #[test]
    fn events_come_when_and_as_often_as_netty_says(
        timeouts in prop::array::uniform3(0..60_u64),
        steps in prop::collection::vec(step(), 0..40),
    ) {
        let [reader, writer, all] = timeouts.map(MS);
        let mut probe = Probe::new(IdleHandler::new().reader(reader).writer(writer).all(all));
        for step in &steps {
            match step {
                Step::BeginRead => probe.begin_read(),
                Step::EndRead => probe.end_read(),
                Step::Write => probe.write_all(),
                Step::Wait(time) => probe.wait(MS(*time)),
            }
        }
        prop_assert_eq!(probe.seen(), reference(timeouts, &steps));
    }
}

#[test]
fn an_event_is_the_first_until_it_is_repeated_and_again_after_activity() {
    let mut probe = Probe::new(IdleHandler::new().reader(SECOND));
    probe.wait(MS(2_500));
    probe.read();
    probe.wait(MS(1_500));
    let reader = IdleKind::Reader;
    assert_eq!(
        probe.seen(),
        [(1_000, reader, true, 1_000), (2_000, reader, false, 2_000), (3_500, reader, true, 1_000)]
    );
}

#[test]
fn a_timeout_of_zero_or_none_or_beyond_all_time_is_never_due() {
    for timeout in [None, Some(Duration::ZERO), Some(Duration::MAX)] {
        let handler = IdleHandler::new().reader(timeout).writer(timeout).all(timeout);
        let mut probe = Probe::new(handler);
        assert_eq!(probe.pipeline.poll_timeout(), None);
        probe.read();
        probe.write_all();
        probe.wait(SECOND);
        assert_eq!(probe.seen(), []);
    }
}

#[test]
fn nobody_is_idle_while_a_batch_is_read_but_the_writer() {
    let handler = IdleHandler::new().reader(SECOND).writer(SECOND).all(SECOND);
    let mut probe = Probe::new(handler);
    probe.begin_read();
    probe.wait(MS(1_500));
    assert_eq!(probe.seen(), [(1_000, IdleKind::Writer, true, 1_000)]);
    probe.end_read();
    probe.write_all();
    probe.wait(MS(999));
    assert_eq!(probe.seen(), []);
    probe.wait(MS(1));
    assert_eq!(probe.seen().len(), 3);
}

#[test]
fn bytes_without_a_whole_frame_are_a_read() {
    let mut probe = Probe::new(IdleHandler::new().reader(SECOND).all(SECOND));
    for _ in 0..10 {
        probe.wait(MS(900));
        // The first byte of a frame was looked at, and nothing could be made of it.
        probe.end_read();
    }
    assert_eq!(probe.seen(), []);
}

#[test]
fn a_write_of_which_nothing_was_taken_is_no_write() {
    let mut probe = Probe::new(IdleHandler::new().writer(SECOND));
    probe.write(100);
    probe.wait(MS(900));
    probe.taken(0);
    probe.wait(MS(100));
    assert_eq!(probe.seen(), [(1_000, IdleKind::Writer, true, 1_000)]);
}

/// A large frame of which some is taken each 300 ms, then nothing for a while, then the rest.
fn slow_write(handler: IdleHandler) -> Vec<Seen> {
    let mut probe = Probe::new(handler);
    probe.write(100_000);
    for _ in 0..10 {
        probe.wait(MS(300));
        probe.taken(1_000);
    }
    probe.wait(MS(2_500));
    probe.taken(90_000);
    probe.wait(SECOND);
    probe.seen()
}

#[test]
fn a_part_of_a_write_is_no_write() {
    let seen = slow_write(IdleHandler::new().writer(SECOND));
    let when: Vec<_> = seen.iter().map(|(at, _, first, _)| (*at, *first)).collect();
    let repeats = [(2_000, false), (3_000, false), (4_000, false), (5_000, false)];
    assert_eq!(when[0], (1_000, true));
    assert_eq!(when[1..5], repeats);
    assert_eq!(when[5..], [(6_500, true)], "the whole of it is one");
}

#[test]
fn while_the_output_makes_progress_its_observer_hears_nothing_but_the_first_event() {
    let handler = IdleHandler::new().writer(SECOND).all(SECOND).observe_output(true);
    let seen = slow_write(handler);
    for kind in [IdleKind::Writer, IdleKind::All] {
        let when =
            seen.iter().filter(|event| event.1 == kind).map(|(at, _, first, _)| (*at, *first));
        assert_eq!(when.collect::<Vec<_>>(), [(1_000, true), (5_000, false), (6_500, true)]);
    }
}

#[test]
fn frames_behind_one_another_complete_although_the_output_is_never_empty() {
    let mut probe = Probe::new(IdleHandler::new().writer(SECOND));
    probe.write(100);
    for _ in 0..20 {
        probe.write(100);
        probe.wait(MS(300));
        probe.taken(100);
    }
    assert_eq!(probe.seen(), []);
}

#[test]
fn a_closed_connection_is_not_idle() {
    let handler = IdleHandler::new().reader(SECOND).writer(SECOND).all(SECOND);
    let mut probe = Probe::new(handler);
    let closed = RpcError::unavailable("closed");
    probe.with(|pipeline, now, tail| pipeline.channel_inactive(&closed, now, tail));
    assert_eq!(probe.pipeline.poll_timeout(), None);
}
