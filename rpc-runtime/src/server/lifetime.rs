//! [`Lifetime`]: limits on how long a server serves a connection.

use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rpc_registry::{Printable, limited};
use tokio::task::AbortHandle;

use crate::connection::Channel;
use crate::error::RpcError;
use crate::observe::RetireReason;
use crate::random::random_fraction;
use crate::transport::Distrust;

/// Random part of a connection's maximum age, in both directions. So connections that began
/// together do not end together.
const JITTER: f64 = 0.1;

/// The settings that limit the lifetime of a server's connections.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    /// Maximum age of a connection.
    pub(super) max_age: Option<Duration>,
    /// Time for calls in progress when the peer is no longer trusted.
    pub(super) drain_timeout: Duration,
}

/// Limits a connection's lifetime until it is dropped.
#[derive(Debug)]
pub(super) struct LifetimeGuard(AbortHandle);

impl Drop for LifetimeGuard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lifetime {
    /// Limits the lifetime of `channel` if a setting requires it. Runs in a separate task, so that
    /// connections without such a limit pay nothing.
    pub(super) fn limit(
        self,
        channel: &Arc<Channel>,
        distrust: Option<Distrust>,
    ) -> Option<LifetimeGuard> {
        if self.max_age.is_none() && distrust.is_none() {
            return None;
        }
        let task = tokio::spawn(self.run(Arc::downgrade(channel), distrust));
        Some(LifetimeGuard(task.abort_handle()))
    }

    async fn run(self, channel: Weak<Channel>, distrust: Option<Distrust>) {
        let aged = async {
            match self.max_age {
                Some(age) => tokio::time::sleep(jittered(age, random_fraction())).await,
                None => pending().await,
            }
        };
        let mut distrust = distrust.unwrap_or_else(|| Box::pin(pending()));
        let why = tokio::select! {
            biased;
            why = &mut distrust => why,
            () = aged => {
                let Some(channel) = channel.upgrade() else { return };
                channel.settings().observer.connection_retired(RetireReason::Age);
                channel.goaway();
                drop(channel);
                distrust.await
            }
        };
        let Some(channel) = channel.upgrade() else { return };
        limited!(warn, peer = %Printable(channel.peer()), "closing the connection: {why}");
        channel.settings().observer.connection_retired(RetireReason::Distrust);
        channel.goaway();
        let channel = Arc::downgrade(&channel);
        tokio::time::sleep(self.drain_timeout).await;
        if let Some(channel) = channel.upgrade() {
            channel.abort(RpcError::unavailable(format!("the connection was closed: {why}")));
        }
    }
}

/// `age` with jitter; `fraction`, 0 to 1, selects the point within it.
fn jittered(age: Duration, fraction: f64) -> Duration {
    let factor = 1.0 + JITTER * (2.0 * fraction - 1.0);
    Duration::try_from_secs_f64(age.as_secs_f64() * factor).unwrap_or(age)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::connection::ChannelSettings;
    use crate::protocol::{Hello, Kind};
    use crate::transport::raw::{RawEnd, pair};

    const SECOND: Duration = Duration::from_secs(1);

    async fn open() -> (Arc<Channel>, RawEnd) {
        let (transport, raw) = pair().await;
        let opened = Channel::new(transport, ChannelSettings::default(), &Hello::default(), None);
        (opened.unwrap().0, raw)
    }

    fn revoked_after(time: Duration) -> Distrust {
        Box::pin(async move {
            tokio::time::sleep(time).await;
            RpcError::unavailable("it is revoked")
        })
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_no_longer_believed_is_told_to_go_and_then_cut_off() {
        let (channel, mut raw) = open().await;
        let lifetime = Lifetime { max_age: None, drain_timeout: SECOND * 10 };
        let _limited = lifetime.limit(&channel, Some(revoked_after(SECOND * 100)));
        let started = Instant::now();
        raw.frame(Kind::GoAway).await.unwrap();
        assert_eq!(started.elapsed().as_secs(), 100);
        assert!(!channel.is_closed());
        let (_, body) = raw.frame(Kind::Error).await.unwrap();
        assert!(String::from_utf8_lossy(&body).contains("it is revoked"));
        assert_eq!(started.elapsed().as_secs(), 110);
        assert!(channel.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_is_told_to_go_and_not_cut_off() {
        let (channel, mut raw) = open().await;
        let lifetime = Lifetime { max_age: Some(SECOND * 100), drain_timeout: SECOND };
        let _limited = lifetime.limit(&channel, Some(revoked_after(SECOND * 9_000)));
        let started = Instant::now();
        raw.frame(Kind::GoAway).await.unwrap();
        assert!((89..=111).contains(&started.elapsed().as_secs()));
        tokio::time::sleep(SECOND * 8_000).await;
        assert!(!channel.is_closed());
        tokio::time::sleep(SECOND * 1_000).await;
        assert!(channel.is_closed(), "it is old, and then not believed");
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_a_connection_that_has_ended() {
        let (channel, _raw) = open().await;
        let lifetime = Lifetime { max_age: Some(SECOND * 100), drain_timeout: SECOND };
        assert!(Lifetime { max_age: None, ..lifetime }.limit(&channel, None).is_none());
        let limited = lifetime.limit(&channel, None).unwrap();
        let task = limited.0.clone();
        drop(limited);
        tokio::time::sleep(SECOND).await;
        assert!(task.is_finished());
    }

    #[test]
    fn the_age_of_connections_varies_by_a_tenth() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(jittered(hour, 0.0), Duration::from_secs(3_240));
        assert_eq!(jittered(hour, 0.5), hour);
        assert_eq!(jittered(hour, 1.0), Duration::from_secs(3_960));
        assert_eq!(jittered(Duration::MAX, 1.0), Duration::MAX);
    }
}
