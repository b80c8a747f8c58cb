//! Ten thousand connections for a day, in virtual time: every dead one is found in time, and no
//! live one is cut. What that costs is printed:
//! `cargo test --test pipeline heartbeat_simulation -- --nocapture`.
//!
//! Half of them use either mode. The heartbeat interval is 30 minutes and not the default of one, so
//! that an unoptimised build takes seconds. Nothing but the number of frames depends on it; the costs
//! are given for both.
//!
//! Each channel is a pipeline with the handlers under test. Its peer is modelled as the hardest one
//! there is: it asks nothing by itself, answers pings after a random delay, up to the longest that
//! the timeout allows, and may fall silent for good. Timers run late, as those of the driver do.
#![allow(
    missing_docs,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::print_stdout,
    reason = "all of this is test code, and a failure is to be loud"
)]

use std::any::Any;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use rpc_runtime::handlers::HeartbeatHandler;
use rpc_runtime::pipeline::{Change, Pipeline, Tail, Watermarks};
use rpc_runtime::protocol::{Frame, FrameCodec, HEADER_LEN, Header, Kind, Output};
use rpc_runtime::{Heartbeat, HeartbeatMode};

const CHANNELS: u64 = 10_000;
const MODES: [HeartbeatMode; 2] = [HeartbeatMode::Bidirectional, HeartbeatMode::Client];
const MINUTE: u64 = 60_000;
const DAY: u64 = 24 * 60 * MINUTE;
const INTERVAL: u64 = 30 * MINUTE;
const TIMEOUT: u64 = 3 * INTERVAL;
/// How late a timer may run; that of the driver is up to 5 ms late.
const TICK: u64 = 5;

struct Ignore;
impl<'a> Tail<'a> for Ignore {
    fn read(&mut self, _: Frame<'a>) {}
    fn user_event(&mut self, _: Box<dyn Any + Send>) {}
}

/// Xorshift: the same numbers in each run.
struct Random(u64);

impl Random {
    /// Less than `end`.
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// What happens to a channel; all times are in milliseconds since the start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    /// A timer is to be looked at.
    Timer,
    /// The answer to this ping arrives.
    Pong(u64),
    /// The peer sends something by itself.
    Request,
}

struct Channel {
    /// Which of [`MODES`] it has.
    mode: usize,
    pipeline: Pipeline,
    /// When its timer event is due; events for another time are stale.
    armed: Option<u64>,
    /// When its peer falls silent.
    dies: Option<u64>,
    /// The longest pause between two requests of its peer, if it sends any.
    pause: Option<u64>,
    /// When the last answer that is under way arrives: they do not overtake one another.
    last_pong: u64,
    closed: bool,
}

/// What was done on all channels, but for the traffic itself.
#[derive(Debug, Default)]
struct Cost {
    timers: u64,
    pings: u64,
    pongs: u64,
    channel_hours: f64,
}

struct Simulation {
    started: Instant,
    random: Random,
    channels: Vec<Channel>,
    events: BinaryHeap<Reverse<(u64, usize, Event)>>,
    /// Of each mode.
    costs: [Cost; 2],
}

impl Simulation {
    fn new() -> Self {
        let mut simulation = Self {
            started: Instant::now(),
            random: Random(0x9e37_79b9_7f4a_7c15),
            channels: Vec::new(),
            events: BinaryHeap::new(),
            costs: Default::default(),
        };
        for number in 0..CHANNELS {
            simulation.open(number);
        }
        simulation
    }

    /// One channel in ten dies, at a time that leaves enough of the day to find it. Half of all have
    /// traffic of their own, some of it so sparse that it needs help.
    fn open(&mut self, number: u64) {
        let mode = usize::from(number >= CHANNELS / 2);
        let heartbeat = Heartbeat::default().interval(Duration::from_millis(INTERVAL));
        let heartbeat = heartbeat.mode(MODES[mode]);
        let mut pipeline =
            Pipeline::new(FrameCodec::new(1 << 10).with_max_control(0), Watermarks::default());
        let handler = HeartbeatHandler::client(heartbeat);
        let idle = handler.idle_handler().unwrap();
        for change in [Change::add_last("idle", idle), Change::add_last("heartbeat", handler)] {
            pipeline.change(change, self.started, &mut Ignore).unwrap();
        }
        pipeline.channel_active(self.started, &mut Ignore);
        let dies = number.is_multiple_of(10).then(|| self.random.below(DAY - TIMEOUT - TICK));
        let pause = match number % 4 {
            0 => Some(INTERVAL),
            1 => Some(5 * INTERVAL),
            _ => None,
        };
        let channel =
            Channel { mode, pipeline, armed: None, dies, pause, last_pong: 0, closed: false };
        let at = self.channels.len();
        self.channels.push(channel);
        self.schedule_request(at, 0);
        self.arm(at);
    }

    fn schedule_request(&mut self, at: usize, now: u64) {
        if let Some(pause) = self.channels[at].pause {
            let next = now + 1 + self.random.below(pause);
            self.events.push(Reverse((next, at, Event::Request)));
        }
    }

    fn arm(&mut self, at: usize) {
        let channel = &mut self.channels[at];
        let due = channel.pipeline.poll_timeout().unwrap() - self.started;
        let due = due.as_millis() as u64;
        if channel.armed.is_none_or(|armed| due < armed) {
            let late = due + self.random.below(TICK + 1);
            channel.armed = Some(late);
            self.events.push(Reverse((late, at, Event::Timer)));
        }
    }

    fn run(&mut self) -> Vec<(u64, usize)> {
        let mut found = Vec::new();
        while let Some(Reverse((now, at, event))) = self.events.pop() {
            if now > DAY {
                break;
            }
            let channel = &mut self.channels[at];
            if channel.closed || (event == Event::Timer && channel.armed != Some(now)) {
                continue;
            }
            if event != Event::Timer && channel.dies.is_some_and(|dies| dies <= now) {
                continue;
            }
            self.happens(now, at, event);
            if self.channels[at].pipeline.closing().is_some() {
                self.channels[at].closed = true;
                self.costs[self.channels[at].mode].channel_hours +=
                    now as f64 / (60 * MINUTE) as f64;
                found.push((now, at));
            } else {
                self.arm(at);
            }
        }
        for channel in self.channels.iter().filter(|channel| !channel.closed) {
            self.costs[channel.mode].channel_hours += 24.0;
        }
        found
    }

    fn happens(&mut self, now: u64, at: usize, event: Event) {
        let time = self.started + Duration::from_millis(now);
        let channel = &mut self.channels[at];
        let header = match event {
            Event::Timer => {
                self.costs[channel.mode].timers += 1;
                channel.armed = None;
                channel.pipeline.handle_timeout(time, &mut Ignore);
                self.written(now, at);
                return;
            }
            Event::Pong(id) => {
                self.costs[channel.mode].pongs += 1;
                Header { id, ..Header::new(Kind::Pong) }
            }
            Event::Request => Header::new(Kind::Oneway),
        };
        channel.pipeline.read(&header.encode(), time, &mut Ignore);
        channel.pipeline.read_complete(time, &mut Ignore);
        if event == Event::Request {
            self.schedule_request(at, now);
        }
    }

    /// What was written leaves, and is answered if somebody is there.
    fn written(&mut self, now: u64, at: usize) {
        let channel = &mut self.channels[at];
        if !channel.pipeline.has_output() {
            return;
        }
        let bytes = channel.pipeline.take_output(Output::default()).to_vec();
        let time = self.started + Duration::from_millis(now);
        channel.pipeline.written(bytes.len(), time, &mut Ignore);
        for frame in bytes.chunks(HEADER_LEN) {
            let ping = Header::decode(frame).unwrap().unwrap();
            assert_eq!(ping.kind, Kind::Ping);
            self.costs[channel.mode].pings += 1;
            // Asked an interval and a tick after the last sign of life, at the latest.
            let delay = self.random.below(TIMEOUT - INTERVAL - TICK);
            channel.last_pong = channel.last_pong.max(now + delay);
            self.events.push(Reverse((channel.last_pong, at, Event::Pong(ping.id))));
        }
    }
}

impl Cost {
    fn print(&self, mode: HeartbeatMode) {
        let per_hour = |number: u64| number as f64 / self.channel_hours;
        let frames = self.pings + self.pongs;
        let minutes = INTERVAL / MINUTE;
        println!(
            "{mode:?}, per channel and hour: {:.2} timers, {:.2} frames, {:.0} bytes every \
             {minutes} min; about {:.0} timers, {:.0} frames, {:.0} bytes every minute",
            per_hour(self.timers),
            per_hour(frames),
            per_hour(frames * HEADER_LEN as u64),
            per_hour(self.timers * minutes),
            per_hour(frames * minutes),
            per_hour(frames * minutes * HEADER_LEN as u64),
        );
    }
}

#[test]
fn every_dead_channel_is_found_in_time_and_no_live_one_is_cut() {
    let mut simulation = Simulation::new();
    let found = simulation.run();
    for (closed, at) in &found {
        let channel = &simulation.channels[*at];
        let cause = channel.pipeline.closing().unwrap();
        let dies = channel.dies.unwrap_or_else(|| panic!("{at} was cut alive: {cause}"));
        assert!(dies < *closed, "{at} was cut before it died: {cause}");
        assert!(*closed <= dies + TIMEOUT + TICK, "{at}: {} ms late", closed - dies - TIMEOUT);
    }
    assert_eq!(found.len() as u64, CHANNELS / 10, "dead channels were not found");
    for (mode, cost) in MODES.into_iter().zip(&simulation.costs) {
        let intervals = cost.channel_hours * (60 * MINUTE / INTERVAL) as f64;
        assert!((cost.pings as f64) < 2.0 * intervals, "more than two pings an interval: {cost:?}");
        cost.print(mode);
    }
}
