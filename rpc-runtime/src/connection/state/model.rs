//! The state against random inputs, in virtual time: what must hold whatever comes in whatever order.
//!
//! The bench stands for the channel, its callers, its driver and the socket. Flushes that the state
//! asks for, and writes, are steps of their own, so that others come in between, as other threads do.

use std::collections::{HashMap, HashSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Wake, Waker};
use std::time::{Duration, Instant};

use proptest::prelude::*;

use super::*;
use crate::connection::ChannelSettings;
use crate::connection::streams::{Incoming, Outgoing, Taken, Waiting};
use crate::connection::unwritten::Unwritten;
use crate::error::RpcError;
use crate::handlers::HeartbeatHandler;
use crate::pipeline::Change;
use crate::protocol::{
    Codec, Decoded, Flags, Frame, FrameCodec, HEADER_LEN, Header, Hello, Kind, Output, error_answer,
};
use crate::status::Status;

/// What happens next. Numbers choose among what there is.
#[derive(Clone, Debug)]
enum Step {
    Call {
        bytes: usize,
        deadline: u64,
        oneway: bool,
        upload: bool,
    },
    Poll(usize),
    Drop(usize),
    /// A task keeps its promise to flush, or one begins that the state asked for.
    Flush {
        promise: bool,
    },
    /// The flush that is under way writes: all, a part, or the connection is lost.
    Write(Room),
    /// The driver writes what was left to it, and looks.
    Drive(Room),
    Time(u64),
    Peer(Said),
    Answer {
        at: usize,
        bytes: usize,
    },
    Item {
        at: usize,
        bytes: usize,
    },
    EndItems(usize),
    Take(usize),
    DropItems(usize),
    Drain,
    Goaway,
    Fail,
    Close,
}

#[derive(Clone, Copy, Debug)]
enum Room {
    All,
    Some(usize),
    Lost,
}

/// A frame of the peer.
#[derive(Clone, Debug)]
enum Said {
    Hello { requests: u32, window: u32 },
    Answer { call: usize, bytes: usize, stream: bool },
    Request { id: u64, bytes: usize, oneway: bool, stream: bool },
    Cancel { id: u64 },
    Item { call: usize, bytes: usize },
    End { call: usize },
    Credit { call: usize, bytes: u32 },
    GoAway,
    Error { call: usize },
}

#[derive(Default)]
struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

struct Call {
    id: u64,
    header: Header,
    deadline: Instant,
    body: Output,
    queued: bool,
    /// It has ended, or was dropped.
    over: bool,
    woken: Arc<Woken>,
}

struct Items {
    id: u64,
    outgoing: Arc<Outgoing>,
    waiting: Waiting,
}

struct Bench {
    state: ConnectionState,
    now: Instant,
    calls: Vec<Call>,
    works: Vec<(u64, WorkId)>,
    sending: Vec<Items>,
    receiving: Vec<(u64, Arc<Incoming>)>,
    /// Tasks that have promised to flush.
    promises: usize,
    /// Flushes that the state asked for, not begun.
    flushes: usize,
    /// What a flush is about to write.
    writer: Option<Output>,
    /// What the driver has to write.
    unwritten: Unwritten,
    driver: Arc<Woken>,
    closed: bool,
    wire: Vec<u8>,
    sent: HashSet<u64>,
    /// Credit that the peer gave, and items that it was sent, by stream.
    credit: HashMap<u64, i64>,
    /// Bytes of items that were taken, and that were granted again.
    taken: usize,
    granted: usize,
}

impl Bench {
    fn new() -> Self {
        let settings = ChannelSettings { max_in_flight: 4, ..ChannelSettings::default() };
        let settings = Arc::new(settings);
        let account = settings.budget.open("memory:model");
        let mut state = ConnectionState::new(Arc::clone(&settings), account);
        let now = Instant::now();
        let heartbeat = HeartbeatHandler::new(settings.heartbeat, settings.side, settings.observer);
        state.pipeline(|pipeline, tail| {
            let idle = heartbeat.idle_handler();
            pipeline.change(Change::add_last("idle", idle.unwrap()), now, tail).unwrap();
            pipeline.change(Change::add_last("heartbeat", heartbeat), now, tail).unwrap();
            pipeline.channel_active(now, tail);
        });
        let driver = Arc::new(Woken(AtomicBool::new(true)));
        let mut bench = Self {
            state,
            now,
            driver,
            calls: Vec::new(),
            works: Vec::new(),
            sending: Vec::new(),
            receiving: Vec::new(),
            promises: 0,
            flushes: 0,
            writer: None,
            unwritten: Unwritten::default(),
            closed: false,
            wire: Vec::new(),
            sent: HashSet::new(),
            credit: HashMap::new(),
            taken: 0,
            granted: 0,
        };
        bench.drive(Room::All);
        bench
    }

    /// As `Channel` does it.
    fn change<R>(
        &mut self,
        by_driver: bool,
        change: impl FnOnce(&mut ConnectionState, &mut Effects, Instant) -> R,
    ) -> R {
        let mut effects = Effects::default();
        let result = change(&mut self.state, &mut effects, self.now);
        self.state.conclude(&mut effects);
        if !by_driver {
            self.state.check_driver(&mut effects);
        }
        let tasks = effects.driver.into_iter().chain(effects.caller).chain(effects.wakers);
        tasks.for_each(Waker::wake);
        self.flushes += usize::from(effects.flush.is_some());
        assert!(!(effects.closed && self.closed), "a connection ends once");
        self.closed |= effects.closed;
        result
    }

    fn step(&mut self, step: Step) {
        match step {
            Step::Call { bytes, deadline, oneway, upload } => {
                self.call(bytes, deadline, oneway, upload);
            }
            Step::Poll(at) => self.poll(at),
            Step::Drop(at) => self.drop_call(at),
            Step::Flush { promise } => self.flush(promise),
            Step::Write(room) => self.write(room),
            Step::Drive(room) => self.drive(room),
            Step::Time(millis) => self.now += Duration::from_millis(millis),
            Step::Peer(said) => self.hear(&said),
            Step::Answer { at, bytes } => self.answer(at, bytes),
            Step::Item { at, bytes } => self.send_item(at, bytes),
            Step::EndItems(at) => self.end_items(at),
            Step::Take(at) => self.take_item(at),
            Step::DropItems(at) => self.drop_items(at),
            Step::Drain => drop(self.change(false, |state, effects, _| state.drain(effects))),
            Step::Goaway => self.change(false, |state, effects, now| state.goaway(now, effects)),
            Step::Fail => {
                self.change(false, |state, effects, now| state.fail(why(), now, effects));
            }
            Step::Close => self.close(),
        }
        self.check();
    }

    fn call(&mut self, bytes: usize, deadline: u64, oneway: bool, upload: bool) {
        let kind = if oneway { Kind::Oneway } else { Kind::Request };
        let woken = Arc::<Woken>::default();
        let waker = Waker::from(Arc::clone(&woken));
        let mut call = Call {
            id: 0,
            header: Header::new(kind),
            deadline: self.now + Duration::from_millis(deadline),
            body: Output::from(vec![7; bytes]),
            queued: false,
            over: false,
            woken,
        };
        let (header, deadline) = (call.header, call.deadline);
        let upload = upload && !oneway;
        let begun = self.change(false, |state, effects, now| {
            let mut request = Request { header, body: &mut call.body, deadline, now };
            state.begin_call(&mut request, upload, &waker, effects)
        });
        if let Ok((id, begun)) = begun {
            assert!(!self.closed, "no call begins on a closed connection");
            call.id = id;
            self.begun(&mut call, begun);
            self.calls.push(call);
        }
    }

    fn begun(&mut self, call: &mut Call, begun: Begun) {
        call.queued = matches!(begun, Begun::Queued);
        if let Begun::Sent { promised, outgoing } = begun {
            self.promises += usize::from(promised);
            call.over = call.header.kind == Kind::Oneway;
            let id = call.id;
            let items =
                outgoing.map(|outgoing| Items { id, outgoing, waiting: Waiting::default() });
            self.sending.extend(items);
        }
    }

    /// The task of a call is polled, as it is after each wake-up and at other times.
    fn poll(&mut self, at: usize) {
        let Some(at) = at.checked_rem(self.calls.len()) else { return };
        let mut call = self.calls.swap_remove(at);
        if call.over {
            return;
        }
        let waker = Waker::from(Arc::clone(&call.woken));
        call.woken.0.store(false, Ordering::Relaxed);
        let (header, deadline, id) = (call.header, call.deadline, call.id);
        if call.queued {
            let resumed = self.change(false, |state, effects, now| {
                let mut request = Request { header, body: &mut call.body, deadline, now };
                state.resume_call(id, &mut request, false, &waker, effects)
            });
            match resumed {
                Some(Ok(begun)) => {
                    self.begun(&mut call, begun);
                    self.calls.push(call);
                    return;
                }
                Some(Err(_)) => return,
                None => {}
            }
        }
        let outcome = self.state.poll_call(id, &waker, call.body.small_mut());
        if self.state.account().is_charged() {
            self.change(false, |_, _, _| ());
        }
        match outcome {
            None => self.calls.push(call),
            Some(_) => {
                let again = self.state.poll_call(id, &waker, &mut Vec::new());
                assert!(again.is_none(), "a call ends once");
                self.take_stream(id);
            }
        }
    }

    fn drop_call(&mut self, at: usize) {
        let Some(at) = at.checked_rem(self.calls.len()) else { return };
        let call = self.calls.swap_remove(at);
        if !call.over {
            self.change(false, |state, effects, now| state.drop_call(call.id, now, effects));
            self.take_stream(call.id);
        }
    }

    fn flush(&mut self, promise: bool) {
        let kept = if promise { &mut self.promises } else { &mut self.flushes };
        let Some(left) = kept.checked_sub(1) else { return };
        *kept = left;
        match self.state.begin_flush() {
            Some(output) => {
                assert!(self.writer.replace(output).is_none(), "two write at once");
            }
            None => self.change(false, |_, _, _| ()),
        }
    }

    fn write(&mut self, room: Room) {
        let Some(output) = self.writer.take() else { return };
        let bytes = output.to_vec();
        let (wrote, result) = match room {
            Room::All => (bytes.len(), Ok(true)),
            Room::Some(most) if most < bytes.len() => (most, Ok(false)),
            Room::Some(_) => (bytes.len(), Ok(true)),
            Room::Lost => (0, Err(io::ErrorKind::BrokenPipe.into())),
        };
        self.went_out(&bytes[..wrote]);
        self.writer = self.change(false, |state, effects, now| {
            state.flushed(output, Wrote { bytes: wrote, result, now }, effects)
        });
    }

    /// The driver's turn, if it has been woken or its time has come.
    fn drive(&mut self, room: Room) {
        let due = self.state.driver.armed().is_some_and(|armed| armed <= self.now);
        let writes = !self.unwritten.is_empty();
        if !self.driver.0.swap(false, Ordering::Relaxed) && !due && !writes {
            return;
        }
        self.write_unwritten(room);
        self.look();
        if self.change(true, |state, _, now| state.run_handlers_timers(now, true)) {
            self.look();
        }
    }

    fn write_unwritten(&mut self, room: Room) {
        if self.unwritten.is_empty() {
            return;
        }
        let (output, at) = self.unwritten.remaining();
        let bytes = output.to_vec()[at..].to_vec();
        let wrote = if let Room::Some(most) = room { most.min(bytes.len()) } else { bytes.len() };
        self.went_out(&bytes[..wrote]);
        let mut unwritten = std::mem::take(&mut self.unwritten);
        unwritten.advance(wrote, 1, self.now);
        self.change(true, |state, effects, now| {
            state.unwritten_advanced(&mut unwritten, wrote, now, effects);
        });
        self.unwritten = unwritten;
    }

    fn look(&mut self) {
        let waker = Waker::from(Arc::clone(&self.driver));
        let (left, ends) = self.change(true, |state, effects, now| {
            if state.begin_turn(&waker, now, effects).is_err() {
                return (None, false);
            }
            let left = state.take_unwritten();
            state.wake_awaiting_room(effects);
            state.read_demand(true);
            let closing = state.closing(effects).is_some();
            let ends = if closing { state.is_flushed() } else { state.end_due(now).is_some() };
            state.look_at_output(now, effects);
            let due = state.due().into_iter().chain([state.handlers_due()]).flatten().min();
            state.arm(due);
            assert!(state.take_inbox().is_empty(), "no handler here sends frames to the tail");
            (left, ends)
        });
        if let Some(left) = left {
            assert!(self.unwritten.is_empty(), "two write at once");
            self.unwritten = left;
        }
        if ends {
            self.change(true, |state, effects, _| state.begin_closing(&why(), false, effects));
            self.close();
        }
    }

    /// The driver reads a frame.
    fn hear(&mut self, said: &Said) {
        if self.closed || self.state.pipeline.closing().is_some() {
            return;
        }
        let mut output = Output::default();
        let (header, body) = self.frame(said);
        FrameCodec::new(1 << 20).encode(&Frame::new(header, &body), &mut output).unwrap();
        let bytes = output.to_vec();
        let requests: Vec<_> = self.change(true, |state, effects, now| {
            let input = Input { bytes: &bytes, shared: None, at_most: 8, idle_cores: true, now };
            let mut requests = Vec::new();
            state.read(&input, &mut requests, effects);
            requests.iter().map(|request| request.header).collect()
        });
        for Header { id, kind, flags, .. } in requests {
            let work =
                self.change(true, |state, _, _| state.start_work(id, kind == Kind::Oneway, 9));
            self.works.extend(work.map(|work| (id, work)));
            if flags.contains(Flags::STREAM) {
                self.take_stream(id);
            }
        }
        if let Some(output) = self.state.begin_gathered_flush() {
            assert!(self.writer.replace(output).is_none(), "two write at once");
        }
        self.look();
    }

    fn frame(&mut self, said: &Said) -> (Header, Vec<u8>) {
        let call = |at: usize| {
            let streams = self.sending.iter().map(|items| items.id);
            let others = self.receiving.iter().map(|(id, _)| *id);
            let calls = self.calls.iter().map(|call| call.id);
            let ids: Vec<_> = calls.chain(streams).chain(others).collect();
            at.checked_rem(ids.len()).map_or(9, |at| ids[at])
        };
        match *said {
            Said::Hello { requests, window } => {
                let hello =
                    Hello { max_requests: requests, stream_window: window, ..Hello::default() };
                (Header::new(Kind::Hello), hello.encode().unwrap())
            }
            Said::Answer { call: at, bytes, stream } => {
                let header = Header::response(call(at), Status::Ok);
                let flags = if stream { Flags::STREAM } else { header.flags };
                (Header { flags, ..header }, vec![1; bytes])
            }
            Said::Request { id, bytes, oneway, stream } => {
                let kind = if oneway { Kind::Oneway } else { Kind::Request };
                let header = Header { id, ..Header::new(kind) };
                let flags = if stream { Flags::STREAM } else { header.flags };
                (Header { flags, ..header }, vec![1; bytes])
            }
            Said::Cancel { id } => (Header { id, ..Header::new(Kind::Cancel) }, Vec::new()),
            Said::Item { call: at, bytes } => {
                (Header { id: call(at), ..Header::new(Kind::StreamData) }, vec![2; bytes])
            }
            Said::End { call: at } => {
                (Header { id: call(at), ..Header::new(Kind::StreamEnd) }, Vec::new())
            }
            Said::Credit { call: at, bytes } => {
                let id = call(at);
                *self.credit.entry(id).or_default() += i64::from(bytes);
                (Header { id, ..Header::new(Kind::StreamCredit) }, bytes.to_be_bytes().to_vec())
            }
            Said::GoAway => (Header::new(Kind::GoAway), Vec::new()),
            Said::Error { call: at } => {
                let (header, body) = error_answer(call(at), &why());
                (Header { kind: Kind::Error, ..header }, body)
            }
        }
    }

    fn answer(&mut self, at: usize, bytes: usize) {
        let Some(at) = at.checked_rem(self.works.len()) else { return };
        let (id, work) = self.works.swap_remove(at);
        let body = vec![3; bytes];
        let promised = self.change(false, |state, effects, now| {
            let answer = Frame::new(Header::response(id, Status::Ok), &body);
            state.answer(work, answer, now, effects)
        });
        self.promises += usize::from(promised);
    }

    fn send_item(&mut self, at: usize, bytes: usize) {
        let Some(at) = at.checked_rem(self.sending.len()) else { return };
        let mut items = self.sending.swap_remove(at);
        let waker = Waker::noop();
        let id = items.id;
        let ready = matches!(items.outgoing.poll_credit(waker), Poll::Ready(Ok(())))
            && self.change(false, |state, _, _| state.may_send_item(id, &mut items.waiting, waker));
        if ready {
            items.outgoing.spend(bytes);
            let _ = self.change(false, |state, effects, now| {
                state.send_items(id, &vec![4; bytes], &[bytes], now, effects)
            });
        }
        self.sending.push(items);
    }

    fn end_items(&mut self, at: usize) {
        let Some(at) = at.checked_rem(self.sending.len()) else { return };
        let mut items = self.sending.swap_remove(at);
        let end = Header { kind: Kind::StreamEnd, ..Header::response(items.id, Status::Ok) };
        self.change(false, |state, effects, now| {
            let end = Frame::bare(end);
            state.end_outgoing(&items.outgoing, &mut items.waiting, end, now, effects);
        });
    }

    fn take_stream(&mut self, id: u64) {
        let incoming = self.change(false, |state, _, _| state.take_incoming(id));
        self.receiving.extend(incoming.map(|incoming| (id, incoming)));
    }

    fn take_item(&mut self, at: usize) {
        let Some(at) = at.checked_rem(self.receiving.len()) else { return };
        let (id, incoming) = &self.receiving[at];
        let (id, incoming) = (*id, Arc::clone(incoming));
        let Poll::Ready(Taken::Item { item, grant }) = incoming.poll_take(Waker::noop()) else {
            return;
        };
        self.taken += item.len() + HEADER_LEN;
        self.granted += grant as usize;
        assert!(self.granted <= self.taken, "more is granted than was taken");
        self.change(false, |state, effects, now| {
            state.grant_window(now, effects);
            if grant > 0 {
                state.grant(id, grant, now, effects);
            }
        });
    }

    fn drop_items(&mut self, at: usize) {
        let Some(at) = at.checked_rem(self.receiving.len()) else { return };
        let (id, incoming) = self.receiving.swap_remove(at);
        let ended = incoming.has_ended();
        incoming.drop_items();
        self.change(false, |state, effects, now| {
            state.grant_window(now, effects);
            if !ended {
                state.drop_incoming(id, &incoming, now, effects);
            }
        });
    }

    fn close(&mut self) {
        self.change(false, |state, effects, now| state.close(why(), now, effects));
        // What was taken out to be written goes with the socket.
        self.writer = None;
        self.unwritten = Unwritten::default();
    }

    /// Looks at what the peer reads.
    fn went_out(&mut self, bytes: &[u8]) {
        self.wire.extend_from_slice(bytes);
        let mut codec = FrameCodec::new(1 << 20);
        while let Ok(Decoded::Frame { frame, consumed }) = codec.decode(&self.wire) {
            let Header { kind, id, length, .. } = frame.header;
            self.wire.drain(..consumed);
            match kind {
                Kind::Request => assert!(self.sent.insert(id), "a call is sent once"),
                Kind::StreamData => {
                    let window = 256 << 10;
                    let left = self.credit.entry(id).or_default();
                    assert!(*left + window > 0, "more items than the window has room for");
                    *left -= i64::from(length) + HEADER_LEN as i64;
                }
                _ => {}
            }
        }
    }

    /// What must hold whenever the lock is free.
    fn check(&self) {
        let Self { state, .. } = self;
        let woken = self.driver.0.load(Ordering::Relaxed);
        if self.closed {
            assert!(!state.pipeline.has_output() && state.pipeline.pending_bytes() == 0);
            assert!(state.in_flight.is_idle() && state.flushing.is_empty());
            return;
        }
        let (duty, left) = (&state.flushing.duty, !state.flushing.is_empty());
        let writers = [self.writer.is_some(), left, !self.unwritten.is_empty()];
        let writers = writers.iter().filter(|writes| **writes).count();
        assert_eq!(writers, usize::from(duty.is_writing()), "who writes is known, and one alone");
        assert!(!left || woken, "what is left to the driver, it hears of");
        if state.pipeline.has_output() {
            let promised = duty.is_promised() && self.promises > 0;
            assert!(promised || self.flushes > 0 || duty.is_writing(), "nobody flushes");
        }
        if !woken && self.flushes == 0 && self.writer.is_none() {
            let due = state.due().into_iter().chain([state.handlers_due()]);
            let late = due.flatten().any(|due| state.driver.misses(Some(due)));
            assert!(!late, "the driver wakes too late");
            // Its own timer wakes it.
            let wakes = state.driver.armed().is_some_and(|at| at <= self.now);
            let closing = state.pipeline.closing().is_some();
            let ends = if closing { state.is_flushed() } else { state.may_end(self.now) };
            assert!(!ends || wakes, "the connection may end, and the driver does not know");
        }
    }

    /// All do what they owe, until nothing is left to be done.
    fn settle(&mut self) {
        for _ in 0..1_000 {
            self.flush(true);
            self.flush(false);
            self.write(Room::All);
            self.drive(Room::All);
            self.check();
            let idle = self.promises + self.flushes == 0 && self.writer.is_none();
            if idle && !self.driver.0.load(Ordering::Relaxed) && self.unwritten.is_empty() {
                return;
            }
        }
        panic!("it does not come to rest");
    }
}

fn why() -> RpcError {
    RpcError::unavailable("the model ends it")
}

fn room() -> impl Strategy<Value = Room> {
    prop_oneof![
        6 => Just(Room::All),
        6 => (0usize..100_000).prop_map(Room::Some),
        1 => Just(Room::Lost),
    ]
}

fn said() -> impl Strategy<Value = Said> {
    let bytes = prop_oneof![0usize..200, 10_000usize..90_000];
    let at = 0usize..8;
    prop_oneof![
        1 => (0u32..4, prop_oneof![Just(0u32), 1_000u32..300_000])
            .prop_map(|(requests, window)| Said::Hello { requests, window }),
        8 => (at.clone(), bytes.clone(), any::<bool>())
            .prop_map(|(call, bytes, stream)| Said::Answer { call, bytes, stream }),
        4 => (0u64..5, bytes.clone(), any::<bool>(), any::<bool>())
            .prop_map(|(id, bytes, oneway, stream)| Said::Request { id, bytes, oneway, stream }),
        2 => (0u64..5).prop_map(|id| Said::Cancel { id }),
        6 => (at.clone(), bytes).prop_map(|(call, bytes)| Said::Item { call, bytes }),
        1 => at.clone().prop_map(|call| Said::End { call }),
        3 => (at.clone(), 1u32..200_000).prop_map(|(call, bytes)| Said::Credit { call, bytes }),
        1 => Just(Said::GoAway),
        1 => at.prop_map(|call| Said::Error { call }),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = prop_oneof![0usize..200, 10_000usize..90_000];
    let at = 0usize..8;
    prop_oneof![
        10 => (bytes.clone(), 1u64..50_000, any::<bool>(), any::<bool>()).prop_map(
            |(bytes, deadline, oneway, upload)| Step::Call { bytes, deadline, oneway, upload }
        ),
        8 => at.clone().prop_map(Step::Poll),
        4 => at.clone().prop_map(Step::Drop),
        10 => any::<bool>().prop_map(|promise| Step::Flush { promise }),
        10 => room().prop_map(Step::Write),
        10 => room().prop_map(Step::Drive),
        3 => (0u64..30_000).prop_map(Step::Time),
        20 => said().prop_map(Step::Peer),
        6 => (at.clone(), bytes.clone()).prop_map(|(at, bytes)| Step::Answer { at, bytes }),
        6 => (at.clone(), bytes).prop_map(|(at, bytes)| Step::Item { at, bytes }),
        2 => at.clone().prop_map(Step::EndItems),
        6 => at.clone().prop_map(Step::Take),
        2 => at.prop_map(Step::DropItems),
        1 => Just(Step::Drain),
        1 => Just(Step::Goaway),
        1 => Just(Step::Fail),
        1 => Just(Step::Close),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_output_is_flushed_the_driver_is_in_time_and_each_call_ends_once(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        let mut bench = Bench::new();
        steps.into_iter().for_each(|step| bench.step(step));
        bench.settle();
        // Those that may still go on go on; then the connection ends, and they with it.
        bench.step(Step::Close);
        bench.settle();
        while !bench.calls.is_empty() {
            let left = bench.calls.len();
            bench.poll(0);
            prop_assert!(bench.calls.len() < left, "a call waits on a closed connection");
        }
    }

    #[test]
    fn a_connection_that_drains_ends_once_nothing_is_under_way(
        steps in prop::collection::vec(step(), 1..60)
    ) {
        let mut bench = Bench::new();
        steps.into_iter().for_each(|step| bench.step(step));
        bench.step(Step::Drain);
        while !bench.calls.is_empty() {
            bench.drop_call(0);
        }
        while !bench.works.is_empty() {
            bench.answer(0, 1);
        }
        while !bench.sending.is_empty() {
            bench.end_items(0);
        }
        while !bench.receiving.is_empty() {
            bench.drop_items(0);
        }
        bench.settle();
        // A stream of an answer that nobody took ends with its sender.
        let open = !bench.state.streams.is_empty();
        prop_assert!(bench.closed || open, "it neither works nor ends");
    }
}
