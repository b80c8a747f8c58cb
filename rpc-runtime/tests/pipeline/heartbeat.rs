//! Heartbeats between two ends that are joined in memory, in virtual time.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "all of this is test code, and a failure is to be loud"
)]

use std::any::Any;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rpc_runtime::handlers::{HeartbeatHandler, HeartbeatStats, IdleEvent, RefuseUnknown};
use rpc_runtime::pipeline::{Change, EmbeddedChannel, Pipeline, Tail, Watermarks};
use rpc_runtime::protocol::{Frame, FrameCodec, HEADER_LEN, Header, Hello, Kind, Output};
use rpc_runtime::{Heartbeat, HeartbeatMode, RpcError};

const MS: fn(u64) -> Duration = Duration::from_millis;
const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(60 * 60);

fn every(interval: Duration) -> Heartbeat {
    Heartbeat::default().interval(interval)
}

struct Side {
    channel: EmbeddedChannel,
    stats: HeartbeatStats,
    /// Kinds of the frames that it has sent.
    sent: Vec<Kind>,
}

impl Side {
    fn new(now: Instant, handler: HeartbeatHandler) -> Self {
        let stats = handler.stats();
        let mut channel = EmbeddedChannel::new(now);
        if let Some(idle) = handler.idle_handler() {
            channel.change(Change::add_last(HeartbeatHandler::IDLE, idle)).unwrap();
        }
        channel.change(Change::add_last("heartbeat", handler)).unwrap();
        channel.change(Change::add_last("refuse-unknown", RefuseUnknown)).unwrap();
        channel.active();
        Self { channel, stats, sent: Vec::new() }
    }

    fn client(heartbeat: Heartbeat) -> Self {
        Self::new(Instant::now(), HeartbeatHandler::client(heartbeat))
    }

    /// The peer's hello arrives.
    fn greet(&mut self, heartbeat_ms: u32) {
        let mut hello = Hello::default();
        hello.heartbeat_ms = heartbeat_ms;
        let body = rmp_serde::to_vec_named(&hello).unwrap();
        self.channel.write_inbound(Frame::new(Header::new(Kind::Hello), &body));
    }

    fn answer(&mut self, id: u64) {
        self.channel.write_inbound(Frame::bare(Header { id, ..Header::new(Kind::Pong) }));
    }

    fn take_output(&mut self) -> Vec<u8> {
        let bytes = self.channel.take_output();
        self.sent.extend(
            bytes.chunks(HEADER_LEN).map(|frame| Header::decode(frame).unwrap().unwrap().kind),
        );
        bytes
    }

    fn pings(&mut self) -> usize {
        self.take_output();
        std::mem::take(&mut self.sent).iter().filter(|kind| **kind == Kind::Ping).count()
    }

    fn closed(&self) -> Option<&RpcError> {
        self.channel.pipeline().closing()
    }
}

/// Two ends whose bytes cross in no time.
struct Link {
    client: Side,
    server: Side,
}

impl Link {
    fn new(client: Heartbeat, server: Heartbeat) -> Self {
        let now = Instant::now();
        Self {
            client: Side::new(now, HeartbeatHandler::client(client)),
            server: Side::new(now, HeartbeatHandler::server(server)),
        }
    }

    /// Lets time pass, and bytes cross if `cross`. Stops when an end closes.
    fn run(&mut self, time: Duration, cross: bool) {
        let end = self.client.channel.now() + time;
        loop {
            for _ in 0..2 {
                let there = self.client.take_output();
                let back = self.server.take_output();
                if cross && !there.is_empty() {
                    self.server.channel.write_inbound_bytes(&there);
                }
                if cross && !back.is_empty() {
                    self.client.channel.write_inbound_bytes(&back);
                }
            }
            let now = self.client.channel.now();
            if self.client.closed().or(self.server.closed()).is_some() || now == end {
                return;
            }
            let due =
                [&self.client, &self.server].map(|side| side.channel.pipeline().poll_timeout());
            let next = due.into_iter().flatten().min().map_or(end, |due| due.min(end));
            self.client.channel.advance_time_by(next - now);
            self.server.channel.advance_time_by(next - now);
        }
    }
}

#[test]
fn a_quiet_link_stays_open_and_is_asked_once_an_interval() {
    // Frames of both ends, pings and pongs, in an hour.
    for (mode, frames) in [(HeartbeatMode::Bidirectional, 4 * 60), (HeartbeatMode::Client, 2 * 60)]
    {
        let mut link = Link::new(Heartbeat::default().mode(mode), Heartbeat::default().mode(mode));
        link.run(HOUR, true);
        assert_eq!(link.client.closed().or(link.server.closed()), None, "{mode:?}");
        let sent = link.client.sent.len() + link.server.sent.len();
        assert_eq!(sent, frames, "{mode:?}");
        assert_eq!(link.client.stats.state().unanswered, 0, "{mode:?}");
    }
}

#[test]
fn an_end_that_reads_nothing_for_the_timeout_closes_and_says_why() {
    let mut link = Link::new(every(10 * SECOND), every(10 * SECOND));
    link.run(5 * SECOND, true);
    let started = link.client.channel.now();
    link.run(HOUR, false);
    assert_eq!(link.client.channel.now() - started, 25 * SECOND, "nothing was ever read");
    for side in [&link.client, &link.server] {
        let cause = side.closed().unwrap();
        assert!(cause.is_unavailable(), "{cause}");
        let said = "nothing was read for 30s, unanswered pings: 2";
        assert!(cause.message().contains(said), "{cause}");
        assert_eq!(side.stats.state().unanswered, 2);
    }
}

#[test]
fn in_client_mode_the_client_asks_and_either_end_finds_the_other_gone() {
    let heartbeat = every(10 * SECOND).mode(HeartbeatMode::Client);
    let mut link = Link::new(heartbeat, heartbeat);
    link.run(HOUR, true);
    assert_eq!(link.server.pings(), 0);
    assert!(link.client.pings() >= 359);
    link.run(HOUR, false);
    let cause = link.client.closed().unwrap();
    assert!(cause.message().contains("nothing was read for 30s"), "{cause}");

    // The server alone: it does not ask, and gives up.
    let mut server = Side::new(Instant::now(), HeartbeatHandler::server(heartbeat));
    server.channel.advance_time_by(MS(29_999));
    assert!(server.closed().is_none());
    server.channel.advance_time_by(MS(1));
    assert_eq!(server.pings(), 0);
    let cause = server.closed().unwrap();
    assert!(cause.message().contains("nothing was read or written for 30s"), "{cause}");
}

#[test]
fn bytes_without_a_whole_frame_keep_a_link_whose_pings_are_not_answered() {
    let mut client = Side::client(every(10 * SECOND));
    let frame = Header::new(Kind::Oneway).encode();
    for byte in frame.iter().cycle().take(200) {
        client.channel.advance_time_by(25 * SECOND);
        client.take_output();
        client.channel.write_inbound_bytes(&[*byte]);
    }
    assert!(client.closed().is_none());
    assert!(client.stats.state().unanswered > 100);
    client.channel.advance_time_by(30 * SECOND);
    assert!(client.closed().is_some());
}

#[test]
fn an_answer_just_before_the_timeout_keeps_the_link() {
    let mut client = Side::client(every(10 * SECOND));
    for id in 1..100 {
        client.channel.advance_time_by(MS(29_999));
        assert!(client.pings() > 0);
        client.answer(id);
        assert!(client.closed().is_none());
    }
}

#[test]
fn heartbeats_turned_off_are_neither_sent_nor_missed_but_still_answered() {
    let off = Heartbeat::default().mode(HeartbeatMode::Off);
    let mut link = Link::new(off, every(10 * SECOND));
    link.client.greet(10_000);
    link.server.greet(0);
    link.run(HOUR, true);
    assert!(link.client.closed().or(link.server.closed()).is_none());
    assert_eq!((link.client.pings(), link.server.stats.state().unanswered), (0, 0));
    assert!(link.server.pings() >= 359);
    let mut alone = Side::client(off);
    alone.greet(1_000);
    alone.channel.advance_time_by(24 * HOUR);
    assert!(alone.closed().is_none() && alone.channel.pipeline().poll_timeout().is_none());
}

#[test]
fn the_shorter_interval_of_the_two_holds_once_it_is_known() {
    let mut client = Side::client(Heartbeat::default());
    client.greet(10_000);
    client.channel.advance_time_by(MS(9_999));
    assert_eq!(client.pings(), 0);
    client.channel.advance_time_by(MS(1));
    assert_eq!(client.pings(), 1);
    // Only the first hello counts.
    client.greet(1_000);
    client.channel.advance_time_by(MS(9_999));
    assert_eq!(client.pings(), 0);
    client.channel.advance_time_by(MS(20_001));
    assert!(client.closed().is_some());
    let names: Vec<_> = client.channel.pipeline().names().collect();
    assert_eq!(names, ["idle", "heartbeat", "refuse-unknown"]);
}

#[test]
fn a_hello_that_asks_for_a_heartbeat_each_millisecond_gets_one_a_second() {
    let mut client = Side::client(Heartbeat::default());
    client.greet(1);
    let mut pings = 0;
    for id in 1..=60 {
        client.channel.advance_time_by(SECOND);
        pings += client.pings();
        client.answer(id);
    }
    assert_eq!(pings, 60);
}

#[test]
fn who_takes_the_idle_handler_out_keeps_the_connection() {
    let mut client = Side::client(Heartbeat::default());
    client.channel.change(Change::remove("idle")).unwrap();
    client.greet(1_000);
    client.channel.advance_time_by(HOUR);
    assert!(client.closed().is_none());
    assert_eq!(client.pings(), 0);
}

#[test]
fn handlers_behind_see_that_the_connection_is_idle() {
    let mut client = Side::client(every(10 * SECOND));
    client.channel.advance_time_by(10 * SECOND);
    let event = *client.channel.read_user_event().unwrap().downcast::<IdleEvent>().unwrap();
    assert!(event.first && event.idle == 10 * SECOND, "{event:?}");
}

#[test]
fn the_round_trip_is_from_a_ping_to_its_own_answer() {
    let mut client = Side::client(every(10 * SECOND));
    client.channel.advance_time_by(20 * SECOND);
    assert_eq!((client.pings(), client.stats.state().unanswered), (2, 2));
    client.channel.advance_time_by(MS(80));
    client.answer(2);
    let state = client.stats.state();
    assert_eq!((state.sent, state.unanswered, state.last_rtt), (2, 0, Some(MS(80))));
    // The first came too late to say anything.
    client.answer(1);
    assert_eq!(client.stats.state(), state);
    client.channel.advance_time_by(MS(9_920));
    assert_eq!(client.pings(), 1);
    client.channel.advance_time_by(MS(160));
    client.answer(3);
    let state = client.stats.state();
    assert_eq!((state.last_rtt, state.smoothed_rtt), (Some(MS(160)), Some(MS(90))));
}

#[test]
fn answers_to_pings_that_were_never_sent_change_nothing() {
    let mut client = Side::client(every(10 * SECOND));
    client.channel.advance_time_by(10 * SECOND);
    assert_eq!(client.pings(), 1);
    let before = client.stats.state();
    for id in (2..20_000).chain([0, u64::MAX, u64::MAX - 1]) {
        client.answer(id);
    }
    assert_eq!((client.stats.state(), client.pings()), (before, 0));
    assert!(client.closed().is_none() && client.channel.read_inbound().is_none());
}

#[test]
fn a_flood_of_pings_whose_answers_nobody_reads_takes_no_memory() {
    let mut server = Side::new(Instant::now(), HeartbeatHandler::server(Heartbeat::default()));
    let ping = Header { id: 7, ..Header::new(Kind::Ping) }.encode().repeat(1_000);
    for _ in 0..100 {
        server.channel.write_inbound_bytes(&ping);
    }
    let kept = server.take_output().len();
    assert!((HEADER_LEN..2_000).contains(&kept), "{kept} bytes");
    server.channel.write_inbound_bytes(&ping);
    assert!(!server.take_output().is_empty(), "who reads is answered again");
}

#[test]
fn a_peer_that_talks_and_reads_nothing_is_not_sent_pings_for_ever() {
    let mut client = Side::client(every(SECOND));
    for _ in 0..1_000 {
        client.channel.advance_time_by(SECOND);
        client.channel.write_inbound_bytes(&[]);
    }
    assert!(client.closed().is_none());
    let sent = client.stats.state().sent;
    assert!((1..100).contains(&sent), "{sent}");
}

struct Nowhere;
impl<'a> Tail<'a> for Nowhere {
    fn read(&mut self, _: Frame<'a>) {}
    fn user_event(&mut self, _: Box<dyn Any + Send>) {}
}

/// A pipeline with the handlers of one end.
fn pipeline(heartbeat: HeartbeatHandler, now: Instant) -> Pipeline {
    let mut pipeline = Pipeline::new(FrameCodec::new(1 << 20), Watermarks::default());
    let idle = Change::add_last("idle", heartbeat.idle_handler().unwrap());
    pipeline.change(idle, now, &mut Nowhere).unwrap();
    pipeline.change(Change::add_last("heartbeat", heartbeat), now, &mut Nowhere).unwrap();
    pipeline
}

#[test]
fn a_server_that_is_sending_a_large_frame_slowly_does_not_take_its_client_for_gone() {
    let started = Instant::now();
    let heartbeat = every(10 * SECOND).mode(HeartbeatMode::Client);
    let mut pipeline = pipeline(HeartbeatHandler::server(heartbeat), started);
    let body = vec![0; 100_000];
    let frame = Frame::new(Header::new(Kind::Response), &body);
    pipeline.write(frame, started, &mut Nowhere).unwrap();
    pipeline.take_output(Output::default());
    let mut last = started;
    // The client reads, so it has no need to ask.
    for second in (25..500).step_by(25) {
        last = started + second * SECOND;
        run_timers(&mut pipeline, last);
        assert!(pipeline.closing().is_none());
        pipeline.written(1_000, last, &mut Nowhere);
    }
    run_timers(&mut pipeline, last + 30 * SECOND - MS(1));
    assert!(pipeline.closing().is_none());
    run_timers(&mut pipeline, last + 30 * SECOND);
    assert!(pipeline.closing().is_some());
}

fn run_timers(pipeline: &mut Pipeline, until: Instant) {
    while let Some(due) = pipeline.poll_timeout().filter(|due| *due <= until) {
        pipeline.handle_timeout(due, &mut Nowhere);
        if pipeline.closing().is_some() {
            return;
        }
    }
}

#[test]
fn an_end_that_was_held_up_for_long_asks_before_it_gives_up() {
    let started = Instant::now();
    let heartbeat = HeartbeatHandler::client(every(10 * SECOND));
    let mut pipeline = pipeline(heartbeat, started);
    // No timer has run for an hour.
    pipeline.handle_timeout(started + HOUR, &mut Nowhere);
    assert!(pipeline.closing().is_none());
    assert_eq!(pipeline.take_output(Output::default()).len(), HEADER_LEN);
    // There is time for an answer.
    assert_eq!(pipeline.poll_timeout(), Some(started + HOUR + 10 * SECOND));
    pipeline.handle_timeout(started + HOUR + 9 * SECOND, &mut Nowhere);
    assert!(pipeline.closing().is_none());
    pipeline.handle_timeout(started + HOUR + 10 * SECOND, &mut Nowhere);
    let cause = pipeline.closing().unwrap();
    assert!(cause.message().contains("nothing was read for 3610s"), "{cause}");
}

/// Settings, and what the peer is told of them.
fn heartbeat() -> impl Strategy<Value = (Heartbeat, u32)> {
    let mode = prop_oneof![
        Just(HeartbeatMode::Bidirectional),
        Just(HeartbeatMode::Client),
        Just(HeartbeatMode::Off)
    ];
    let interval = prop_oneof![100..1_000_u32, 1_000..100_000_u32];
    (mode, interval, 20..60_u32).prop_map(|(mode, ms, tenths)| {
        let interval = MS(ms.into());
        let heartbeat = every(interval).mode(mode).timeout(interval * tenths / 10);
        (heartbeat, if mode == HeartbeatMode::Off { 0 } else { ms })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn settings_that_do_not_match_never_cut_a_healthy_link(
        (client, client_ms) in heartbeat(),
        (server, server_ms) in heartbeat(),
    ) {
        let mut link = Link::new(client, server);
        link.server.greet(client_ms);
        link.client.greet(server_ms);
        link.run(600 * SECOND, true);
        prop_assert_eq!(link.client.closed().or(link.server.closed()), None);
    }
}
