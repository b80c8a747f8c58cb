//! Handlers that come, go and are replaced while the pipeline is in use, held against a model that
//! is Netty's: a doubly linked list in which a handler that has left still knows its neighbours.

#![allow(clippy::unwrap_used, reason = "a test that can't go on has failed")]

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use proptest::prelude::*;
use rpc_runtime::RpcError;
use rpc_runtime::pipeline::{
    Change, ChannelContext, ChannelHandler, EmbeddedChannel, Flow, Handled,
};
use rpc_runtime::protocol::{Frame, Header, Kind};

fn channel() -> EmbeddedChannel {
    EmbeddedChannel::new(Instant::now())
}

fn numbered(id: u64) -> Frame<'static> {
    Frame::bare(Header { id, ..Header::new(Kind::Request) })
}

fn names(channel: &EmbeddedChannel) -> Vec<&str> {
    channel.pipeline().names().collect()
}

fn inbound_ids(channel: &mut EmbeddedChannel) -> Vec<u64> {
    std::iter::from_fn(|| channel.read_inbound()).map(|frame| frame.header.id).collect()
}

fn outbound_ids(channel: &mut EmbeddedChannel) -> Vec<u64> {
    std::iter::from_fn(|| channel.read_outbound()).map(|frame| frame.header.id).collect()
}

type Log = Arc<Mutex<Vec<String>>>;

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut *log.lock().unwrap())
}

/// A handler that writes down what it sees, and at its first read or write makes changes.
struct Actor {
    label: String,
    log: Log,
    on_read: Vec<Change>,
    on_write: Vec<Change>,
}

impl Actor {
    fn passive(label: &str, log: &Log) -> Self {
        Self { label: label.into(), log: log.clone(), on_read: Vec::new(), on_write: Vec::new() }
    }

    fn reading(label: &str, log: &Log, on_read: Vec<Change>) -> Self {
        Self { on_read, ..Self::passive(label, log) }
    }

    fn writing(label: &str, log: &Log, on_write: Vec<Change>) -> Self {
        Self { on_write, ..Self::passive(label, log) }
    }

    fn note(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{} {what}", self.label));
    }
}

impl ChannelHandler for Actor {
    fn handler_added(&mut self, _: &mut ChannelContext<'_>) {
        self.note("added");
    }

    fn handler_removed(&mut self, _: &mut ChannelContext<'_>) {
        self.note("removed");
    }

    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        self.note("read");
        self.on_read.drain(..).for_each(|change| ctx.change(change));
        Ok(Flow::Next)
    }

    fn write(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        self.note("write");
        self.on_write.drain(..).for_each(|change| ctx.change(change));
        Ok(Flow::Next)
    }

    fn exception_caught(&mut self, _: &mut ChannelContext<'_>, _: &RpcError) -> Flow {
        self.note("exception");
        Flow::Stop
    }
}

// ---- from outside --------------------------------------------------------------------------

struct Idle;
impl ChannelHandler for Idle {}

struct Wrapper<T>(T);
impl<T: Send + 'static> ChannelHandler for Wrapper<T> {}

#[test]
fn a_handler_stands_where_it_was_put() {
    let mut channel = channel();
    channel.change(Change::add_last("c", Idle)).unwrap();
    channel.change(Change::add_first("a", Idle)).unwrap();
    channel.change(Change::add_last("e", Idle)).unwrap();
    channel.change(Change::add_before("c", "b", Idle)).unwrap();
    channel.change(Change::add_after("c", "d", Idle)).unwrap();
    assert_eq!(names(&channel), ["a", "b", "c", "d", "e"]);
    channel.change(Change::remove("a")).unwrap();
    channel.change(Change::replace("c", "x", Idle)).unwrap();
    channel.change(Change::remove("e")).unwrap();
    assert_eq!(names(&channel), ["b", "x", "d"]);
    channel.change(Change::replace("x", "x", Idle)).unwrap();
    assert_eq!(names(&channel), ["b", "x", "d"], "the name of the old one is free for the new one");
}

#[test]
fn a_taken_name_or_a_missing_base_is_an_error_that_says_so_and_changes_nothing() {
    let log = Log::default();
    let mut channel = channel();
    for name in ["a", "b"] {
        channel.change(Change::add_last(name, Actor::passive(name, &log))).unwrap();
    }
    take(&log);
    let new = || Actor::passive("new", &log);
    let refused = [
        (Change::add_first("a", new()), "`a`"),
        (Change::add_last("a", new()), "`a`"),
        (Change::add_before("b", "a", new()), "`a`"),
        (Change::add_after("b", "b", new()), "`b`"),
        (Change::replace("a", "b", new()), "`b`"),
        (Change::add_before("x", "y", new()), "`x`"),
        (Change::add_after("x", "y", new()), "`x`"),
        (Change::remove("x"), "`x`"),
        (Change::replace("x", "y", new()), "`x`"),
    ];
    for (nth, (change, named)) in refused.into_iter().enumerate() {
        let error = channel.change(change).unwrap_err();
        assert!(error.is_invalid() && error.message().contains(named), "{nth}: {error}");
        assert_eq!(names(&channel), ["a", "b"], "{nth}");
        assert_eq!(take(&log), [""; 0], "{nth}: a handler heard of it");
    }
    assert_eq!(channel.pipeline().closing(), None);
}

#[test]
fn a_handler_without_a_name_is_called_after_its_type_with_the_first_free_number() {
    let mut channel = channel();
    channel.change(Change::add_last(None, Idle)).unwrap();
    channel.change(Change::add_first(None, Idle)).unwrap();
    channel.change(Change::add_last(None, Wrapper(Wrapper(1_u8)))).unwrap();
    assert_eq!(names(&channel), ["Idle#1", "Idle#0", "Wrapper#0"]);
    channel.change(Change::remove("Idle#0")).unwrap();
    channel.change(Change::add_last(None, Idle)).unwrap();
    assert_eq!(names(&channel), ["Idle#1", "Wrapper#0", "Idle#0"]);
    channel.change(Change::add_last("Idle#2", Idle)).unwrap();
    channel.change(Change::add_last(None, Idle)).unwrap();
    assert_eq!(names(&channel), ["Idle#1", "Wrapper#0", "Idle#0", "Idle#2", "Idle#3"]);
}

#[test]
fn a_handler_type_declared_inside_a_method_still_gives_a_name() {
    trait Makes {
        fn make(&self) -> Change;
    }
    struct Maker<T>(T);
    impl<T> Makes for Maker<T> {
        fn make(&self) -> Change {
            struct Local;
            impl ChannelHandler for Local {}
            Change::add_last(None, Local)
        }
    }
    let mut channel = channel();
    channel.change(Maker(0_u8).make()).unwrap();
    assert_eq!(names(&channel), ["Local#0"]);
}

#[test]
fn a_handler_hears_that_it_was_added_and_removed_once_each_under_its_name() {
    struct Named(Log);
    impl ChannelHandler for Named {
        fn handler_added(&mut self, ctx: &mut ChannelContext<'_>) {
            self.0.lock().unwrap().push(format!("+{}", ctx.name()));
        }
        fn handler_removed(&mut self, ctx: &mut ChannelContext<'_>) {
            self.0.lock().unwrap().push(format!("-{}", ctx.name()));
        }
    }
    let log = Log::default();
    let mut channel = channel();
    channel.change(Change::add_last("a", Named(log.clone()))).unwrap();
    channel.change(Change::replace("a", "b", Named(log.clone()))).unwrap();
    channel.change(Change::remove("b")).unwrap();
    assert_eq!(take(&log), ["+a", "+b", "-a", "-b"]);
}

#[test]
fn what_handlers_ask_for_when_added_or_removed_starts_where_they_stand() {
    struct Greets(u64);
    impl ChannelHandler for Greets {
        fn handler_added(&mut self, ctx: &mut ChannelContext<'_>) {
            ctx.fire_read(numbered(self.0));
            ctx.write(numbered(self.0 + 1));
        }
        fn handler_removed(&mut self, ctx: &mut ChannelContext<'_>) {
            ctx.fire_read(numbered(self.0 + 2));
            ctx.write(numbered(self.0 + 3));
        }
    }
    let log = Log::default();
    let mut channel = channel();
    channel.change(Change::add_last("before", Actor::passive("before", &log))).unwrap();
    channel.change(Change::add_last("after", Actor::passive("after", &log))).unwrap();
    take(&log);
    channel.change(Change::add_after("before", "greets", Greets(10))).unwrap();
    assert_eq!(take(&log), ["after read", "before write"]);
    channel.change(Change::remove("greets")).unwrap();
    assert_eq!(take(&log), ["after read", "before write"]);
    assert_eq!(inbound_ids(&mut channel), [10, 12]);
    assert_eq!(outbound_ids(&mut channel), [11, 13]);
}

// ---- from inside, spelled out --------------------------------------------------------------

/// `a`, then the one that `middle` makes, called `m`, then `z`; cleared log.
fn around(middle: impl FnOnce(&Log) -> Actor) -> (EmbeddedChannel, Log) {
    let log = Log::default();
    let mut channel = channel();
    channel.change(Change::add_last("a", Actor::passive("a", &log))).unwrap();
    channel.change(Change::add_last("m", middle(&log))).unwrap();
    channel.change(Change::add_last("z", Actor::passive("z", &log))).unwrap();
    take(&log);
    (channel, log)
}

#[test]
fn a_handler_that_removes_itself_while_reading_or_writing_passes_the_event_on() {
    let (mut channel, log) = around(|log| Actor::reading("m", log, vec![Change::remove("m")]));
    channel.write_inbound(numbered(1));
    assert_eq!(take(&log), ["a read", "m read", "m removed", "z read"]);
    channel.write_inbound(numbered(2));
    assert_eq!(take(&log), ["a read", "z read"]);

    let (mut channel, log) = around(|log| Actor::writing("m", log, vec![Change::remove("m")]));
    channel.write_outbound(numbered(1)).unwrap();
    assert_eq!(take(&log), ["z write", "m write", "m removed", "a write"]);
    assert_eq!(outbound_ids(&mut channel), [1]);
}

#[test]
fn an_event_goes_from_a_handler_that_replaces_itself_to_its_replacement() {
    let replace = |log: &Log| vec![Change::replace("m", "n", Actor::passive("n", log))];
    let (mut channel, log) = around(|log| Actor::reading("m", log, replace(log)));
    channel.write_inbound(numbered(1));
    assert_eq!(take(&log), ["a read", "m read", "n added", "m removed", "n read", "z read"]);

    let (mut channel, log) = around(|log| Actor::writing("m", log, replace(log)));
    channel.write_outbound(numbered(1)).unwrap();
    assert_eq!(take(&log), ["z write", "m write", "n added", "m removed", "n write", "a write"]);
    assert_eq!(outbound_ids(&mut channel), [1]);
}

#[test]
fn handlers_added_around_the_running_one_see_the_event_only_if_they_are_ahead_of_it() {
    let both = |log: &Log| {
        vec![
            Change::add_before("m", "b", Actor::passive("b", log)),
            Change::add_after("m", "c", Actor::passive("c", log)),
        ]
    };
    let (mut channel, log) = around(|log| Actor::reading("m", log, both(log)));
    channel.write_inbound(numbered(1));
    assert_eq!(take(&log), ["a read", "m read", "b added", "c added", "c read", "z read"]);

    let (mut channel, log) = around(|log| Actor::writing("m", log, both(log)));
    channel.write_outbound(numbered(1)).unwrap();
    assert_eq!(take(&log), ["z write", "m write", "b added", "c added", "b write", "a write"]);
}

#[test]
fn a_handler_that_left_is_not_mistaken_for_what_then_replaces_its_neighbour() {
    // The one that removed itself leaves a gap; its neighbour behind is replaced. The write goes
    // on before the gap.
    let (mut channel, log) = around(|log| {
        let z = Actor::passive("y", log);
        Actor::writing("m", log, vec![Change::remove("m"), Change::replace("z", "y", z)])
    });
    channel.write_outbound(numbered(1)).unwrap();
    assert_eq!(take(&log), ["z write", "m write", "m removed", "y added", "z removed", "a write"],);
}

#[test]
fn a_change_that_can_not_be_made_reaches_the_handler_that_asked_for_it() {
    let (mut channel, log) = around(|log| Actor::reading("m", log, vec![Change::remove("x")]));
    channel.write_inbound(numbered(1));
    assert_eq!(take(&log), ["a read", "m read", "m exception", "z read"]);
    assert_eq!(channel.pipeline().closing(), None);
    assert_eq!(inbound_ids(&mut channel), [1]);
}

#[test]
fn a_change_that_can_not_be_made_after_a_replacement_reaches_the_replacement() {
    let (mut channel, log) = around(|log| {
        let replace = Change::replace("m", "n", Actor::passive("n", log));
        Actor::reading("m", log, vec![replace, Change::remove("x")])
    });
    channel.write_inbound(numbered(1));
    assert_eq!(
        take(&log),
        ["a read", "m read", "n added", "m removed", "n exception", "n read", "z read"],
    );
}

// ---- from inside, at random ----------------------------------------------------------------

/// A change as data. Handlers are named by a number; `None` is the one that makes the change.
#[derive(Clone, Copy, Debug)]
enum Plan {
    First { name: u8 },
    Last { name: u8 },
    Before { base: Option<u8>, name: u8 },
    After { base: Option<u8>, name: u8 },
    Remove { name: Option<u8> },
    Replace { old: Option<u8>, name: u8 },
}

impl Plan {
    /// The change, made by the handler `own`; what it adds is marked `label`.
    fn change(self, own: u8, label: &str, log: &Log) -> Change {
        let text = |name: Option<u8>| name.unwrap_or(own).to_string();
        let new = || Actor::passive(label, log);
        match self {
            Self::First { name } => Change::add_first(&*name.to_string(), new()),
            Self::Last { name } => Change::add_last(&*name.to_string(), new()),
            Self::Before { base, name } => {
                Change::add_before(&text(base), &*name.to_string(), new())
            }
            Self::After { base, name } => Change::add_after(&text(base), &*name.to_string(), new()),
            Self::Remove { name } => Change::remove(&text(name)),
            Self::Replace { old, name } => Change::replace(&text(old), &*name.to_string(), new()),
        }
    }
}

/// Netty's contexts: they keep `next` and `prev` when they are removed, and a replaced one points
/// to its replacement both ways.
struct Node {
    name: u8,
    label: String,
    next: usize,
    prev: usize,
    on_read: Option<Plan>,
    on_write: Option<Plan>,
}

const HEAD: usize = 0;
const TAIL: usize = 1;

struct Linked {
    nodes: Vec<Node>,
    log: Vec<String>,
}

impl Linked {
    fn new() -> Self {
        let end = |next, prev| Node {
            name: u8::MAX,
            label: String::new(),
            next,
            prev,
            on_read: None,
            on_write: None,
        };
        Self { nodes: vec![end(TAIL, HEAD), end(TAIL, HEAD)], log: Vec::new() }
    }

    fn chain(&self) -> Vec<usize> {
        std::iter::successors(Some(self.nodes[HEAD].next), |at| Some(self.nodes[*at].next))
            .take_while(|at| *at != TAIL)
            .collect()
    }

    fn find(&self, name: u8) -> Option<usize> {
        self.chain().into_iter().find(|at| self.nodes[*at].name == name)
    }

    fn insert_between(&mut self, prev: usize, next: usize, name: u8, label: &str) -> usize {
        let new = self.nodes.len();
        let label = label.to_owned();
        self.nodes.push(Node { name, label, next, prev, on_read: None, on_write: None });
        self.nodes[prev].next = new;
        self.nodes[next].prev = new;
        new
    }

    fn note(&mut self, at: usize, what: &str) {
        self.log.push(format!("{} {what}", self.nodes[at].label));
    }

    /// `None`: the change is refused.
    fn apply(&mut self, plan: Plan, own: u8, label: &str) -> Option<()> {
        let free = |list: &Self, name| list.find(name).is_none().then_some(());
        let (prev, next, name) = match plan {
            Plan::First { name } => (HEAD, self.nodes[HEAD].next, name),
            Plan::Last { name } => (self.nodes[TAIL].prev, TAIL, name),
            Plan::Before { base, name } => {
                let base = self.find(base.unwrap_or(own))?;
                (self.nodes[base].prev, base, name)
            }
            Plan::After { base, name } => {
                let base = self.find(base.unwrap_or(own))?;
                (base, self.nodes[base].next, name)
            }
            Plan::Remove { name } => {
                let old = self.find(name.unwrap_or(own))?;
                let (prev, next) = (self.nodes[old].prev, self.nodes[old].next);
                self.nodes[prev].next = next;
                self.nodes[next].prev = prev;
                self.note(old, "removed");
                return Some(());
            }
            Plan::Replace { old, name } => {
                let old = self.find(old.unwrap_or(own))?;
                if self.nodes[old].name != name {
                    free(self, name)?;
                }
                let (prev, next) = (self.nodes[old].prev, self.nodes[old].next);
                let new = self.insert_between(prev, next, name, label);
                self.nodes[old].prev = new;
                self.nodes[old].next = new;
                self.note(new, "added");
                self.note(old, "removed");
                return Some(());
            }
        };
        free(self, name)?;
        let new = self.insert_between(prev, next, name, label);
        self.note(new, "added");
        Some(())
    }

    fn act(&mut self, at: usize, plan: Option<Plan>, label: &str) {
        let own = self.nodes[at].name;
        if plan.is_some_and(|plan| self.apply(plan, own, label).is_none()) {
            self.note(at, "exception");
        }
    }

    fn read(&mut self) {
        let mut at = self.nodes[HEAD].next;
        while at != TAIL {
            self.note(at, "read");
            let plan = self.nodes[at].on_read.take();
            let label = format!("{}r", self.nodes[at].label);
            self.act(at, plan, &label);
            at = self.nodes[at].next;
        }
    }

    fn write(&mut self) {
        let mut at = self.nodes[TAIL].prev;
        while at != HEAD {
            self.note(at, "write");
            let plan = self.nodes[at].on_write.take();
            let label = format!("{}w", self.nodes[at].label);
            self.act(at, plan, &label);
            at = self.nodes[at].prev;
        }
    }
}

fn plan() -> impl Strategy<Value = Plan> {
    // Twelve names among at most six handlers: some are taken, some are missing.
    let name = || 0..12_u8;
    let other = || prop_oneof![2 => Just(None), 3 => name().prop_map(Some)];
    prop_oneof![
        name().prop_map(|name| Plan::First { name }),
        name().prop_map(|name| Plan::Last { name }),
        (other(), name()).prop_map(|(base, name)| Plan::Before { base, name }),
        (other(), name()).prop_map(|(base, name)| Plan::After { base, name }),
        other().prop_map(|name| Plan::Remove { name }),
        (other(), name()).prop_map(|(old, name)| Plan::Replace { old, name }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn changes_made_by_handlers_at_work_lead_the_event_where_netty_leads_it(
        plans in proptest::collection::vec(
            (proptest::option::of(plan()), proptest::option::of(plan())),
            1..6,
        ),
        stimuli in proptest::collection::vec(any::<bool>(), 1..6),
    ) {
        let log = Log::default();
        let mut channel = channel();
        let mut model = Linked::new();
        for (own, (on_read, on_write)) in (0_u8..).zip(plans) {
            let label = own.to_string();
            let change = |plan: Option<Plan>, mark: &str| {
                plan.map(|plan| plan.change(own, &format!("{label}{mark}"), &log)).into_iter().collect()
            };
            let actor = Actor {
                on_read: change(on_read, "r"),
                on_write: change(on_write, "w"),
                ..Actor::passive(&label, &log)
            };
            channel.change(Change::add_last(&*label, actor)).unwrap();
            let at = model.insert_between(model.nodes[TAIL].prev, TAIL, own, &label);
            model.nodes[at].on_read = on_read;
            model.nodes[at].on_write = on_write;
        }
        take(&log);
        for (nth, reads) in (1..).zip(&stimuli) {
            if *reads {
                channel.write_inbound(numbered(nth));
                model.read();
                prop_assert_eq!(inbound_ids(&mut channel), [nth]);
            } else {
                channel.write_outbound(numbered(nth)).unwrap();
                model.write();
                prop_assert_eq!(outbound_ids(&mut channel), [nth]);
            }
            prop_assert_eq!(take(&log), std::mem::take(&mut model.log));
            let expected: Vec<_> =
                model.chain().into_iter().map(|at| model.nodes[at].name.to_string()).collect();
            prop_assert_eq!(names(&channel), expected);
        }
        prop_assert_eq!(channel.pipeline().closing(), None);
    }
}

// ---- buffered frames -----------------------------------------------------------------------

/// Keeps all frames until it is removed.
struct Keeps {
    label: u64,
    frames: VecDeque<Frame<'static>>,
    writes: VecDeque<Frame<'static>>,
    log: Log,
    /// After how many frames it replaces itself, and by what.
    leaves_at: Option<(usize, Box<Self>)>,
}

impl Keeps {
    fn new(label: u64, log: &Log) -> Self {
        let log = log.clone();
        Self { label, frames: VecDeque::new(), writes: VecDeque::new(), log, leaves_at: None }
    }

    fn maybe_leave(&mut self, ctx: &mut ChannelContext<'_>) {
        let kept = self.frames.len() + self.writes.len();
        if let Some((_, next)) = self.leaves_at.take_if(|(at, _)| *at < kept) {
            ctx.change(Change::replace(ctx.name(), "keeps", *next));
        }
    }

    fn note(&self, what: &str) {
        self.log.lock().unwrap().push(format!("{} {what}", self.label));
    }
}

impl ChannelHandler for Keeps {
    fn handler_added(&mut self, _: &mut ChannelContext<'_>) {
        self.note("added");
    }

    fn handler_removed(&mut self, ctx: &mut ChannelContext<'_>) {
        self.note("removed");
        self.frames.drain(..).for_each(|frame| ctx.fire_read(frame));
        self.writes.drain(..).for_each(|frame| ctx.write(frame));
    }

    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        self.frames.push_back(frame.clone().into_owned());
        self.maybe_leave(ctx);
        Ok(Flow::Stop)
    }

    fn write(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        self.writes.push_back(frame.clone().into_owned());
        self.maybe_leave(ctx);
        Ok(Flow::Stop)
    }
}

/// Replaces the handler called `keeps` when it sees the frame `at`, before that goes on; but not
/// once the test is `over`.
struct Replaces {
    at: u64,
    by: Option<Keeps>,
    over: Arc<AtomicBool>,
}

impl Replaces {
    fn look(&mut self, ctx: &mut ChannelContext<'_>, id: u64) -> Handled {
        if id == self.at
            && !self.over.load(Ordering::Relaxed)
            && let Some(by) = self.by.take()
        {
            ctx.change(Change::replace("keeps", "keeps", by));
        }
        Ok(Flow::Next)
    }
}

impl ChannelHandler for Replaces {
    fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        self.look(ctx, frame.header.id)
    }

    fn write(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        self.look(ctx, frame.header.id)
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Read,
    Write,
    ReplaceFromOutside,
    /// A handler that is in front of the buffering one, or behind it, replaces it.
    ReplaceFromNeighbour {
        behind: bool,
        in_frames: u64,
    },
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn frames_that_a_replaced_handler_held_back_are_not_lost_doubled_or_reordered(
        steps in proptest::collection::vec(
            prop_oneof![
                4 => Just(Step::Read),
                4 => Just(Step::Write),
                1 => Just(Step::ReplaceFromOutside),
                1 => (any::<bool>(), 0..4_u64).prop_map(|(behind, in_frames)| {
                    Step::ReplaceFromNeighbour { behind, in_frames }
                }),
            ],
            0..30,
        ),
        leaves_at in proptest::collection::vec(0..6_usize, 0..4),
        remove_at_the_end: bool,
    ) {
        let log = Log::default();
        let mut channel = channel();
        let mut labels = 0..;
        let mut keeps = || Keeps::new(labels.next().unwrap(), &log);
        // The first one replaces itself by the second, that by the third, …
        let first = leaves_at.iter().rev().fold(keeps(), |next, at| {
            Keeps { leaves_at: Some((*at, Box::new(next))), ..keeps() }
        });
        channel.change(Change::add_last("keeps", first)).unwrap();
        let (mut read, mut written) = (Vec::new(), Vec::new());
        let over = Arc::new(AtomicBool::new(false));
        let mut next_id = 0;
        for step in steps {
            match step {
                Step::Read => {
                    channel.write_inbound(numbered(next_id));
                    read.push(next_id);
                    next_id += 1;
                }
                Step::Write => {
                    channel.write_outbound(numbered(next_id)).unwrap();
                    written.push(next_id);
                    next_id += 1;
                }
                Step::ReplaceFromOutside => {
                    channel.change(Change::replace("keeps", "keeps", keeps())).unwrap();
                }
                Step::ReplaceFromNeighbour { behind, in_frames } => {
                    let replaces = Replaces { at: next_id + in_frames, by: Some(keeps()), over: over.clone() };
                    channel.change(if behind {
                        Change::add_after("keeps", None, replaces)
                    } else {
                        Change::add_before("keeps", None, replaces)
                    }).unwrap();
                }
            }
            prop_assert_eq!(channel.read_inbound(), None);
            prop_assert_eq!(channel.read_outbound(), None);
        }
        over.store(true, Ordering::Relaxed);
        let end = if remove_at_the_end {
            Change::remove("keeps")
        } else {
            Change::replace("keeps", "passes", Idle)
        };
        channel.change(end).unwrap();
        prop_assert_eq!(inbound_ids(&mut channel), read);
        prop_assert_eq!(outbound_ids(&mut channel), written);
        prop_assert_eq!(channel.pipeline().closing(), None);
        // Each was removed right after its replacement had been added.
        let log = take(&log);
        for pair in log[1..].chunks(2) {
            let is = |line: &String, what: &str| line.ends_with(what);
            match pair {
                [added, removed] => prop_assert!(is(added, "added") && is(removed, "removed"), "{:?}", &log),
                rest => prop_assert!(is(&rest[0], "removed"), "{:?}", &log),
            }
        }
    }
}

#[test]
fn a_replacement_sees_the_frames_that_the_old_handler_held_back_and_so_do_those_after_it() {
    let log = Log::default();
    let mut channel = channel();
    channel.change(Change::add_last("a", Actor::passive("a", &log))).unwrap();
    channel.change(Change::add_last("keeps", Keeps::new(0, &log))).unwrap();
    channel.change(Change::add_last("z", Actor::passive("z", &log))).unwrap();
    channel.write_inbound(numbered(1));
    channel.write_outbound(numbered(2)).unwrap();
    take(&log);
    channel.change(Change::replace("keeps", "new", Actor::passive("new", &log))).unwrap();
    assert_eq!(
        take(&log),
        ["new added", "0 removed", "new read", "z read", "new write", "a write"],
    );
    assert_eq!(inbound_ids(&mut channel), [1]);
    assert_eq!(outbound_ids(&mut channel), [2]);
}

#[test]
fn a_handler_that_replaces_itself_while_it_holds_frames_passes_them_on_before_the_current_one() {
    /// Keeps frames until number 3 arrives, then hands over and lets that one pass.
    struct UntilThree(Vec<Frame<'static>>);
    impl ChannelHandler for UntilThree {
        fn handler_removed(&mut self, ctx: &mut ChannelContext<'_>) {
            self.0.drain(..).for_each(|frame| ctx.fire_read(frame));
        }
        fn channel_read(&mut self, ctx: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
            if frame.header.id < 3 {
                self.0.push(frame.clone().into_owned());
                return Ok(Flow::Stop);
            }
            ctx.remove_self();
            Ok(Flow::Next)
        }
    }
    let mut channel = channel();
    channel.change(Change::add_last(None, UntilThree(Vec::new()))).unwrap();
    (1..=4).for_each(|id| channel.write_inbound(numbered(id)));
    assert_eq!(inbound_ids(&mut channel), [1, 2, 3, 4]);
    assert_eq!(names(&channel), [""; 0]);
}
