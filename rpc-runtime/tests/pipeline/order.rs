//! In which order the handlers of a pipeline see events, held against a model that is nothing but
//! recursion over a list.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::any::Any;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use proptest::prelude::*;
use rpc_runtime::RpcError;
use rpc_runtime::pipeline::{
    Change, ChannelContext, ChannelHandler, EmbeddedChannel, Flow, Handled, Watermarks,
};
use rpc_runtime::protocol::{Frame, FrameCodec, Header, Kind};

// ---- what handlers do ----------------------------------------------------------------------

/// What a handler asks of its context when it sees a frame or an event.
#[derive(Clone, Copy, Debug)]
enum Ask {
    Write,
    ChannelWrite,
    FireRead,
    FireEvent,
    FireException,
}

/// Which of the trait's methods a handler implements.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Implements {
    Nothing,
    Inbound,
    Outbound,
    Both,
}

#[derive(Clone, Debug)]
struct Script {
    implements: Implements,
    on_read: Vec<Ask>,
    on_write: Vec<Ask>,
    on_event: Vec<Ask>,
    /// A bit for each [`Event`] that ends at this handler.
    stops: u16,
}

/// Everything a handler may hear of. Its number is its bit in [`Script::stops`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Event {
    Active,
    Inactive,
    Read,
    ReadComplete,
    User,
    WriteComplete,
    Exception,
    Write,
    Close,
}

impl Event {
    fn is_outbound(self) -> bool {
        matches!(self, Self::Write | Self::Close)
    }
}

impl Script {
    fn implements(&self, event: Event) -> bool {
        match self.implements {
            Implements::Nothing => false,
            Implements::Inbound => !event.is_outbound(),
            Implements::Outbound => event.is_outbound(),
            Implements::Both => true,
        }
    }

    fn flow(&self, event: Event) -> Flow {
        if self.stops >> event as u16 & 1 == 1 { Flow::Stop } else { Flow::Next }
    }

    fn asks(&self, event: Event) -> &[Ask] {
        match event {
            Event::Read => &self.on_read,
            Event::Write => &self.on_write,
            Event::User => &self.on_event,
            _ => &[],
        }
    }
}

/// A number that travels with each frame, event and error. Those of the third generation have no
/// descendants, or a pipeline of handlers that answer each other would never rest.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Tag {
    id: u64,
    generation: u64,
}

impl Tag {
    fn first(id: u64) -> Self {
        Self { id, generation: 0 }
    }

    /// The number of what handler `index` asks for in place `nth` of its script.
    fn child(self, index: usize, nth: usize) -> Option<Self> {
        let id = self.id.wrapping_mul(1009).wrapping_add((index * 31 + nth + 1) as u64);
        (self.generation < 2).then_some(Self { id, generation: self.generation + 1 })
    }

    fn frame(self) -> Frame<'static> {
        Frame::bare(Header { id: self.id, method: self.generation, ..Header::new(Kind::Request) })
    }

    fn of(header: &Header) -> Self {
        Self { id: header.id, generation: header.method }
    }

    fn error(self) -> RpcError {
        RpcError::internal(format!("{}/{}", self.id, self.generation))
    }
}

/// (handler, event, id): what was seen, in order.
type Seen = Vec<(usize, Event, u64)>;

// ---- the real handlers ---------------------------------------------------------------------

#[derive(Clone)]
struct Recorder {
    index: usize,
    script: Script,
    seen: Arc<Mutex<Seen>>,
}

impl Recorder {
    fn see(&self, ctx: &mut ChannelContext<'_>, event: Event, tag: Tag) -> Handled {
        self.seen.lock().unwrap().push((self.index, event, tag.id));
        for (nth, ask) in self.script.asks(event).iter().enumerate() {
            let Some(child) = tag.child(self.index, nth) else { break };
            match ask {
                Ask::Write => ctx.write(child.frame()),
                Ask::ChannelWrite => ctx.channel_write(child.frame()),
                Ask::FireRead => ctx.fire_read(child.frame()),
                Ask::FireEvent => ctx.fire_user_event(child),
                Ask::FireException => ctx.fire_exception(child.error()),
            }
        }
        Ok(self.script.flow(event))
    }
}

struct SeesNothing;
struct SeesInbound(Recorder);
struct SeesOutbound(Recorder);
struct SeesBoth(Recorder);

impl ChannelHandler for SeesNothing {}

macro_rules! inbound {
    () => {
        fn channel_active(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
            self.0.see(ctx, Event::Active, Tag::first(0))
        }
        fn channel_inactive(&mut self, ctx: &mut ChannelContext<'_>, _: &RpcError) -> Handled {
            self.0.see(ctx, Event::Inactive, Tag::first(0))
        }
        fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
            self.0.see(ctx, Event::Read, Tag::of(&frame.header))
        }
        fn channel_read_complete(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
            self.0.see(ctx, Event::ReadComplete, Tag::first(0))
        }
        fn user_event(
            &mut self,
            ctx: &mut ChannelContext<'_>,
            event: &(dyn Any + Send),
        ) -> Handled {
            self.0.see(ctx, Event::User, *event.downcast_ref::<Tag>().unwrap())
        }
        fn write_complete(&mut self, ctx: &mut ChannelContext<'_>, bytes: usize) -> Handled {
            self.0.see(ctx, Event::WriteComplete, Tag::first(bytes as u64))
        }
        fn exception_caught(&mut self, ctx: &mut ChannelContext<'_>, error: &RpcError) -> Flow {
            let id = error.message().split('/').next().unwrap().parse().unwrap();
            self.0.see(ctx, Event::Exception, Tag::first(id)).unwrap()
        }
    };
}

macro_rules! outbound {
    () => {
        fn write(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
            self.0.see(ctx, Event::Write, Tag::of(&frame.header))
        }
        fn close(&mut self, ctx: &mut ChannelContext<'_>, _: &RpcError) -> Handled {
            self.0.see(ctx, Event::Close, Tag::first(0))
        }
    };
}

impl ChannelHandler for SeesInbound {
    inbound!();
}

impl ChannelHandler for SeesOutbound {
    outbound!();
}

impl ChannelHandler for SeesBoth {
    inbound!();
    outbound!();
}

// ---- the model -----------------------------------------------------------------------------

#[derive(Default)]
struct Model {
    scripts: Vec<Script>,
    seen: Seen,
    frames: Vec<Tag>,
    events: Vec<Tag>,
    output: Vec<Tag>,
    closing: bool,
}

impl Model {
    /// One handler's turn: it sees the event, and what it asks for happens before anything else.
    fn turn(&mut self, index: usize, event: Event, tag: Tag) -> Flow {
        let script = self.scripts[index].clone();
        if !script.implements(event) {
            return Flow::Next;
        }
        self.seen.push((index, event, tag.id));
        for (nth, ask) in script.asks(event).iter().enumerate() {
            let Some(child) = tag.child(index, nth) else { break };
            match ask {
                Ask::Write => self.outbound(index, Event::Write, child),
                Ask::ChannelWrite => self.outbound(self.scripts.len(), Event::Write, child),
                Ask::FireRead => self.inbound(index + 1, Event::Read, child),
                Ask::FireEvent => self.inbound(index + 1, Event::User, child),
                Ask::FireException => self.inbound(index + 1, Event::Exception, child),
            }
        }
        script.flow(event)
    }

    fn inbound(&mut self, from: usize, event: Event, tag: Tag) {
        for index in from..self.scripts.len() {
            if self.turn(index, event, tag) == Flow::Stop {
                return;
            }
        }
        match event {
            Event::Read => self.frames.push(tag),
            Event::User => self.events.push(tag),
            Event::Exception => self.closing = true,
            _ => {}
        }
    }

    fn outbound(&mut self, before: usize, event: Event, tag: Tag) {
        for index in (0..before).rev() {
            if self.turn(index, event, tag) == Flow::Stop {
                return;
            }
        }
        match event {
            Event::Write => self.output.push(tag),
            _ => self.closing = true,
        }
    }
}

// ---- the property --------------------------------------------------------------------------

#[derive(Clone, Copy, Debug)]
enum Stimulus {
    Active,
    Inactive,
    Read,
    User,
    Write,
    Drain,
    Close,
}

fn script() -> impl Strategy<Value = Script> {
    let ask = || {
        proptest::sample::select(vec![
            Ask::Write,
            Ask::ChannelWrite,
            Ask::FireRead,
            Ask::FireEvent,
            Ask::FireException,
        ])
    };
    let asks = move || proptest::collection::vec(ask(), 0..3);
    let implements = proptest::sample::select(vec![
        Implements::Nothing,
        Implements::Inbound,
        Implements::Outbound,
        Implements::Both,
        Implements::Both,
    ]);
    // Few stops, or little would reach the far end.
    let stops = (any::<u16>(), any::<u16>()).prop_map(|(a, b)| a & b);
    (implements, asks(), asks(), asks(), stops).prop_map(
        |(implements, on_read, on_write, on_event, stops)| Script {
            implements,
            on_read,
            on_write,
            on_event,
            stops,
        },
    )
}

fn stimulus() -> impl Strategy<Value = Stimulus> {
    use Stimulus::{Active, Close, Drain, Inactive, Read, User, Write};
    proptest::sample::select(vec![
        Active, Inactive, Read, Read, Read, User, User, Write, Write, Write, Drain, Close,
    ])
}

fn unlimited(now: Instant) -> EmbeddedChannel {
    let watermarks = Watermarks { high: usize::MAX, low: 0 };
    EmbeddedChannel::with_codec(now, FrameCodec::new(1 << 20), watermarks)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn handlers_see_inbound_events_head_to_tail_and_outbound_ones_tail_to_head(
        scripts in proptest::collection::vec(script(), 0..6),
        stimuli in proptest::collection::vec(stimulus(), 1..8),
    ) {
        let seen = Arc::new(Mutex::new(Seen::new()));
        let mut channel = unlimited(Instant::now());
        for (index, script) in scripts.iter().enumerate() {
            let recorder = Recorder { index, script: script.clone(), seen: seen.clone() };
            channel.change(match script.implements {
                Implements::Nothing => Change::add_last(None, SeesNothing),
                Implements::Inbound => Change::add_last(None, SeesInbound(recorder)),
                Implements::Outbound => Change::add_last(None, SeesOutbound(recorder)),
                Implements::Both => Change::add_last(None, SeesBoth(recorder)),
            }).unwrap();
        }
        let mut model = Model { scripts, ..Model::default() };
        let mut drained = Vec::new();

        for (nth, stimulus) in stimuli.into_iter().enumerate() {
            let tag = Tag::first(nth as u64 + 1);
            match stimulus {
                Stimulus::Active => {
                    channel.active();
                    model.inbound(0, Event::Active, Tag::first(0));
                }
                Stimulus::Inactive => {
                    channel.inactive(&tag.error());
                    model.inbound(0, Event::Inactive, Tag::first(0));
                }
                Stimulus::Read => {
                    channel.write_inbound(tag.frame());
                    model.inbound(0, Event::Read, tag);
                    model.inbound(0, Event::ReadComplete, Tag::first(0));
                }
                Stimulus::User => {
                    channel.write_user_event(tag);
                    model.inbound(0, Event::User, tag);
                }
                Stimulus::Write => {
                    channel.write_outbound(tag.frame()).unwrap();
                    model.outbound(model.scripts.len(), Event::Write, tag);
                }
                Stimulus::Drain => {
                    let bytes = channel.take_output();
                    if !bytes.is_empty() {
                        model.inbound(0, Event::WriteComplete, Tag::first(bytes.len() as u64));
                    }
                    drained.extend(bytes);
                }
                Stimulus::Close => {
                    channel.close(tag.error());
                    model.outbound(model.scripts.len(), Event::Close, Tag::first(0));
                }
            }
        }

        prop_assert_eq!(&*seen.lock().unwrap(), &model.seen);
        let frames: Vec<_> =
            std::iter::from_fn(|| channel.read_inbound()).map(|f| Tag::of(&f.header)).collect();
        prop_assert_eq!(frames, model.frames, "frames at the tail");
        let events: Vec<_> = std::iter::from_fn(|| channel.read_user_event())
            .map(|event| *event.downcast::<Tag>().unwrap())
            .collect();
        prop_assert_eq!(events, model.events, "events at the tail");
        prop_assert_eq!(channel.pipeline().closing().is_some(), model.closing);
        drained.extend(channel.take_output());
        let output: Vec<_> = drained
            .chunks(rpc_runtime::protocol::HEADER_LEN)
            .map(|bytes| Tag::of(&Header::decode(bytes).unwrap().unwrap()))
            .collect();
        prop_assert_eq!(output, model.output, "frames at the head");
    }
}

// ---- the same, spelled out -----------------------------------------------------------------

fn three(middle: Ask) -> (EmbeddedChannel, Arc<Mutex<Seen>>) {
    let seen = Arc::new(Mutex::new(Seen::new()));
    let mut channel = unlimited(Instant::now());
    for index in 0..3 {
        let script = Script {
            implements: Implements::Both,
            on_read: if index == 1 { vec![middle] } else { Vec::new() },
            on_write: Vec::new(),
            on_event: Vec::new(),
            stops: if index == 1 { 1 << Event::Read as u16 } else { 0 },
        };
        let recorder = Recorder { index, script, seen: seen.clone() };
        channel.change(Change::add_last(None, SeesBoth(recorder))).unwrap();
    }
    (channel, seen)
}

fn who_saw(seen: &Mutex<Seen>, event: Event) -> Vec<usize> {
    seen.lock().unwrap().iter().filter(|seen| seen.1 == event).map(|seen| seen.0).collect()
}

#[test]
fn a_write_of_the_context_starts_at_the_handler_before() {
    let (mut channel, seen) = three(Ask::Write);
    channel.write_inbound(Tag::first(1).frame());
    assert_eq!(who_saw(&seen, Event::Write), [0]);
}

#[test]
fn a_write_of_the_channel_starts_at_the_tail_and_passes_the_writer_itself() {
    let (mut channel, seen) = three(Ask::ChannelWrite);
    channel.write_inbound(Tag::first(1).frame());
    assert_eq!(who_saw(&seen, Event::Write), [2, 1, 0]);
}

#[test]
fn a_fired_frame_starts_at_the_handler_behind() {
    let (mut channel, seen) = three(Ask::FireRead);
    channel.write_inbound(Tag::first(1).frame());
    assert_eq!(who_saw(&seen, Event::Read), [0, 1, 2]);
    assert_eq!(
        channel.read_inbound().map(|frame| frame.header.id),
        Tag::first(1).child(1, 0).map(|t| t.id)
    );
    assert_eq!(channel.read_inbound(), None, "the handler stopped the first frame");
}

#[test]
fn what_a_handler_changes_in_a_frame_is_what_the_next_one_and_the_far_end_see() {
    struct Doubles;
    impl ChannelHandler for Doubles {
        fn channel_read(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
            frame.header.id *= 2;
            Ok(Flow::Next)
        }
        fn write(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
            frame.header.id *= 2;
            Ok(Flow::Next)
        }
    }
    let mut channel = unlimited(Instant::now());
    channel.change(Change::add_last(None, Doubles)).unwrap();
    channel.change(Change::add_last(None, Doubles)).unwrap();
    channel.write_inbound(Tag::first(3).frame());
    channel.write_outbound(Tag::first(5).frame()).unwrap();
    assert_eq!(channel.read_inbound(), Some(Tag::first(12).frame()));
    assert_eq!(channel.read_outbound(), Some(Tag::first(20).frame()));
}

#[test]
fn answers_to_one_batch_of_frames_leave_as_one_output() {
    struct Echo;
    impl ChannelHandler for Echo {
        fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
            ctx.write(frame.clone().into_owned());
            Ok(Flow::Stop)
        }
    }
    let batch: Vec<u8> = (0..300).flat_map(|id| Tag::first(id).frame().header.encode()).collect();
    let mut channel = unlimited(Instant::now());
    channel.change(Change::add_last(None, Echo)).unwrap();
    channel.write_inbound_bytes(&batch);
    assert_eq!(channel.take_output(), batch);
    assert!(!channel.pipeline().has_output());
}
