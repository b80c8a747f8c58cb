//! [`Link`]: one connection to an address, made again when it is lost.

mod attempt;
mod connect;
mod state;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Wake, Waker};
use std::time::{Duration, Instant};

use self::attempt::{Attempt, AttemptHandle};
use self::state::{Moment, Progress, StateRef};
use super::connection_info::{ConnectionInfo, KnownLink};
use super::connections::LinkNumber;
use super::pick::{Outcome, OutcomeObserver, Pick};
use super::settings::EndpointSettings;
use crate::connection::{Channel, clock};
use crate::error::RpcError;
use crate::random::random_fraction;
use crate::uri::Uri;

/// One connection to an address. A call that needs it makes it connect. After a failed attempt it
/// backs off, and calls fail at once.
///
/// The lock of a channel is never taken while the link's lock is held.
pub(super) struct Link {
    uri: Uri,
    settings: Arc<EndpointSettings>,
    progress: Mutex<Progress<Channel, AttemptHandle>>,
    /// Whether it is in the [`ReadyLinks`](super::ready_links::ReadyLinks).
    noted_ready: AtomicBool,
}

/// What a link offers without waiting.
pub(super) enum LinkState {
    Ready(Arc<Channel>),
    /// An attempt is in progress or due.
    Connectable,
    /// The last attempt failed and the next is not due, or none will be made.
    BackingOff,
}

/// A connection or an error that is available at once, or an attempt to wait for.
enum Acquire {
    Settled(Result<Arc<Channel>, RpcError>),
    Attempt(attempt::Outcome),
}

impl Link {
    pub(super) fn new(uri: Uri, settings: Arc<EndpointSettings>) -> Arc<Self> {
        let progress = Mutex::new(Progress::new());
        let link = Arc::new(Self { uri, settings, progress, noted_ready: AtomicBool::new(false) });
        let known: Arc<dyn KnownLink> = Arc::clone(&link) as _;
        if let Err(closed) = link.settings.all.add(&known) {
            link.close(closed, Channel::drain);
        }
        link
    }

    fn lock(&self) -> MutexGuard<'_, Progress<Channel, AttemptHandle>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its state may have changed.
    fn changed(&self) {
        // It is noted under the lock, so that the last change is noted last. A link is closed
        // before it is dropped, so another one at the same place in memory never has its pause.
        let number: LinkNumber = std::ptr::from_ref(self).addr();
        let progress = self.lock();
        self.settings.all.note_pause(number, progress.until());
        drop(progress);
        self.settings.all.changed();
    }

    fn moment(&self) -> Moment<'_> {
        let back_off = &self.settings.back_off;
        Moment { now: clock(), back_off, fraction: random_fraction() }
    }

    #[inline]
    pub(super) fn state(&self) -> LinkState {
        match self.lock().state_at(clock()) {
            StateRef::Ready(channel) => LinkState::Ready(Arc::clone(channel)),
            StateRef::Connecting(_) | StateRef::Due => LinkState::Connectable,
            StateRef::BackingOff { .. } | StateRef::Closed(_) => LinkState::BackingOff,
        }
    }

    /// The link's channel for one attempt of a call, which reports its outcome here.
    #[inline]
    pub(super) fn pick(self: &Arc<Self>, channel: Arc<Channel>) -> Pick {
        Pick::new(channel, Arc::clone(self) as Arc<dyn OutcomeObserver>)
    }

    /// A connection, after waiting for an attempt if need be. Dropping the future leaves the
    /// attempt to the others that wait for it.
    pub(super) async fn connected(self: &Arc<Self>) -> Result<Pick, RpcError> {
        let channel = match self.acquire() {
            Acquire::Settled(result) => result?,
            Acquire::Attempt(outcome) => attempt::wait(outcome).await?,
        };
        Ok(self.pick(channel))
    }

    /// Begins an attempt in the background, if one is due.
    pub(super) fn begin(self: &Arc<Self>) {
        // The result is not needed.
        let _ = self.acquire();
    }

    /// The connection, or the attempt in progress. Starts an attempt if one is due.
    fn acquire(self: &Arc<Self>) -> Acquire {
        let now = clock();
        let mut progress = self.lock();
        match progress.state_at(now) {
            StateRef::Ready(channel) => return Acquire::Settled(Ok(Arc::clone(channel))),
            StateRef::Connecting(attempt) => return Acquire::Attempt(attempt.outcome()),
            StateRef::BackingOff { until, error } => {
                return Acquire::Settled(Err(self.backing_off(until, now, error)));
            }
            StateRef::Closed(why) => return Acquire::Settled(Err(why.clone())),
            StateRef::Due => {}
        }
        let (attempt, under_way) = Attempt::new(Box::new({
            let link = Arc::clone(self);
            move |result| link.settle(result)
        }));
        let outcome = under_way.outcome();
        progress.begin(under_way);
        drop(progress);
        self.changed();
        // Not under the lock: a runtime that has shut down drops the attempt at once.
        let link = Arc::clone(self);
        self.settings.runtime.spawn(attempt.run(async move { link.connect().await }));
        Acquire::Attempt(outcome)
    }

    /// Why a call fails at once.
    fn backing_off(&self, until: Instant, now: Instant, cause: &RpcError) -> RpcError {
        let left = until.saturating_duration_since(now).as_millis();
        let left = Duration::from_millis(u64::try_from(left).unwrap_or(u64::MAX).max(1));
        let message = format!("{}; the next attempt is due in {left:?}", cause.message());
        RpcError::unavailable(message).with_source(cause).with_peer(&self.uri).unexecuted()
    }

    /// Records the result of an attempt. Returns the outcome for the calls that wait for it. Every
    /// attempt ends here.
    fn settle(
        self: &Arc<Self>,
        result: Result<Arc<Channel>, RpcError>,
    ) -> Result<Arc<Channel>, RpcError> {
        let made = result.as_ref().ok().cloned();
        let (again, told) = {
            let mut progress = self.lock();
            (progress.was_connected(), progress.settle(result, self.moment()))
        };
        if again {
            self.settings.channel.observer.reconnected(told.is_ok());
        }
        match &told {
            Ok(_) => tracing::debug!(uri = %self.uri, "connected"),
            Err(error) => tracing::debug!(uri = %self.uri, %error, "connection attempt failed"),
        }
        self.changed();
        if told.is_ok() && !self.noted_ready.swap(true, Ordering::Relaxed) {
            let known: Arc<dyn KnownLink> = Arc::clone(self) as _;
            self.settings.all.ready().add(&known);
        }
        if let Some(channel) = made {
            if told.is_err() {
                channel.drain();
            }
            self.await_end(&channel);
        }
        told
    }

    /// Observes the end of the channel, also if it has ended already.
    fn await_end(self: &Arc<Self>, channel: &Arc<Channel>) {
        let link = Arc::downgrade(self);
        let waker = Waker::from(Arc::new(EndWaker { link, channel: Arc::downgrade(channel) }));
        if let Some(why) = channel.await_end(waker) {
            self.leave(channel, why);
        }
    }

    /// `channel` takes no new calls, so the next call connects again.
    fn leave(&self, channel: &Arc<Channel>, why: RpcError) {
        let proven = channel.has_answered();
        let left = self.lock().leave(channel, why, proven, self.moment());
        if left {
            self.changed();
        }
        self.check_ended(channel);
    }

    /// `channel` was found to take no calls.
    fn forget(&self, channel: &Arc<Channel>) {
        let why = channel.why_not_open();
        let why = why.unwrap_or_else(|| RpcError::unavailable("the connection took no call"));
        self.leave(channel, why);
    }

    /// Removes `channel` from the draining ones if its task has already ended: the report of that
    /// may have come before the channel was added.
    fn check_ended(&self, channel: &Arc<Channel>) {
        if channel.is_closed() {
            self.ended(channel);
        }
    }

    /// There is no connection, and the last attempt failed or the last connection did not last.
    pub(super) fn is_failing(&self) -> bool {
        self.lock().is_failing()
    }

    /// The task of `channel` has ended.
    fn ended(&self, channel: &Arc<Channel>) {
        self.lock().ended(channel);
        self.changed();
    }

    /// The registry has a new provider at this address, so the next call connects at once.
    pub(super) fn announce(&self) {
        self.lock().announce();
        self.changed();
    }

    /// The address is no longer in use: calls in flight continue, no new call is sent, and no
    /// further attempt is made. `end` is [`Channel::drain`] or [`Channel::drain_and_goaway`].
    pub(super) fn close(&self, why: RpcError, end: fn(&Channel)) {
        let channel = self.lock().close(why);
        if let Some(channel) = channel {
            end(&channel);
            self.check_ended(&channel);
        }
        self.changed();
    }
}

impl OutcomeObserver for Link {
    #[inline]
    fn ended(&self, outcome: Outcome<'_>) {
        match outcome {
            // Another call must not pick it before the link is notified of its end.
            Outcome::NotOpen(channel) => self.forget(channel),
            Outcome::Answered | Outcome::Failed | Outcome::Cancelled => {}
        }
    }
}

impl KnownLink for Link {
    fn close(&self, why: RpcError) {
        Self::close(self, why, Channel::drain_and_goaway);
    }

    fn channels(&self) -> Vec<Arc<Channel>> {
        let progress = self.lock();
        let used = match progress.state_at(clock()) {
            StateRef::Ready(channel) => Some(channel),
            _ => None,
        };
        used.into_iter().chain(progress.draining()).cloned().collect()
    }

    fn info(&self) -> ConnectionInfo {
        let progress = self.lock();
        ConnectionInfo {
            uri: self.uri.to_string(),
            state: progress.state(),
            reconnects: progress.reconnects(),
            last_error: progress.last_error().cloned(),
        }
    }

    fn pick_ready(self: Arc<Self>) -> Option<Pick> {
        match self.state() {
            LinkState::Ready(channel) => Some(Pick::new(channel, self)),
            LinkState::Connectable | LinkState::BackingOff => None,
        }
    }

    fn forget_ready(&self) -> bool {
        self.noted_ready.store(false, Ordering::Relaxed);
        let is_ready = matches!(self.state(), LinkState::Ready(_));
        !is_ready || self.noted_ready.swap(true, Ordering::Relaxed)
    }
}

/// Notifies a link when its channel takes no more calls.
struct EndWaker {
    link: Weak<Link>,
    channel: Weak<Channel>,
}

impl Wake for EndWaker {
    fn wake(self: Arc<Self>) {
        if let (Some(link), Some(channel)) = (self.link.upgrade(), self.channel.upgrade()) {
            link.forget(&channel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::ClientBuilder;
    use crate::connection::ChannelSettings;
    use crate::protocol::Hello;
    use crate::transport::raw::pair;

    /// A link whose connection has ended, and which has not heard yet that it takes no calls:
    /// another thread closed it, and wakes those who wait for its end one after the other.
    async fn ended_unheard() -> (Arc<Link>, Arc<Channel>) {
        let settings = ClientBuilder::default().endpoint_settings(None).unwrap();
        let link = Link::new(Uri::parse("memory:nobody").unwrap(), settings);
        let (transport, _raw) = pair().await;
        let opened = Channel::new(transport, ChannelSettings::default(), &Hello::default(), None);
        let (channel, _) = opened.unwrap();
        link.lock().settle(Ok(Arc::clone(&channel)), link.moment()).unwrap();
        channel.close(RpcError::unavailable("lost"));
        link.ended(&channel);
        (link, channel)
    }

    #[tokio::test]
    async fn a_connection_that_ended_before_its_link_heard_of_it_is_not_waited_for() {
        let (link, channel) = ended_unheard().await;
        link.forget(&channel);
        assert!(link.channels().is_empty(), "nothing would ever end it again");
    }

    #[tokio::test]
    async fn a_client_that_is_closed_does_not_wait_for_a_connection_that_has_ended() {
        let (link, _channel) = ended_unheard().await;
        link.close(RpcError::unavailable("the client was closed"), Channel::drain_and_goaway);
        assert!(link.channels().is_empty(), "nothing would ever end it again");
    }
}
