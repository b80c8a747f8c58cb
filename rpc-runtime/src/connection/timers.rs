//! The times at which a driver looks by itself.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use super::clock::clock;
use super::pace::LATE;

/// How often an end that reads no more looks whether its peer is still there.
const CLOSED_CHECK: Duration = Duration::from_secs(1);
/// Deadlines are looked at this often at most, so they fire up to this much late.
const TICK: Duration = Duration::from_millis(5);
/// How long a connection that is to be closed may take to write what it still has.
const LAST_WRITES: Duration = Duration::from_secs(5);
/// A connection that has been at rest for so long gives back the memory that it kept.
const REST: Duration = Duration::from_secs(1);

/// The timers of one driver, and the one sleep that wakes it for the first of them.
pub(super) struct Timers {
    sleep: Pin<Box<tokio::time::Sleep>>,
    /// What `sleep` is set to.
    armed: Option<Instant>,
    /// When the peer must have sent its first frame.
    handshake: Option<Instant>,
    close_by: Option<Instant>,
    /// When to look whether the peer is still there, while nothing is read.
    closed_check: Option<Instant>,
    /// When to look whether the connection has rested, if it keeps memory.
    rested: Option<Instant>,
    /// It had work since the last such look.
    worked: bool,
    /// When to look again whether a peer is silent, after this end was held up.
    again: Option<Instant>,
    /// See [`sign_of_life`](Self::sign_of_life).
    sign_of_life: Option<Instant>,
}

/// The earlier one, if there are any.
#[inline]
pub(super) fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

impl Timers {
    /// With the time that the peer has for its first frame.
    pub(super) fn new(handshake_timeout: Option<Duration>) -> Self {
        Self {
            sleep: Box::pin(tokio::time::sleep(Duration::ZERO)),
            armed: None,
            handshake: handshake_timeout.and_then(|timeout| clock().checked_add(timeout)),
            close_by: None,
            closed_check: None,
            rested: None,
            worked: false,
            again: None,
            sign_of_life: None,
        }
    }

    /// A frame has come.
    pub(super) fn greeted(&mut self) {
        self.handshake = None;
    }

    /// When the peer must have sent its first frame, until it has.
    pub(super) fn handshake(&self) -> Option<Instant> {
        self.handshake
    }

    /// Whether the peer has had its time for its first frame. Says so once.
    pub(super) fn handshake_is_over(&mut self, now: Instant) -> bool {
        let Some(due) = self.handshake.filter(|due| *due <= now) else { return false };
        let over = self.is_fresh(due, now);
        if over {
            self.handshake = None;
        }
        over
    }

    /// The connection has work, and keeps memory for more.
    pub(super) fn work(&mut self) {
        self.worked = true;
    }

    /// Whether a connection that is to be closed has had its time to write what it still has. The
    /// time begins with the first look.
    pub(super) fn must_close(&mut self, now: Instant) -> bool {
        *self.close_by.get_or_insert(now + LAST_WRITES) <= now
    }

    /// Whether to look if the peer is still there. An end that reads hears of its end anyhow.
    pub(super) fn checks_closed(&mut self, now: Instant, reads: bool) -> bool {
        if reads {
            self.closed_check = None;
            return false;
        }
        let due = *self.closed_check.get_or_insert(now + CLOSED_CHECK);
        if due <= now {
            self.closed_check = Some(now + CLOSED_CHECK);
        }
        due <= now
    }

    /// Whether the connection has been at rest, so that memory may go. Says so once.
    pub(super) fn has_rested(&mut self, now: Instant, is_idle: impl FnOnce() -> bool) -> bool {
        if self.worked && self.rested.is_none() {
            self.rested = Some(now + REST);
        }
        if self.rested.take_if(|due| *due <= now).is_none() {
            return false;
        }
        if std::mem::take(&mut self.worked) || !is_idle() {
            self.rested = Some(now + REST);
            return false;
        }
        true
    }

    /// Sets the sleep to this time, or to the first of its own if that is earlier. Returns which.
    pub(super) fn arm(&mut self, now: Instant, other: Option<Instant>) -> Option<Instant> {
        let own = [self.close_by, self.closed_check, self.rested, self.again];
        let next = own.iter().fold(other, |next, time| earlier(next, *time));
        if let Some(next) = next
            && (Some(next) != self.armed || self.sleep.is_elapsed())
        {
            self.sleep.as_mut().reset(next.max(now + TICK).into());
        }
        self.armed = next;
        next
    }

    /// Whether the time that was armed has come, and a peer may be judged by it.
    pub(super) fn may_judge(&mut self, now: Instant) -> bool {
        match self.armed {
            Some(due) if due <= now => self.is_fresh(due, now),
            _ => {
                self.again = None;
                false
            }
        }
    }

    /// Whether what is known of the socket is newer than `due`. If this end was held up, it may be
    /// as old as that, and bytes of the peer may wait: there is another look a tick later, when the
    /// runtime has asked the system.
    fn is_fresh(&mut self, due: Instant, now: Instant) -> bool {
        if now.saturating_duration_since(due) <= LATE
            || self.again.take_if(|again| *again <= now).is_some()
        {
            return true;
        }
        self.again.get_or_insert(now + TICK);
        false
    }

    /// When the peer expects a sign of life at the latest, if it does so each `interval`: that this
    /// end was to run then is how others tell that it does not.
    pub(super) fn sign_of_life(
        &mut self,
        now: Instant,
        interval: Option<Duration>,
    ) -> Option<Instant> {
        self.sign_of_life = self.sign_of_life.filter(|due| *due > now);
        self.sign_of_life =
            interval.and_then(|interval| self.sign_of_life.or_else(|| now.checked_add(interval)));
        self.sign_of_life
    }

    /// Ready when the time has come that was armed.
    pub(super) fn poll_due(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.armed {
            None => Poll::Pending,
            Some(_) => self.sleep.as_mut().poll(cx),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::Arc;

    use bytes::BytesMut;
    use tokio::task::JoinHandle;

    use super::*;
    use crate::connection::driver::{self, Batch, RequestHandler};
    use crate::connection::flush_promise::FlushPromise;
    use crate::connection::{CallError, Channel, ChannelSettings, Request, clock};
    use crate::error::RpcError;
    use crate::handlers::{Heartbeat, HeartbeatMode};
    use crate::protocol::{Frame, Header, Hello, Kind, Output, payload};
    use crate::transport::raw::{RawEnd, pair};
    use crate::transport::{Reader, Transport, Writer};

    const SECOND: Duration = Duration::from_secs(1);

    /// Answers nothing.
    struct Silent;

    impl RequestHandler for Silent {
        fn handle(&mut self, _: &Arc<Channel>, batch: Batch<'_>, _: &mut Context<'_>) -> Instant {
            batch.now
        }
        fn limits_reading(&self) -> bool {
            true
        }
    }

    /// Its methods hold up their thread for 40 seconds.
    struct Slow;

    impl RequestHandler for Slow {
        fn handle(&mut self, _: &Arc<Channel>, batch: Batch<'_>, _: &mut Context<'_>) -> Instant {
            batch.now + SECOND * 40
        }
        fn limits_reading(&self) -> bool {
            false
        }
    }

    async fn open(settings: ChannelSettings) -> (Arc<Channel>, RawEnd, JoinHandle<()>) {
        open_with(settings, Silent).await
    }

    async fn open_with(
        settings: ChannelSettings,
        handler: impl RequestHandler,
    ) -> (Arc<Channel>, RawEnd, JoinHandle<()>) {
        let (transport, raw) = pair().await;
        let (channel, reader) = Channel::new(transport, settings, &Hello::default(), None).unwrap();
        let driver = tokio::spawn(driver::run(Arc::clone(&channel), reader, handler));
        (channel, raw, driver)
    }

    /// Begins a call of a megabyte, more than a pipe holds.
    fn call(channel: &Arc<Channel>) -> JoinHandle<RpcError> {
        let channel = Arc::clone(channel);
        tokio::spawn(async move {
            let mut body = Output::from(vec![7; 1 << 20]);
            let now = clock();
            let header = Header::new(Kind::Request);
            let request = Request { header, body: &mut body, deadline: now + SECOND * 600, now };
            match channel.call(request, &mut None).await {
                Err(CallError::Failed(error) | CallError::NotOpen(error)) => error,
                Ok(_) => panic!("nobody answers"),
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_stops_reading_costs_its_connection_after_the_timeout() {
        let (channel, _raw, driver) = open(ChannelSettings::default()).await;
        let started = Instant::now();
        let begun = clock();
        let error = call(&channel).await.unwrap();
        driver.await.unwrap();
        let took = clock() - begun;
        assert!((SECOND * 30..SECOND * 31).contains(&took), "{took:?}");
        assert!(error.message().contains("slow_reader_timeout"), "{error}");
        assert!(error.is_unavailable(), "{error}");
        assert!(started.elapsed() < SECOND * 10, "the time was virtual");
    }

    /// A peer that sends pings without a pause, and never reads.
    struct Deaf;

    impl Reader for Deaf {
        fn poll_read(
            &mut self,
            _: &mut Context<'_>,
            buffer: &mut BytesMut,
            _: usize,
        ) -> Poll<io::Result<usize>> {
            let ping = Header::new(Kind::Ping).encode();
            buffer.extend_from_slice(&ping);
            Poll::Ready(Ok(ping.len()))
        }
        fn is_closed(&mut self, _: &mut Context<'_>) -> bool {
            false
        }
    }

    impl Writer for Deaf {
        fn try_write(&self, _: &[u8]) -> io::Result<usize> {
            Err(io::ErrorKind::WouldBlock.into())
        }
        fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
        fn shutdown_write(&self) {}
        fn shutdown(&self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_without_a_pause_is_slow_all_the_same_if_it_does_not_read() {
        let transport = Transport::new(Deaf, Deaf, String::new());
        let settings = ChannelSettings::default();
        let (channel, reader) = Channel::new(transport, settings, &Hello::default(), None).unwrap();
        let driver = tokio::spawn(driver::run(channel, reader, Silent));
        for second in 0..40 {
            assert!(second > 30 || !driver.is_finished(), "closed after {second} seconds");
            // The clock does not go by itself, since there is always something to read.
            tokio::time::advance(SECOND).await;
            tokio::task::yield_now().await;
        }
        assert!(driver.is_finished());
    }

    /// Reads so much each second, for a while. Says whether the connection lasts.
    async fn lasts_while_read(bytes: usize) -> bool {
        let (channel, mut raw, driver) = open(ChannelSettings::default()).await;
        let call = call(&channel);
        for _ in 0..70 {
            tokio::time::sleep(SECOND).await;
            if driver.is_finished() {
                assert!(call.await.unwrap().message().contains("min_rate"));
                return false;
            }
            assert!(raw.read_some(bytes).await > 0);
        }
        channel.close(RpcError::unavailable("the test is over"));
        true
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_reads_less_than_the_minimum_rate_loses_its_connection_whatever_it_reads() {
        assert!(!lasts_while_read(1_000).await);
        assert!(lasts_while_read(5_000).await, "a slow link");
        let (channel, mut raw, driver) =
            open(ChannelSettings { min_rate: 0, ..ChannelSettings::default() }).await;
        let call = call(&channel);
        for _ in 0..20 {
            tokio::time::sleep(SECOND * 29).await;
            assert!(raw.read_some(1_000).await > 0);
        }
        assert!(!driver.is_finished() && !call.is_finished());
        channel.close(RpcError::unavailable("the test is over"));
    }

    /// Sends the front of a request of 8 MiB, and then so much each second. Says after how many
    /// seconds the connection is ended, if it is, and checks that the peer is told why.
    async fn ends_while_sent(front: usize, each_second: usize) -> Option<u64> {
        let settings = ChannelSettings { min_rate: 4 << 10, ..ChannelSettings::default() };
        let (channel, mut raw, driver) = open(settings).await;
        let frame = Header { length: 8 << 20, ..Header::new(Kind::Request) }.encode();
        raw.send(&frame[..front.min(frame.len())]);
        for sent in (0..front.saturating_sub(frame.len())).step_by(1 << 10) {
            raw.send(&vec![0; (front - frame.len() - sent).min(1 << 10)]);
            tokio::task::yield_now().await;
        }
        for second in 1..=100 {
            tokio::time::sleep(SECOND).await;
            if driver.is_finished() {
                let (_, body) = raw.frame(Kind::Error).await.unwrap();
                let error: RpcError = payload::decode(&body).unwrap();
                assert!(error.is_timeout() && error.message().contains("min_rate"), "{error}");
                return Some(second);
            }
            if each_second > 0 {
                raw.send(&vec![0; each_second]);
            }
        }
        channel.close(RpcError::unavailable("the test is over"));
        None
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_that_was_begun_has_to_come_at_the_minimum_rate() {
        for front in [1, 20, 32, 10_000, 200_000] {
            let ended = ends_while_sent(front, 0).await;
            assert!(ended.is_some_and(|seconds| seconds <= 31), "{front} bytes: {ended:?}");
        }
        let ended = ends_while_sent(100, 1_000).await;
        assert!(ended.is_some_and(|seconds| seconds <= 31), "{ended:?}");
        assert_eq!(ends_while_sent(100, 16 << 10).await, None, "a slow link");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_between_two_frames_may_rest_for_ever() {
        let heartbeat = Heartbeat::default().mode(HeartbeatMode::Off);
        let settings = ChannelSettings { heartbeat, ..ChannelSettings::default() };
        let (channel, raw, driver) = open(settings).await;
        raw.send_frame(Header::new(Kind::Request), &vec![7; 100_000]);
        tokio::time::sleep(SECOND * 300).await;
        assert!(!driver.is_finished());
        channel.close(RpcError::unavailable("the test is over"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_is_not_slow_because_a_method_held_up_the_thread_that_writes_to_it() {
        let (channel, mut raw, driver) = open_with(ChannelSettings::default(), Slow).await;
        let call = call(&channel);
        tokio::time::sleep(SECOND).await;
        raw.send_frame(Header::new(Kind::Request), &[]);
        tokio::time::sleep(SECOND).await;
        assert!(raw.frame(Kind::Request).await.is_some());
        assert!(!driver.is_finished() && !call.is_finished());
        channel.close(RpcError::unavailable("the test is over"));
    }

    #[tokio::test(start_paused = true)]
    async fn a_promise_that_is_kept_late_does_not_make_its_peer_a_slow_reader() {
        let (channel, mut raw, driver) = open(ChannelSettings::default()).await;
        channel.update(|state, _| state.promise_flush());
        let promise = FlushPromise::new(&channel, clock());
        tokio::time::sleep(SECOND * 40).await;
        let body = vec![7; 1 << 20];
        channel.send(Frame::new(Header::new(Kind::Oneway), &body));
        drop(promise);
        tokio::time::sleep(SECOND).await;
        assert!(!driver.is_finished());
        assert!(raw.frame(Kind::Oneway).await.is_some());
        channel.close(RpcError::unavailable("the test is over"));
    }

    fn with_handshake() -> ChannelSettings {
        ChannelSettings { handshake_timeout: Some(SECOND * 10), ..ChannelSettings::default() }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_sends_no_whole_frame_is_told_so_and_loses_its_connection() {
        for bytes in [&b""[..], b"R", b"RP\x01\x01\0\0\0\0"] {
            let (_channel, mut raw, driver) = open(with_handshake()).await;
            if !bytes.is_empty() {
                raw.send(bytes);
            }
            let begun = clock();
            let (_, body) = raw.frame(Kind::Error).await.unwrap();
            let took = clock() - begun;
            assert!((SECOND * 10..SECOND * 11).contains(&took), "{took:?}");
            let error: RpcError = payload::decode(&body).unwrap();
            assert!(error.message().contains("handshake_timeout"), "{error}");
            assert!(error.is_timeout(), "{error}");
            assert!(raw.any_frame().await.is_none());
            driver.await.unwrap();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_sent_any_frame_may_be_silent_from_then_on() {
        for kind in [Kind::Hello, Kind::Ping, Kind::Request] {
            let (channel, raw, driver) = open(with_handshake()).await;
            tokio::time::sleep(SECOND * 9).await;
            match kind {
                Kind::Hello => raw.send_hello(),
                _ => raw.send_frame(Header::new(kind), &[]),
            }
            tokio::time::sleep(SECOND * 60).await;
            assert!(!driver.is_finished(), "{kind:?}");
            channel.close(RpcError::unavailable("the test is over"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_has_read_all_is_not_slow() {
        let heartbeat = Heartbeat::default().mode(HeartbeatMode::Off);
        let settings = ChannelSettings { heartbeat, ..ChannelSettings::default() };
        let (channel, mut raw, driver) = open(settings).await;
        let call = call(&channel);
        assert!(raw.frame(Kind::Request).await.is_some());
        tokio::time::sleep(SECOND * 300).await;
        assert!(!driver.is_finished() && !call.is_finished());
        channel.close(RpcError::unavailable("the test is over"));
    }
}
