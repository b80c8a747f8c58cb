//! Writability, read control and timers, in virtual time.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rpc_runtime::RpcError;
use rpc_runtime::pipeline::{
    Change, ChannelContext, ChannelHandler, EmbeddedChannel, Flow, Handled, Pipeline, Tail,
    Watermarks,
};
use rpc_runtime::protocol::{Frame, FrameCodec, HEADER_LEN, Header, Kind, Output};

const SECOND: Duration = Duration::from_secs(1);

fn with_watermarks(high: usize, low: usize) -> EmbeddedChannel {
    let watermarks = Watermarks { high, low };
    EmbeddedChannel::with_codec(Instant::now(), FrameCodec::new(1 << 20), watermarks)
}

type Log<T> = Arc<Mutex<Vec<T>>>;

fn take<T>(log: &Log<T>) -> Vec<T> {
    std::mem::take(&mut *log.lock().unwrap())
}

// ---- writability ---------------------------------------------------------------------------

/// What the handler heard, and what its context said at that moment.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Heard {
    Writable { event: bool, context: bool, pending: usize },
    Complete { bytes: usize, pending: usize },
}

struct Listens(Log<Heard>);

impl ChannelHandler for Listens {
    fn writability_changed(&mut self, ctx: &mut ChannelContext<'_>, writable: bool) -> Handled {
        self.0.lock().unwrap().push(Heard::Writable {
            event: writable,
            context: ctx.is_writable(),
            pending: ctx.pending_bytes(),
        });
        Ok(Flow::Next)
    }

    fn write_complete(&mut self, ctx: &mut ChannelContext<'_>, bytes: usize) -> Handled {
        self.0.lock().unwrap().push(Heard::Complete { bytes, pending: ctx.pending_bytes() });
        Ok(Flow::Next)
    }
}

/// Nothing reaches it in these tests.
struct Void;

impl<'a> Tail<'a> for Void {
    fn read(&mut self, _: Frame<'a>) {}
}

#[test]
fn the_watermarks_are_those_of_netty_unless_set() {
    assert_eq!(Watermarks::default(), Watermarks { high: 65536, low: 32768 });
}

#[test]
fn writability_changes_above_high_and_below_low_and_not_at_them() {
    let now = Instant::now();
    let log = Log::default();
    let watermarks = Watermarks { high: 3 * HEADER_LEN, low: 2 * HEADER_LEN };
    let mut pipeline = Pipeline::new(FrameCodec::new(1 << 20), watermarks);
    pipeline.change(Change::add_last(None, Listens(log.clone())), now, &mut Void).unwrap();
    let write = |pipeline: &mut Pipeline| {
        pipeline.write(Frame::of_kind(Kind::Ping), now, &mut Void).unwrap();
    };

    (0..3).for_each(|_| write(&mut pipeline));
    assert_eq!(take(&log), [], "at the high watermark");
    assert!(pipeline.is_writable());
    write(&mut pipeline);
    let pending = 4 * HEADER_LEN;
    assert_eq!(take(&log), [Heard::Writable { event: false, context: false, pending }]);
    assert!(!pipeline.is_writable());
    write(&mut pipeline);
    assert_eq!(take(&log), [], "said once");

    pipeline.written(3 * HEADER_LEN, now, &mut Void);
    let pending = 2 * HEADER_LEN;
    let complete = Heard::Complete { bytes: 3 * HEADER_LEN, pending };
    assert_eq!(take(&log), [complete], "at the low watermark");
    assert!(!pipeline.is_writable());
    pipeline.written(1, now, &mut Void);
    let pending = 2 * HEADER_LEN - 1;
    assert_eq!(
        take(&log),
        [
            Heard::Complete { bytes: 1, pending },
            Heard::Writable { event: true, context: true, pending },
        ]
    );
    assert!(pipeline.is_writable());
    pipeline.written(pending, now, &mut Void);
    assert_eq!(take(&log), [Heard::Complete { bytes: pending, pending: 0 }], "said once");
}

#[test]
fn bytes_taken_out_count_as_pending_until_they_are_written() {
    let now = Instant::now();
    let watermarks = Watermarks { high: HEADER_LEN, low: HEADER_LEN };
    let mut pipeline = Pipeline::new(FrameCodec::new(1 << 20), watermarks);
    for _ in 0..2 {
        pipeline.write(Frame::of_kind(Kind::Ping), now, &mut Void).unwrap();
    }
    assert_eq!(pipeline.take_output(Output::default()).len(), 2 * HEADER_LEN);
    assert!(!pipeline.has_output());
    assert!(!pipeline.is_writable());
    pipeline.written(2 * HEADER_LEN, now, &mut Void);
    assert!(pipeline.is_writable());
}

#[test]
fn a_refused_write_is_not_pending() {
    let log = Log::default();
    let mut channel = EmbeddedChannel::with_codec(
        Instant::now(),
        FrameCodec::new(4),
        Watermarks { high: 0, low: 1 },
    );
    channel.change(Change::add_last(None, Listens(log.clone()))).unwrap();
    channel.write_outbound(Frame::new(Header::new(Kind::Request), &[0; 5])).unwrap_err();
    assert_eq!(take(&log), []);
}

proptest! {
    #[test]
    fn writability_events_alternate_and_tell_the_truth(
        steps in proptest::collection::vec(
            prop_oneof![
                (0..200_usize).prop_map(Ok), // a payload to write
                (0..400_usize).prop_map(Err), // bytes that the operating system takes
            ],
            0..60,
        ),
        low in 1..300_usize,
        above in 0..300_usize,
    ) {
        let now = Instant::now();
        let log = Log::default();
        let watermarks = Watermarks { high: low + above, low };
        let mut pipeline = Pipeline::new(FrameCodec::new(1 << 20), watermarks);
        pipeline.change(Change::add_last(None, Listens(log.clone())), now, &mut Void).unwrap();
        let (mut pending, mut writable) = (0, true);
        for step in steps {
            let mut expected = Vec::new();
            let changed = match step {
                Ok(length) => {
                    let body = vec![0; length];
                    let frame = Frame::new(Header::new(Kind::Request), &body);
                    pipeline.write(frame, now, &mut Void).unwrap();
                    pending += HEADER_LEN + length;
                    writable && pending > watermarks.high
                }
                Err(bytes) => {
                    let bytes = bytes.min(pending);
                    pipeline.written(bytes, now, &mut Void);
                    pending -= bytes;
                    expected.push(Heard::Complete { bytes, pending });
                    !writable && pending < low
                }
            };
            if changed {
                writable = !writable;
                expected.push(Heard::Writable { event: writable, context: writable, pending });
            }
            prop_assert_eq!(take(&log), expected);
            prop_assert_eq!(pipeline.is_writable(), writable);
        }
    }
}

#[test]
fn a_handler_that_fills_the_output_as_soon_as_it_may_leaves_no_one_with_a_stale_answer() {
    /// Writes when it may, far more than the watermark.
    struct Greedy;
    impl ChannelHandler for Greedy {
        fn writability_changed(&mut self, ctx: &mut ChannelContext<'_>, writable: bool) -> Handled {
            if writable {
                (0..10).for_each(|_| ctx.write(Frame::of_kind(Kind::Ping)));
            }
            Ok(Flow::Next)
        }
    }
    let log = Log::default();
    let mut channel = with_watermarks(2 * HEADER_LEN, HEADER_LEN);
    channel.change(Change::add_last(None, Greedy)).unwrap();
    channel.change(Change::add_last(None, Listens(log.clone()))).unwrap();
    (0..3).for_each(|_| channel.write_outbound(Frame::of_kind(Kind::Ping)).unwrap());
    channel.take_output();
    assert!(!channel.pipeline().is_writable());
    let last = take(&log).into_iter().rev().find_map(|heard| match heard {
        Heard::Writable { event, .. } => Some(event),
        Heard::Complete { .. } => None,
    });
    assert_eq!(last, Some(false), "the later handler believes it may write");
}

// ---- read control --------------------------------------------------------------------------

#[test]
fn auto_read_is_off_from_when_a_handler_turns_it_off_until_one_turns_it_on() {
    struct Busy;
    impl ChannelHandler for Busy {
        fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
            ctx.set_auto_read(false);
            Ok(Flow::Next)
        }
        fn write(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
            ctx.set_auto_read(true);
            Ok(Flow::Next)
        }
    }
    let mut channel = EmbeddedChannel::new(Instant::now());
    channel.change(Change::add_last(None, Busy)).unwrap();
    assert!(channel.pipeline().auto_read());
    channel.write_inbound(Frame::of_kind(Kind::Request));
    assert!(!channel.pipeline().auto_read());
    channel.write_outbound(Frame::of_kind(Kind::Response)).unwrap();
    assert!(channel.pipeline().auto_read());
}

// ---- timers --------------------------------------------------------------------------------

/// Fires at each of its times, and writes down when that was.
struct Timer {
    label: usize,
    due: Vec<Instant>,
    fails: bool,
    log: Log<(usize, Instant)>,
}

impl ChannelHandler for Timer {
    fn poll_timeout(&self) -> Option<Instant> {
        self.due.iter().min().copied()
    }

    fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        let now = ctx.now();
        self.log.lock().unwrap().push((self.label, now));
        let first = self.poll_timeout();
        let at = self.due.iter().position(|due| Some(*due) == first).unwrap();
        self.due.remove(at);
        if self.fails { Err(RpcError::internal("late")) } else { Ok(Flow::Stop) }
    }

    fn exception_caught(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Flow {
        Flow::Stop
    }
}

proptest! {
    #[test]
    fn timers_run_in_the_order_they_are_due_each_at_its_own_time_even_if_some_fail(
        handlers in proptest::collection::vec(
            // No handler has two timers at one time: one call serves both.
            (proptest::collection::btree_set(1..50_u64, 0..5), any::<bool>()),
            0..5,
        ),
        advances in proptest::collection::vec(0..30_u64, 1..5),
    ) {
        let start = Instant::now();
        let log = Log::default();
        let mut channel = EmbeddedChannel::new(start);
        let mut timers = Vec::new();
        for (label, (seconds, fails)) in handlers.into_iter().enumerate() {
            let due: Vec<_> = seconds.into_iter().map(|s| start + SECOND * s as u32).collect();
            timers.extend(due.iter().map(|due| (*due, label)));
            let timer = Timer { label, due, fails, log: log.clone() };
            channel.change(Change::add_last(None, timer)).unwrap();
        }
        timers.sort_unstable();
        let mut end = start;
        for advance in advances {
            let before = end;
            end += SECOND * advance as u32;
            channel.advance_time_by(SECOND * advance as u32);
            prop_assert_eq!(channel.now(), end);
            let expected: Vec<_> = timers
                .iter()
                .filter(|(due, _)| before < *due && *due <= end)
                .map(|(due, label)| (*label, *due))
                .collect();
            prop_assert_eq!(take(&log), expected);
            let next = timers.iter().map(|(due, _)| *due).find(|due| *due > end);
            prop_assert_eq!(channel.pipeline().poll_timeout(), next);
        }
        prop_assert_eq!(channel.pipeline().closing(), None);
    }
}

#[test]
fn a_timer_that_re_arms_itself_runs_once_for_each_period() {
    struct Ticks(Instant, Log<Instant>);
    impl ChannelHandler for Ticks {
        fn poll_timeout(&self) -> Option<Instant> {
            Some(self.0)
        }
        fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
            self.1.lock().unwrap().push(ctx.now());
            ctx.write(Frame::of_kind(Kind::Ping));
            self.0 = ctx.now() + SECOND;
            Ok(Flow::Next)
        }
    }
    let start = Instant::now();
    let log = Log::default();
    let mut channel = EmbeddedChannel::new(start);
    channel.change(Change::add_last(None, Ticks(start + SECOND, log.clone()))).unwrap();
    channel.advance_time_by(SECOND - Duration::from_nanos(1));
    assert_eq!(take(&log), []);
    channel.advance_time_by(Duration::from_nanos(1));
    assert_eq!(take(&log), [start + SECOND]);
    channel.advance_time_by(3 * SECOND);
    assert_eq!(take(&log), [start + 2 * SECOND, start + 3 * SECOND, start + 4 * SECOND]);
    assert_eq!(std::iter::from_fn(|| channel.read_outbound()).count(), 4);
}

#[test]
fn a_timer_that_is_never_done_does_not_stop_the_clock() {
    struct Stuck(Instant);
    impl ChannelHandler for Stuck {
        fn poll_timeout(&self) -> Option<Instant> {
            Some(self.0)
        }
    }
    let start = Instant::now();
    let mut channel = EmbeddedChannel::new(start);
    channel.change(Change::add_last(None, Stuck(start))).unwrap();
    channel.advance_time_by(SECOND);
    assert_eq!(channel.now(), start + SECOND);
}

#[test]
fn a_timer_that_is_due_runs_although_one_before_it_failed_or_left() {
    /// Leaves the pipeline, and fails on top of it.
    struct Leaves(Instant);
    impl ChannelHandler for Leaves {
        fn poll_timeout(&self) -> Option<Instant> {
            Some(self.0)
        }
        fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
            ctx.remove_self();
            Err(RpcError::internal("late"))
        }
    }
    let now = Instant::now();
    let log = Log::default();
    let timer = |label, fails| Timer { label, due: vec![now], fails, log: log.clone() };
    let mut pipeline = Pipeline::new(FrameCodec::new(1 << 20), Watermarks::default());
    let mut add = |change| pipeline.change(change, now, &mut Void).unwrap();
    add(Change::add_last(None, timer(0, true)));
    add(Change::add_last("leaves", Leaves(now)));
    add(Change::add_last(None, timer(1, true)));
    add(Change::add_last(None, timer(2, false)));
    pipeline.handle_timeout(now, &mut Void);
    assert_eq!(take(&log), [(0, now), (1, now), (2, now)]);
    assert_eq!(pipeline.closing(), None);
}
