//! The memory that a connection holds of its budget, and waiting for room.

use std::future::poll_fn;
use std::time::Duration;

use rpc_registry::limited;

use super::channel::Channel;
use super::read_gate::LEAST;
use super::state::ConnectionState;
use crate::budget::{Account, Claim, FREE, Holder, Level};
use crate::error::RpcError;
use crate::observe::{CloseReason, MemoryRefusal};

/// Time in which nothing becomes free for a waiting response, until the connection that holds the
/// most is ended: within the time that most callers have.
const STARVED_ANSWER: Duration = Duration::from_secs(5);

impl Channel {
    /// Whether a response of `expected` bytes has to wait for memory.
    #[inline]
    pub(crate) fn must_wait(&self, expected: usize) -> bool {
        (expected > FREE || self.account().is_charged()) && self.account().is_exhausted()
    }

    /// Waits for memory for a response. Cancel safe.
    pub(crate) async fn room(&self, expected: usize) -> Claim {
        let mut claim = self.claim(expected.max(LEAST));
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
        let keeps = answer <= FREE || room(self.account());
        if !keeps {
            self.settings().observer.memory_refused(MemoryRefusal::Answer);
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
        let free = bytes <= FREE && !self.account().is_charged();
        let may = free || self.account().may_grow(before, bytes);
        if !may {
            self.settings().observer.memory_refused(MemoryRefusal::Request);
        }
        may
    }
}

impl Holder for Channel {
    fn end(&self, why: RpcError) {
        limited!(warn, peer = %self.peer(), %why, "connection closed");
        self.settings().observer.connection_ended(CloseReason::Memory);
        // A peer that reads nothing would keep the memory while the error is sent.
        let reads = self.look(ConnectionState::is_flushed);
        if reads { self.fail(why) } else { self.abort(why) }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::task::Context;
    use std::time::Instant;

    use tokio::task::JoinHandle;

    use super::*;
    use crate::budget::{Budget, MemoryLimits};
    use crate::connection::driver::{self, Batch, RequestHandler};
    use crate::connection::{ChannelSettings, WorkId, clock};
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
                let held = connection.channel.update(|state, effects| {
                    state.open_incoming(1 << 40, effects);
                    state.promise_flush();
                    state.send(Frame::of_kind(Kind::Pong), clock(), effects)
                });
                held.unwrap();
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
