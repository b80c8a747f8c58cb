//! [`Channel`]: the lock of a connection's state, and the one place that applies the effects of its
//! changes.

use std::future::poll_fn;
use std::sync::{Arc, MutexGuard, OnceLock, Weak};
use std::task::{Poll, Waker};
use std::time::Instant;

use super::clock::clock;
use super::largest_answer::LargestAnswer;
use super::settings::{ChannelSettings, Initializer};
use super::state::{ConnectionState, Effects, Wrote};
use super::sync::Mutex;
use super::watch_interval::INTERVAL;
use super::writer::MeteredWriter;
use crate::budget::{Account, Claim};
use crate::certificate::PeerCertificate;
use crate::error::RpcError;
use crate::handlers::{HeartbeatHandler, HeartbeatStats, RefuseUnknown};
use crate::observe::{ConnectionMetrics, MemoryRefusal};
use crate::pipeline::Change;
use crate::protocol::{Agreement, Frame, Header, Hello, Kind, Output};
use crate::transport::{Reader, Transport};

/// One connection.
pub(crate) struct Channel {
    state: Mutex<ConnectionState>,
    pub(super) writer: MeteredWriter,
    peer: Arc<str>,
    certificate: Option<Arc<PeerCertificate>>,
    /// Shared by all connections of a server, or to an endpoint.
    settings: Arc<ChannelSettings>,
    account: Arc<Account>,
    largest_answer: LargestAnswer,
    agreement: OnceLock<Agreement>,
    heartbeat: HeartbeatStats,
}

impl Channel {
    /// A channel over an open connection. Its first frame, the hello, is written already; the
    /// driver that is to run it sends it.
    pub(crate) fn new(
        transport: Transport,
        settings: impl Into<Arc<ChannelSettings>>,
        hello: &Hello,
        initializer: Option<&Initializer>,
    ) -> Result<(Arc<Self>, Box<dyn Reader>), RpcError> {
        let now = clock();
        let settings = settings.into();
        let Transport { reader, writer, peer, certificate, .. } = transport;
        let account = settings.budget.open(&peer);
        let handler = HeartbeatHandler::new(settings.heartbeat, settings.side, settings.observer);
        let heartbeat = handler.stats();
        let mut changes = Vec::new();
        changes.extend(handler.idle_handler().map(|idle| Change::add_last("idle", idle)));
        changes.push(Change::add_last("heartbeat", handler));
        changes.push(Change::add_last("refuse-unknown", RefuseUnknown));
        changes.extend(initializer.map(|handlers| handlers()).unwrap_or_default());
        let mut state = ConnectionState::new(Arc::clone(&settings), Arc::clone(&account));
        let body = hello.encode()?;
        state.pipeline(|pipeline, tail| {
            for change in changes {
                pipeline.change(change, now, tail)?;
            }
            pipeline.channel_active(now, tail);
            pipeline.write(Frame::new(Header::new(Kind::Hello), &body), now, tail)
        })?;
        #[cfg(debug_assertions)]
        state.set_driver_running(true);
        let metrics = ConnectionMetrics::opened(settings.observer);
        let channel = Arc::new(Self {
            state: Mutex::new(state),
            writer: MeteredWriter::new(writer, metrics),
            peer: peer.into(),
            certificate,
            settings,
            account,
            largest_answer: LargestAnswer::default(),
            agreement: OnceLock::new(),
            heartbeat,
        });
        let holder: Weak<Self> = Arc::downgrade(&channel);
        channel.account.belongs_to(holder);
        Ok((channel, reader))
    }

    /// Changes the state, then does what that asks for: tasks are woken, the driver if there is
    /// something for it, and what is to be flushed is.
    #[inline]
    pub(super) fn update<R>(
        &self,
        change: impl FnOnce(&mut ConnectionState, &mut Effects) -> R,
    ) -> R {
        self.change(self.state.lock(), true, change)
    }

    /// The same, unless the lock is held.
    pub(super) fn try_update<R>(
        &self,
        change: impl FnOnce(&mut ConnectionState, &mut Effects) -> R,
    ) -> Option<R> {
        Some(self.change(self.state.try_lock()?, true, change))
    }

    /// The same for the driver's own changes. It looks at everything before it stops, so it is not
    /// woken for them.
    #[inline]
    pub(super) fn update_in_turn<R>(
        &self,
        change: impl FnOnce(&mut ConnectionState, &mut Effects) -> R,
    ) -> R {
        self.change(self.state.lock(), false, change)
    }

    #[inline]
    fn change<R>(
        &self,
        mut state: MutexGuard<'_, ConnectionState>,
        wakes_driver: bool,
        change: impl FnOnce(&mut ConnectionState, &mut Effects) -> R,
    ) -> R {
        let mut effects = Effects::default();
        let result = change(&mut state, &mut effects);
        state.conclude(&mut effects);
        if wakes_driver {
            state.check_driver(&mut effects);
        }
        #[cfg(debug_assertions)]
        {
            state.check_invariants(&effects);
            state.flush_follows(effects.flush.is_some().into());
        }
        drop(state);
        let flush = effects.flush;
        if effects.is_empty() {
            // Nothing is in it that would have to be dropped.
            std::mem::forget(effects);
        } else {
            self.apply(effects);
        }
        if let Some(now) = flush {
            self.write(now, wakes_driver);
            #[cfg(debug_assertions)]
            self.state.lock().flush_follows(-1);
        }
        result
    }

    /// Takes from the state what is ready for its taker. All that may follow is that memory is given
    /// back, which nobody waits for unless the connection is charged for it.
    #[inline]
    pub(super) fn take<R>(&self, take: impl FnOnce(&mut ConnectionState) -> R) -> R {
        let mut state = self.state.lock();
        let taken = take(&mut state);
        if self.account.is_charged() {
            self.change(state, true, |_, _| ());
        }
        taken
    }

    /// Looks at the state.
    #[inline]
    pub(super) fn look<R>(&self, look: impl FnOnce(&ConnectionState) -> R) -> R {
        look(&self.state.lock())
    }

    /// Does what a change asks for beside a flush, outside of the lock.
    fn apply(&self, effects: Effects) {
        effects.driver.into_iter().for_each(Waker::wake);
        effects.caller.into_iter().for_each(Waker::wake);
        effects.wakers.into_iter().for_each(Waker::wake);
        effects.aborts.into_iter().for_each(|task| task.abort());
        if effects.heartbeat_told
            && let Some(interval) = self.look(ConnectionState::peer_heartbeat_interval)
        {
            INTERVAL.expect(interval);
        }
        if effects.stream_refused {
            self.settings.observer.memory_refused(MemoryRefusal::Stream);
        }
        if effects.closed {
            tracing::debug!(peer = %self.peer, "connection closed");
            self.writer.shutdown(self.settings.observer);
        }
    }

    /// Writes all that has gathered. Never waits; what does not fit is left to the driver.
    ///
    /// The time need not be more exact than handlers that measure silence want it: a little early.
    pub(crate) fn flush(&self, now: Instant) {
        self.write(now, true);
    }

    /// The same for what has gathered in the driver's turn, unless somebody has promised to flush.
    pub(super) fn flush_in_turn(&self, now: Instant) {
        let begun = self.state.lock().begin_gathered_flush();
        if let Some(output) = begun {
            self.write_out(output, now, false);
        }
    }

    fn write(&self, now: Instant, wakes_driver: bool) {
        let begun = self.state.lock().begin_flush();
        match begun {
            Some(output) => self.write_out(output, now, wakes_driver),
            // A promise was kept, and the connection may wait for that.
            None => self.change(self.state.lock(), wakes_driver, |_, _| ()),
        }
    }

    /// Writes `output`, then what has gathered in the meantime. The driver is not woken for what is
    /// due after a flush of its own.
    fn write_out(&self, output: Output, mut now: Instant, wakes_driver: bool) {
        let mut next = Some(output);
        while let Some(output) = next {
            let (bytes, result) = self.writer.write_some(&output, 0);
            if !matches!(result, Ok(true)) {
                now = clock();
            }
            let wrote = Wrote { bytes, result, now };
            next = self.change(self.state.lock(), wakes_driver, |state, effects| {
                state.flushed(output, wrote, effects)
            });
            if next.is_some() {
                now = clock();
            }
        }
    }

    /// Sends a frame whose loss nobody waits for.
    pub(super) fn send(&self, frame: Frame<'_>) {
        let now = clock();
        let _ = self.update(|state, effects| state.send(frame, now, effects));
    }

    pub(crate) fn settings(&self) -> &ChannelSettings {
        &self.settings
    }

    /// The other end.
    pub(crate) fn peer(&self) -> &Arc<str> {
        &self.peer
    }

    /// What the other end has proved to be.
    pub(crate) fn peer_certificate(&self) -> Option<&Arc<PeerCertificate>> {
        self.certificate.as_ref()
    }

    /// What the peer said of itself, once it has.
    pub(crate) fn peer_hello(&self) -> Option<Arc<Hello>> {
        self.look(|state| state.peer_hello().cloned())
    }

    /// What the two ends have in common. Once the peer has sent its hello.
    #[inline]
    pub(crate) fn agreement(&self) -> &Agreement {
        let agreement = || Agreement::new(&self.peer_hello().unwrap_or_default());
        self.agreement.get_or_init(agreement)
    }

    /// Waits until the peer has sent its hello. One task at a time may wait. Cancel safe.
    ///
    /// # Errors
    /// The connection ended first.
    pub(crate) async fn greeted(&self) -> Result<(), RpcError> {
        let wait = poll_fn(|cx| match self.update(|state, _| state.poll_hello(cx.waker())) {
            Ok(true) => Poll::Ready(Ok(())),
            Ok(false) => Poll::Pending,
            Err(error) => Poll::Ready(Err(error)),
        });
        wait.await
    }

    /// Whether the peer has answered a call.
    pub(crate) fn has_answered(&self) -> bool {
        self.look(ConnectionState::has_answered)
    }

    /// Whether the bytes that wait to be written are under the high watermark.
    pub(crate) fn is_writable(&self) -> bool {
        self.look(ConnectionState::is_writable)
    }

    /// What the connection's heartbeats have shown so far.
    pub(super) fn heartbeat(&self) -> &HeartbeatStats {
        &self.heartbeat
    }

    pub(crate) fn account(&self) -> &Account {
        &self.account
    }

    /// Claims memory.
    pub(super) fn claim(&self, bytes: usize) -> Claim {
        self.account.claim(bytes)
    }

    /// What was answered here so far.
    #[inline]
    pub(crate) fn largest_answer(&self) -> &LargestAnswer {
        &self.largest_answer
    }
}

#[cfg(test)]
mod tests {
    use std::task::Context;
    use std::time::Instant;

    use super::*;
    use crate::connection::driver::{self, Batch, RequestHandler};
    use crate::connection::{Channel, ChannelSettings};
    use crate::observe::{Observer, Side};
    use crate::protocol::{HelloService, REPLY_METADATA};
    use crate::transport::raw::pair;

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

    /// How many services and features of its peer that end keeps.
    async fn kept(side: Side, feature: &str) -> usize {
        let observer = Observer::new(side, false);
        let settings = ChannelSettings { side, observer, ..ChannelSettings::default() };
        let (transport, raw) = pair().await;
        let (channel, reader) = Channel::new(transport, settings, &Hello::default(), None).unwrap();
        let hello = Hello {
            services: vec![HelloService::default(); 100],
            features: vec![feature.to_owned(); 100],
            ..Hello::default()
        };
        raw.send_frame(Header::new(Kind::Hello), &hello.encode().unwrap());
        tokio::spawn(driver::run(Arc::clone(&channel), reader, Silent));
        channel.greeted().await.unwrap();
        let hello = channel.peer_hello().unwrap();
        channel.close(RpcError::unavailable("the test is over"));
        hello.services.len() + hello.features.len()
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_does_not_keep_what_its_clients_say_that_they_provide() {
        assert_eq!(kept(Side::Client, "feature").await, 200);
        assert_eq!(kept(Side::Server, "feature").await, 0);
        assert_eq!(kept(Side::Server, REPLY_METADATA).await, 1, "it is of use, once");
    }
}
