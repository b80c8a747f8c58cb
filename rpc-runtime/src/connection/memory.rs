//! The memory that a connection holds of its budget, and waiting for room.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Waker};
use std::time::{Duration, Instant};

use rpc_registry::limited;

use super::read_buffer::Input;
use super::{Channel, Core, WorkId, clock, wake_all};
use crate::budget::{Account, Claim, FREE, Holder, Level};
use crate::error::RpcError;
use crate::observe::{EndedConnection, RefusedMemory};
use crate::status::Status;

/// Time in which nothing becomes free for a waiting connection, until the connection that holds the
/// most is ended.
const STARVED: Duration = Duration::from_secs(10);
/// The same for a waiting response: within the time that most callers have.
const STARVED_ANSWER: Duration = Duration::from_secs(5);
/// Minimum size of a claim.
const LEAST: usize = 16 << 10;

/// The size of the largest answer that a connection was given.
#[derive(Debug, Default)]
pub(crate) struct LargestAnswer(AtomicUsize);

impl LargestAnswer {
    /// None before the first answer, 0 while all were small.
    #[inline]
    pub(crate) fn get(&self) -> Option<usize> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }

    /// There was an answer; 0 stands for a small one.
    #[inline]
    pub(crate) fn add(&self, large: usize) {
        let code = large.saturating_add(1);
        if self.0.load(Ordering::Relaxed) < code {
            self.0.fetch_max(code, Ordering::Relaxed);
        }
    }
}

/// Decides whether the driver may read. The bytes of a large frame are claimed before it is read,
/// and a connection that holds much does not read while others wait.
#[derive(Default)]
pub(super) struct ReadGate {
    claim: Option<Claim>,
    /// The claimed bytes were read.
    spent: bool,
    waits: Option<Waits>,
}

struct Waits {
    since: Instant,
    /// See [`Claim::progress`].
    at: (Level, u64),
}

impl ReadGate {
    /// Frames were consumed, so the next read needs a new claim.
    pub(super) fn consumed(&mut self) {
        self.spent = true;
    }

    /// Counts the held bytes in place of the claimed ones.
    #[inline]
    pub(super) fn settle(&mut self, core: &mut Core, input: &mut Input, wakers: &mut Vec<Waker>) {
        core.kept = input.kept();
        core.settle(wakers);
        if core.kept > 0 || self.claim.is_some() {
            self.release(core, input, wakers);
        }
        self.spent = false;
    }

    /// Frees kept buffers if others need the memory, and releases the claim if its frame was read
    /// or is no longer the next one.
    fn release(&mut self, core: &mut Core, input: &mut Input, wakers: &mut Vec<Waker>) {
        if core.kept > 0 && core.account.is_exhausted() {
            // Other connections can use it.
            input.rest();
            core.kept = 0;
            core.settle(wakers);
        }
        let spent = self.spent;
        let frame = input.large_frame();
        let other = |claim: &mut Claim| frame.is_some_and(|frame| frame != claim.bytes());
        if let Some(claim) = self.claim.take_if(|claim| spent || other(claim)) {
            claim.release(wakers);
        }
    }

    /// Whether more may be read now. If not, the task of `cx` is woken when it may.
    ///
    /// `forced`: reading must continue if possible, since the holders of memory may wait for the
    /// next frames. `always`: also while only output is held. The peer stops reading while its own
    /// output waits, and one of the two ends must not.
    #[inline]
    pub(super) fn is_open(
        &mut self,
        core: &mut Core,
        input: &Input,
        forced: bool,
        always: bool,
        cx: &mut Context<'_>,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        let frame = input.large_frame();
        if self.claim.is_none() && frame.is_none() && core.may_read_small(forced) {
            return self.opened();
        }
        self.is_open_by_claim(core, frame, forced, always, cx, wakers)
    }

    fn is_open_by_claim(
        &mut self,
        core: &mut Core,
        frame: Option<usize>,
        forced: bool,
        always: bool,
        cx: &mut Context<'_>,
        wakers: &mut Vec<Waker>,
    ) -> bool {
        let claim = self.claim.get_or_insert_with(|| core.account.claim(frame.unwrap_or(LEAST)));
        while claim.poll(cx).is_pending() {
            let output_only = || always && core.holds_output_only();
            if forced && (core.account.may_force(claim.bytes()) || output_only()) {
                claim.force();
                continue;
            }
            let own = claim.progress().is_some_and(|(level, _)| level == Level::Connection);
            if !(forced && own && core.end_greediest_stream(wakers)) {
                return false;
            }
        }
        if frame.is_none() {
            // The claim was granted, but bytes may arrive at any time or never, so nothing is held
            // until then.
            self.claim.take().into_iter().for_each(|claim| claim.release(wakers));
        }
        self.opened()
    }

    fn opened(&mut self) -> bool {
        self.waits = None;
        true
    }

    /// The level at which the connection has waited too long, so that a connection must be ended
    /// there.
    ///
    /// A connection at its own limit waits for its own requests and does not count. With `streams`
    /// it counts, since its requests may wait for items that are not read.
    #[inline]
    pub(super) fn is_starved(&mut self, reads: bool, streams: bool, now: Instant) -> Option<Level> {
        if self.claim.is_none() {
            self.waits = None;
            return None;
        }
        self.has_starved(reads, streams, now)
    }

    fn has_starved(&mut self, reads: bool, streams: bool, now: Instant) -> Option<Level> {
        let Some(at) = self.claim.as_ref().filter(|_| reads).and_then(Claim::progress) else {
            self.waits = None;
            return None;
        };
        match &self.waits {
            Some(waits) if waits.at == at => {
                if now.saturating_duration_since(waits.since) < STARVED {
                    return None;
                }
            }
            _ => {
                self.waits = Some(Waits { since: now, at });
                return None;
            }
        }
        // The next check is due after the same time.
        self.waits = Some(Waits { since: now, at });
        Some(at.0).filter(|level| *level != Level::Connection || streams)
    }

    /// When to check for starvation.
    pub(super) fn starves_at(&self) -> Option<Instant> {
        self.waits.as_ref()?.since.checked_add(STARVED)
    }

    /// Ends the connection that holds the most at the level where this one waits. Must not be
    /// called under the lock.
    pub(super) fn end_greediest(&self, level: Level) {
        self.claim.iter().for_each(|claim| claim.end_greediest(level));
    }
}

impl Core {
    /// Counts the bytes that the connection holds.
    #[inline]
    pub(super) fn settle(&mut self, wakers: &mut Vec<Waker>) {
        let held = self.pipeline.pending_bytes()
            + self.work.bytes()
            + self.in_flight.held()
            + self.streams.queued()
            + self.kept;
        self.account.settle(held, wakers);
    }

    /// Whether the connection holds only output. If it stopped reading then, two congested ends
    /// could wait for each other.
    fn holds_output_only(&self) -> bool {
        let kept = self.work.bytes() + self.in_flight.held() + self.streams.queued();
        kept == 0 && self.pipeline.pending_bytes() > 0
    }

    /// Whether small frames may be read.
    #[inline]
    fn may_read_small(&self, forced: bool) -> bool {
        let free = !self.account.is_charged() || !self.account.is_exhausted();
        free || (forced && self.account.may_force(LEAST))
    }

    /// Ends the stream with the most untaken items, if there is one. Otherwise the connection would
    /// have to end.
    fn end_greediest_stream(&mut self, wakers: &mut Vec<Waker>) -> bool {
        let error = RpcError::new(
            Status::Overloaded,
            "the items were not taken, and their memory was needed (`MemoryLimits::connection`)",
        );
        let Some(id) = self.streams.end_greediest(&error, wakers) else { return false };
        self.observer.memory_refused(RefusedMemory::Stream);
        // A lost cancel only costs the peer some work.
        let _ = self.stop_sender(id, clock());
        self.settle(wakers);
        true
    }
}

impl Channel {
    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// What was answered here so far.
    #[inline]
    pub(crate) fn largest_answer(&self) -> &LargestAnswer {
        &self.largest_answer
    }

    /// Closes the connection because the peer sends a frame below the minimum rate.
    pub(super) fn slow_sender(&self) {
        let why = RpcError::new(
            Status::Timeout,
            format!(
                "a frame that has begun arrives at less than {} bytes a second (`min_rate`)",
                self.settings.min_rate
            ),
        );
        limited!(warn, peer = %self.peer, %why, "connection closed");
        self.settings.observer.connection_ended(EndedConnection::SlowSender);
        self.fail(why);
    }

    /// Counts the bytes that the connection holds, after some were released.
    pub(super) fn settle(&self) {
        let mut wakers = Vec::new();
        self.lock().settle(&mut wakers);
        wake_all(wakers);
    }

    /// Whether a response of `expected` bytes has to wait for memory.
    #[inline]
    pub(crate) fn must_wait(&self, expected: usize) -> bool {
        (expected > FREE || self.account.is_charged()) && self.account.is_exhausted()
    }

    /// Waits for memory for a response. Cancel safe.
    pub(crate) async fn room(&self, expected: usize) -> Claim {
        let mut claim = self.account.claim(expected.max(LEAST));
        loop {
            let before = claim.progress();
            let granted = poll_fn(|cx| claim.poll(cx));
            if tokio::time::timeout(STARVED_ANSWER, granted).await.is_ok() {
                return claim;
            }
            let starved = before.filter(|(level, _)| *level != Level::Connection);
            if let Some(at) = starved.filter(|at| claim.progress() == Some(*at)) {
                claim.end_greediest(at.0);
            }
        }
    }

    /// Whether an answer that was encoded without asking may be kept until it is sent. `bold`: it
    /// should have waited for memory, if it had been known how large it is.
    pub(crate) fn may_keep(&self, answer: usize, bold: bool) -> bool {
        let room = |account: &Account| match bold {
            true => account.has_room(answer),
            false => account.may_force(answer),
        };
        let keeps = answer <= FREE || room(&self.account);
        if !keeps {
            self.settings.observer.memory_refused(RefusedMemory::Answer);
        }
        keeps
    }

    /// Whether a request may begin whose arguments take so many bytes of memory, of which `before`
    /// count already. A few bytes on the wire can be many in memory.
    #[inline]
    pub(crate) fn may_begin(&self, before: usize, bytes: usize) -> bool {
        bytes <= LEAST.saturating_add(before) || self.may_begin_large(before, bytes)
    }

    fn may_begin_large(&self, before: usize, bytes: usize) -> bool {
        let free = bytes <= FREE && !self.account.is_charged();
        let may = free || self.account.may_grow(before, bytes);
        if !may {
            self.settings.observer.memory_refused(RefusedMemory::Request);
        }
        may
    }

    /// Sets the memory of a running request's arguments, in bytes; 0 once they are dropped.
    pub(crate) fn arguments_take(&self, work_id: WorkId, bytes: usize) {
        let mut wakers = Vec::new();
        let mut core = self.lock();
        core.work.set_bytes(work_id, bytes);
        core.settle(&mut wakers);
        drop(core);
        wake_all(wakers);
    }
}

impl Holder for Channel {
    fn end(&self, why: RpcError) {
        limited!(warn, peer = %self.peer, %why, "connection closed");
        self.settings.observer.connection_ended(EndedConnection::Memory);
        // A peer that reads nothing would keep the memory while the error is sent.
        let reads = self.lock().is_flushed();
        if reads { self.fail(why) } else { self.cut_off(why) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tokio::task::JoinHandle;

    use super::*;
    use crate::budget::{Budget, MemoryLimits};
    use crate::connection::ChannelSettings;
    use crate::connection::driver::{self, Batch, RequestHandler};
    use crate::observe::{Observer, Side};
    use crate::protocol::{Frame, Header, Hello, Kind, payload};
    use crate::transport::raw::{RawEnd, pair};

    const SECOND: Duration = Duration::from_secs(1);
    const KIB: usize = 1 << 10;

    /// Begins requests that end with their connection, or when they are told to.
    #[derive(Clone, Default)]
    struct Keep(Arc<Mutex<Vec<WorkId>>>);

    impl Keep {
        fn begun(&self) -> usize {
            self.0.lock().unwrap().len()
        }

        fn end_all(&self, channel: &Channel) {
            self.0.lock().unwrap().iter().for_each(|work_id| channel.finish_work(*work_id));
        }
    }

    impl RequestHandler for Keep {
        fn handle(
            &mut self,
            channel: &Arc<Channel>,
            batch: Batch<'_>,
            _: &mut Context<'_>,
        ) -> Instant {
            for request in &batch.requests {
                let bytes = request.header.length as usize;
                let work_id = channel.start_work(request.header.id, false, bytes).unwrap();
                self.0.lock().unwrap().push(work_id);
            }
            batch.now
        }
        fn limits_reading(&self) -> bool {
            true
        }
    }

    /// One of the connections of a server, and how many requests it has begun.
    struct Connection {
        channel: Arc<Channel>,
        raw: RawEnd,
        requests: Keep,
        driver: JoinHandle<()>,
    }

    impl Connection {
        async fn open(budget: &Arc<Budget>) -> Self {
            let settings =
                ChannelSettings { budget: Arc::clone(budget), ..ChannelSettings::default() };
            let (transport, raw) = pair().await;
            let (channel, reader) =
                Channel::new(transport, settings, &Hello::default(), None).unwrap();
            let requests = Keep::default();
            let run = driver::run(Arc::clone(&channel), reader, requests.clone());
            let (kept, closed) = (requests.clone(), Arc::clone(&channel));
            let driver = tokio::spawn(async move {
                run.await;
                kept.end_all(&closed);
            });
            Self { channel, raw, requests, driver }
        }

        /// Sends a request of so many bytes, and waits a while. Says how many were begun.
        async fn request(&self, id: u64, bytes: usize) -> usize {
            self.raw.send_frame(Header { id, ..Header::new(Kind::Request) }, &vec![0; bytes]);
            tokio::time::sleep(SECOND * 3).await;
            self.requests.begun()
        }
    }

    fn budget(kib: usize) -> Arc<Budget> {
        let limits = MemoryLimits::default().connection(kib << 10).address(kib << 10);
        Budget::new(limits, Observer::new(Side::Server, false))
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_the_most_is_ended_once_others_got_nothing_for_ten_seconds() {
        let budget = budget(128);
        let mut greedy = Connection::open(&budget).await;
        let modest = Connection::open(&budget).await;
        assert_eq!(greedy.request(1, 120 * KIB).await, 1);
        assert_eq!(modest.request(1, 120 * KIB).await, 0, "there is no room");
        assert_eq!(modest.request(2, 10).await, 0, "it is behind");
        let begun = clock();
        let (_, body) = greedy.raw.frame(Kind::Error).await.unwrap();
        let error: RpcError = payload::decode(&body).unwrap();
        assert!(error.is_overloaded(), "{error}");
        assert!(error.message().contains("MemoryLimits::address"), "{error}");
        let waited = clock() - begun;
        assert!((SECOND * 3..SECOND * 6).contains(&waited), "after 10 s in all: {waited:?}");
        greedy.driver.await.unwrap();
        tokio::time::sleep(SECOND).await;
        assert_eq!(modest.requests.begun(), 2);
        assert!(!modest.driver.is_finished());
        modest.channel.close(RpcError::unavailable("the test is over"));
        drop((modest, greedy.channel));
        let left = Connection::open(&budget).await;
        assert_eq!(left.request(1, 120 * KIB).await, 1, "all was given back");
        left.channel.close(RpcError::unavailable("the test is over"));
    }

    #[tokio::test(start_paused = true)]
    async fn small_requests_go_on_when_all_is_used_up() {
        let budget = budget(128);
        let greedy = Connection::open(&budget).await;
        let modest = Connection::open(&budget).await;
        assert_eq!(greedy.request(1, 120 * KIB).await, 1);
        greedy.request(2, 120 * KIB).await;
        for id in 1..=10 {
            assert_eq!(modest.request(id, 5_000).await, id as usize);
        }
        assert_eq!(greedy.requests.begun(), 1);
        for connection in [greedy, modest] {
            connection.channel.close(RpcError::unavailable("the test is over"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_holds_the_most_is_ended_once_an_answer_waited_for_five_seconds() {
        let budget = budget(128);
        let greedy = Connection::open(&budget).await;
        let modest = Connection::open(&budget).await;
        assert_eq!(greedy.request(1, 120 * KIB).await, 1);
        let begun = clock();
        let room = tokio::time::timeout(SECOND * 60, modest.channel.room(100 * KIB)).await;
        assert!(room.is_ok(), "the answer waits for ever");
        let waited = clock() - begun;
        assert!((SECOND * 5..SECOND * 7).contains(&waited), "{waited:?}");
        greedy.driver.await.unwrap();
        modest.channel.close(RpcError::unavailable("the test is over"));
    }

    #[tokio::test(start_paused = true)]
    async fn streams_and_output_that_is_not_read_are_no_way_around_the_limits() {
        let budget = budget(128);
        let mut connections = Vec::new();
        for _ in 0..4 {
            let connection = Connection::open(&budget).await;
            tokio::time::sleep(SECOND).await;
            {
                // An open stream, and output that does not leave.
                let mut core = connection.channel.lock();
                core.streams.open_incoming(1 << 40, &mut Vec::new());
                core.write(Frame::of_kind(Kind::Pong), clock()).unwrap();
                core.duty = true;
            }
            connection.request(1, 120 * KIB).await;
            connections.push(connection);
        }
        let begun: Vec<_> = connections.iter().map(|one| one.requests.begun()).collect();
        // 56 KiB of each count, and the 120 KiB of the next one.
        assert_eq!(begun, [1, 1, 1, 0], "twice the limit is all");
        for connection in connections {
            connection.channel.close(RpcError::unavailable("the test is over"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_still_has_its_arguments_counts_when_its_connection_is_gone() {
        let budget = budget(128);
        let (channel, requests) = {
            let gone = Connection::open(&budget).await;
            assert_eq!(gone.request(1, 120 * KIB).await, 1);
            gone.driver.abort();
            (gone.channel, gone.requests)
        };
        let other = Connection::open(&budget).await;
        assert_eq!(other.request(1, 120 * KIB).await, 0);
        requests.end_all(&channel);
        tokio::time::sleep(SECOND).await;
        assert_eq!(other.requests.begun(), 1);
        other.channel.close(RpcError::unavailable("the test is over"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_waits_for_its_own_requests_is_left_alone_and_then_read_on() {
        let budget = budget(128);
        let connection = Connection::open(&budget).await;
        assert_eq!(connection.request(1, 120 * KIB).await, 1);
        connection.request(2, 120 * KIB).await;
        tokio::time::sleep(SECOND * 100).await;
        assert!(!connection.driver.is_finished());
        assert_eq!(connection.requests.begun(), 1);
        connection.requests.end_all(&connection.channel);
        tokio::time::sleep(SECOND).await;
        assert_eq!(connection.requests.begun(), 2);
        connection.channel.close(RpcError::unavailable("the test is over"));
    }
}
