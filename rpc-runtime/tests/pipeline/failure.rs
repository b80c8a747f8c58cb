//! What becomes of handlers' errors, and of handlers that never come to rest.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test that can't go on has failed"
)]

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rpc_runtime::RpcError;
use rpc_runtime::pipeline::{
    Change, ChannelContext, ChannelHandler, EmbeddedChannel, Flow, Handled, Watermarks,
};
use rpc_runtime::protocol::{Frame, FrameCodec, HEADER_LEN, Header, Kind};

fn channel() -> EmbeddedChannel {
    EmbeddedChannel::new(Instant::now())
}

fn numbered(id: u64) -> Frame<'static> {
    Frame::bare(Header { id, ..Header::new(Kind::Request) })
}

fn error(what: &str) -> RpcError {
    RpcError::internal(what)
}

type Log = Arc<Mutex<Vec<String>>>;

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock().unwrap())
}

/// Writes down the errors and frames that it sees.
struct Hears {
    label: &'static str,
    flow: Flow,
    log: Log,
}

fn hears(label: &'static str, flow: Flow, log: &Log) -> Hears {
    Hears { label, flow, log: log.clone() }
}

impl ChannelHandler for Hears {
    fn channel_read(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        self.log.lock().unwrap().push(format!("{} read {}", self.label, frame.header.id));
        Ok(Flow::Next)
    }

    fn exception_caught(&mut self, _: &mut ChannelContext<'_>, error: &RpcError) -> Flow {
        self.log.lock().unwrap().push(format!("{} {}", self.label, error.message()));
        self.flow
    }
}

// ---- inbound -------------------------------------------------------------------------------

/// Fails whatever inbound event it is shown, with an error that names it.
struct FailsAll {
    log: Log,
    flow: Flow,
    due: Option<Instant>,
}

impl ChannelHandler for FailsAll {
    fn channel_active(&mut self, _: &mut ChannelContext<'_>) -> Handled {
        Err(error("active"))
    }
    fn channel_inactive(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Handled {
        Err(error("inactive"))
    }
    fn channel_read(&mut self, _: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        Err(error("read"))
    }
    fn channel_read_complete(&mut self, _: &mut ChannelContext<'_>) -> Handled {
        Err(error("read complete"))
    }
    fn user_event(&mut self, _: &mut ChannelContext<'_>, _: &(dyn Any + Send)) -> Handled {
        Err(error("user event"))
    }
    fn writability_changed(&mut self, _: &mut ChannelContext<'_>, writable: bool) -> Handled {
        Err(error(&format!("writable {writable}")))
    }
    fn write_complete(&mut self, _: &mut ChannelContext<'_>, _: usize) -> Handled {
        Err(error("write complete"))
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
    fn handle_timeout(&mut self, _: &mut ChannelContext<'_>) -> Handled {
        self.due = None;
        Err(error("timeout"))
    }
    fn exception_caught(&mut self, _: &mut ChannelContext<'_>, error: &RpcError) -> Flow {
        self.log.lock().unwrap().push(format!("own {}", error.message()));
        self.flow
    }
}

type Happens = fn(&mut EmbeddedChannel);

/// Each inbound event, and what the handler that fails it hears.
fn inbound_events() -> Vec<(Happens, Vec<&'static str>)> {
    vec![
        (EmbeddedChannel::active, vec!["active"]),
        (|channel| channel.inactive(&error("gone")), vec!["inactive"]),
        (|channel| channel.write_inbound(numbered(1)), vec!["read", "read complete"]),
        (|channel| channel.write_user_event(1_u8), vec!["user event"]),
        (|channel| channel.write_outbound(numbered(1)).unwrap(), vec!["writable false"]),
        (
            |channel| {
                channel.write_outbound(numbered(1)).unwrap();
                channel.take_output();
            },
            vec!["writable false", "write complete", "writable true"],
        ),
        (|channel| channel.advance_time_by(Duration::from_secs(1)), vec!["timeout"]),
    ]
}

/// `before`, the one that fails, `later`, over a watermark that each frame exceeds.
fn failing(flow: Flow, log: &Log) -> EmbeddedChannel {
    let now = Instant::now();
    let watermarks = Watermarks { high: 1, low: 1 };
    let mut channel = EmbeddedChannel::with_codec(now, FrameCodec::new(1 << 20), watermarks);
    let fails = FailsAll { log: log.clone(), flow, due: Some(now + Duration::from_millis(1)) };
    channel.change(Change::add_last(None, hears("before", Flow::Next, log))).unwrap();
    channel.change(Change::add_last("fails", fails)).unwrap();
    channel.change(Change::add_last(None, hears("later", Flow::Next, log))).unwrap();
    channel
}

#[test]
fn a_failing_handler_hears_of_it_first_then_the_later_ones_and_the_tail_closes_with_the_cause() {
    for (happens, errors) in inbound_events() {
        let log = Log::default();
        let mut channel = failing(Flow::Next, &log);
        happens(&mut channel);
        let seen: Vec<_> = take(&log).into_iter().filter(|line| line != "before read 1").collect();
        let expected: Vec<_> = errors
            .iter()
            .flat_map(|what| [format!("own {what}"), format!("later {what}")])
            .collect();
        assert_eq!(seen, expected);
        let cause = channel.pipeline().closing().map(RpcError::message);
        assert_eq!(cause, Some(errors[0]), "the first error is the cause");
        assert_eq!(channel.read_inbound(), None, "a failed event ends where it failed");
    }
}

#[test]
fn an_error_that_a_handler_stops_leaves_the_channel_open() {
    for (happens, errors) in inbound_events() {
        let log = Log::default();
        let mut channel = failing(Flow::Stop, &log);
        happens(&mut channel);
        let seen: Vec<_> = take(&log).into_iter().filter(|line| line != "before read 1").collect();
        let expected: Vec<_> = errors.iter().map(|what| format!("own {what}")).collect();
        assert_eq!(seen, expected, "stopped errors go no further");
        assert_eq!(channel.pipeline().closing(), None, "{errors:?}");
        channel.change(Change::remove("fails")).unwrap();
        channel.write_inbound(numbered(9));
        assert_eq!(channel.read_inbound(), Some(numbered(9)), "the channel goes on");
    }
}

#[test]
fn frames_behind_the_one_that_failed_are_read_if_the_error_was_stopped_and_left_alone_if_not() {
    struct FailsFirst(Flow);
    impl ChannelHandler for FailsFirst {
        fn channel_read(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
            if frame.header.id == 1 { Err(error("first")) } else { Ok(Flow::Next) }
        }
        fn exception_caught(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Flow {
            self.0
        }
    }
    let batch = [numbered(1).header.encode(), numbered(2).header.encode()].concat();
    for (flow, frames) in [(Flow::Stop, 1), (Flow::Next, 0)] {
        let mut channel = channel();
        channel.change(Change::add_last(None, FailsFirst(flow))).unwrap();
        channel.write_inbound_bytes(&batch);
        assert_eq!(std::iter::from_fn(|| channel.read_inbound()).count(), frames);
        assert_eq!(channel.pipeline().closing().is_some(), flow == Flow::Next);
    }
}

#[test]
fn what_a_handler_asked_for_before_it_failed_is_done_and_it_may_even_leave() {
    struct LeavesAndFails;
    impl ChannelHandler for LeavesAndFails {
        fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
            ctx.write(numbered(7));
            ctx.remove_self();
            Err(error("read"))
        }
        fn exception_caught(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Flow {
            panic!("it has left");
        }
    }
    let log = Log::default();
    let mut channel = channel();
    channel.change(Change::add_last(None, hears("before", Flow::Stop, &log))).unwrap();
    channel.change(Change::add_last(None, LeavesAndFails)).unwrap();
    channel.change(Change::add_last(None, hears("later", Flow::Stop, &log))).unwrap();
    channel.write_inbound(numbered(1));
    assert_eq!(take(&log), ["before read 1", "later read"]);
    assert_eq!(channel.read_outbound(), Some(numbered(7)));
    assert_eq!(channel.pipeline().closing(), None);
}

#[test]
fn a_fired_error_goes_to_the_later_handlers_only_and_closes_at_the_tail() {
    struct Fires;
    impl ChannelHandler for Fires {
        fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
            ctx.fire_exception(error("fired"));
            Ok(Flow::Next)
        }
        fn exception_caught(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Flow {
            panic!("it is behind");
        }
    }
    let log = Log::default();
    let mut channel = channel();
    channel.change(Change::add_last(None, hears("before", Flow::Stop, &log))).unwrap();
    channel.change(Change::add_last(None, Fires)).unwrap();
    channel.change(Change::add_last(None, hears("later", Flow::Next, &log))).unwrap();
    channel.write_inbound(numbered(1));
    assert_eq!(take(&log), ["before read 1", "later fired", "later read 1"]);
    assert_eq!(channel.pipeline().closing(), Some(&error("fired")));
}

// ---- outbound ------------------------------------------------------------------------------

/// Refuses to write frames with odd numbers; answers frames that it reads.
struct RefusesOdd;

impl ChannelHandler for RefusesOdd {
    fn write(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        if frame.header.id % 2 == 1 { Err(error("odd")) } else { Ok(Flow::Next) }
    }
}

struct Echo;

impl ChannelHandler for Echo {
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        ctx.write(frame.clone().into_owned());
        Ok(Flow::Stop)
    }
}

#[test]
fn a_failing_write_fails_only_that_write() {
    let log = Log::default();
    let mut channel = channel();
    channel.change(Change::add_last(None, RefusesOdd)).unwrap();
    channel.change(Change::add_last(None, hears("any", Flow::Next, &log))).unwrap();
    assert_eq!(channel.write_outbound(numbered(1)), Err(error("odd")));
    assert!(!channel.pipeline().has_output());
    assert_eq!(channel.pipeline().closing(), None);
    assert_eq!(take(&log), [""; 0], "it is no inbound error");
    channel.write_outbound(numbered(2)).unwrap();
    assert_eq!(channel.read_outbound(), Some(numbered(2)));
}

#[test]
fn a_failing_write_of_a_handler_is_told_to_the_tail_by_its_header() {
    let mut channel = channel();
    channel.change(Change::add_last(None, RefusesOdd)).unwrap();
    channel.change(Change::add_last(None, Echo)).unwrap();
    (1..=3).for_each(|id| channel.write_inbound(numbered(id)));
    for id in [1, 3] {
        assert_eq!(channel.read_failed_write(), Some((numbered(id).header, error("odd"))));
    }
    assert!(channel.read_failed_write().is_none());
    assert_eq!(channel.read_outbound(), Some(numbered(2)));
    assert_eq!(channel.read_outbound(), None);
    assert_eq!(channel.pipeline().closing(), None);
}

#[test]
fn a_payload_over_the_limit_fails_that_write_with_size_and_limit_and_leaves_no_bytes() {
    let codec = FrameCodec::new(10);
    let mut channel = EmbeddedChannel::with_codec(Instant::now(), codec, Watermarks::default());
    let refused =
        channel.write_outbound(Frame::new(Header::new(Kind::Request), &[0; 11])).unwrap_err();
    assert!(refused.is_too_large());
    assert!(refused.is_safe_to_retry(), "it has never left");
    assert!(refused.message().contains("11") && refused.message().contains("10"), "{refused}");
    channel.write_outbound(Frame::new(Header::new(Kind::Request), &[0; 10])).unwrap();
    assert_eq!(channel.take_output().len(), HEADER_LEN + 10);
    assert_eq!(channel.pipeline().closing(), None);
}

#[test]
fn a_close_that_a_handler_fails_still_closes_and_one_that_it_stops_waits() {
    struct OnClose(Option<Handled>);
    impl ChannelHandler for OnClose {
        fn close(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Handled {
            self.0.take().unwrap_or(Ok(Flow::Next))
        }
    }
    let mut channel = channel();
    channel.change(Change::add_last(None, OnClose(Some(Err(error("no")))))).unwrap();
    channel.close(error("cause"));
    assert_eq!(channel.pipeline().closing(), Some(&error("cause")));

    let mut channel = self::channel();
    channel.change(Change::add_last(None, OnClose(Some(Ok(Flow::Stop))))).unwrap();
    channel.close(error("early"));
    assert_eq!(channel.pipeline().closing(), None);
    channel.close(error("late"));
    assert_eq!(channel.pipeline().closing(), Some(&error("late")));
    channel.close(error("later still"));
    assert_eq!(channel.pipeline().closing(), Some(&error("late")), "the first cause stays");
}

#[test]
fn frames_behind_the_one_that_made_a_handler_close_are_not_read_but_its_answer_leaves() {
    struct SaysGoodbye;
    impl ChannelHandler for SaysGoodbye {
        fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
            ctx.write(Frame::of_kind(Kind::GoAway));
            ctx.close(error("enough"));
            Ok(Flow::Next)
        }
    }
    let mut channel = channel();
    channel.change(Change::add_last(None, SaysGoodbye)).unwrap();
    let batch = [numbered(1).header.encode(), numbered(2).header.encode()].concat();
    channel.write_inbound_bytes(&batch);
    assert_eq!(channel.read_inbound(), Some(numbered(1)));
    assert_eq!(channel.read_inbound(), None);
    assert_eq!(channel.read_outbound(), Some(Frame::of_kind(Kind::GoAway)));
    assert_eq!(channel.read_outbound(), None);
    assert_eq!(channel.pipeline().closing(), Some(&error("enough")));
}

// ---- handlers without end ------------------------------------------------------------------

fn assert_stopped(channel: &EmbeddedChannel) {
    let cause = channel.pipeline().closing().expect("nobody noticed");
    assert!(cause.is_internal() && cause.message().contains("without end"), "{cause}");
}

/// Answers each write by `answers` more.
struct AnswersItself {
    answers: usize,
}

impl ChannelHandler for AnswersItself {
    fn write(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        (0..self.answers).for_each(|_| ctx.channel_write(frame.clone().into_owned()));
        Ok(Flow::Next)
    }
}

#[test]
fn a_handler_that_answers_itself_without_end_closes_the_channel_and_not_the_process() {
    let mut channel = channel();
    channel.change(Change::add_last("endless", AnswersItself { answers: 1 })).unwrap();
    let _ = channel.write_outbound(numbered(1));
    assert_stopped(&channel);
}

#[test]
fn a_handler_that_answers_itself_twofold_ends_before_the_universe_does() {
    let mut channel = channel();
    channel.change(Change::add_last("endless", AnswersItself { answers: 2 })).unwrap();
    let _ = channel.write_outbound(numbered(1));
    assert_stopped(&channel);
    let frames = channel.take_output().len() / HEADER_LEN;
    assert!(frames < 10_000, "{frames} frames were written");
}

#[test]
fn handlers_that_come_to_rest_are_heard_again_after_one_did_not() {
    let mut channel = channel();
    channel.change(Change::add_last("endless", AnswersItself { answers: 2 })).unwrap();
    let _ = channel.write_outbound(numbered(1));
    channel.take_output();
    channel.change(Change::replace("endless", "echo", Echo)).unwrap();
    channel.write_inbound(Frame::of_kind(Kind::Ping));
    let last = channel.take_output();
    assert_eq!(last, Header::new(Kind::Ping).encode());
}

/// Hands over to another of its kind as soon as it is added.
struct Succeeds;

impl ChannelHandler for Succeeds {
    fn handler_added(&mut self, ctx: &mut ChannelContext<'_>) {
        ctx.change(Change::replace(ctx.name(), "dynasty", Self));
    }
}

#[test]
fn handlers_that_replace_each_other_without_end_close_the_channel_and_not_the_process() {
    let mut by_adding = channel();
    by_adding.change(Change::add_last("dynasty", Succeeds)).unwrap();
    assert_stopped(&by_adding);

    let mut by_replacing = channel();
    by_replacing.change(Change::add_last("dynasty", Echo)).unwrap();
    by_replacing.change(Change::replace("dynasty", "dynasty", Succeeds)).unwrap();
    assert_stopped(&by_replacing);
}

#[test]
fn an_error_handler_that_fails_without_end_closes_the_channel_and_not_the_process() {
    struct Clumsy;
    impl ChannelHandler for Clumsy {
        fn exception_caught(&mut self, ctx: &mut ChannelContext<'_>, _: &RpcError) -> Flow {
            ctx.change(Change::remove("nobody"));
            Flow::Stop
        }
        fn channel_read(&mut self, _: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
            Err(error("read"))
        }
    }
    let mut channel = channel();
    channel.change(Change::add_last(None, Clumsy)).unwrap();
    channel.write_inbound(numbered(1));
    assert_stopped(&channel);
}

#[test]
fn many_answers_to_one_frame_are_no_endless_loop() {
    struct Floods;
    impl ChannelHandler for Floods {
        fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
            (0..10_000).for_each(|id| ctx.channel_write(numbered(id)));
            Ok(Flow::Stop)
        }
    }
    let mut channel = channel();
    channel.change(Change::add_last(None, Floods)).unwrap();
    channel.write_inbound(numbered(1));
    assert_eq!(channel.pipeline().closing(), None);
    assert_eq!(channel.take_output().len(), 10_000 * HEADER_LEN);
}
