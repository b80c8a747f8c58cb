//! [`Lifetime`]: how long a server serves one connection.

use std::future::pending;
use std::sync::{Arc, Weak};
use std::time::Duration;

use rpc_registry::{Printable, limited};
use tokio::task::AbortHandle;

use crate::channel::Channel;
use crate::error::RpcError;
use crate::observe::RetiredConnection;
use crate::random::random_fraction;
use crate::transport::Distrust;

/// The part of the age of connections that is random, in both directions: those that were made
/// together do not end together.
const JITTER: f64 = 0.1;

/// What ends the connections of a server that would otherwise last.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lifetime {
    /// How old a connection may become.
    pub(super) max_age: Option<Duration>,
    /// What is under way on a connection whose peer is no longer believed may take so long.
    pub(super) drain_timeout: Duration,
}

/// Limits a connection's lifetime until it is dropped.
#[derive(Debug)]
pub(super) struct Limited(AbortHandle);

impl Drop for Limited {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Lifetime {
    /// Limits the lifetime of `channel`, if there is a reason for that. In a task of its own: the
    /// connection's has enough to do, and most servers have no such task.
    pub(super) fn limit(
        self,
        channel: &Arc<Channel>,
        distrust: Option<Distrust>,
    ) -> Option<Limited> {
        if self.max_age.is_none() && distrust.is_none() {
            return None;
        }
        let task = tokio::spawn(self.run(Arc::downgrade(channel), distrust));
        Some(Limited(task.abort_handle()))
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
                channel.settings().observer.connection_retired(RetiredConnection::Age);
                channel.go_away();
                drop(channel);
                distrust.await
            }
        };
        let Some(channel) = channel.upgrade() else { return };
        limited!(warn, peer = %Printable(channel.peer()), "connection is ended: {why}");
        channel.settings().observer.connection_retired(RetiredConnection::Distrust);
        channel.go_away();
        let channel = Arc::downgrade(&channel);
        tokio::time::sleep(self.drain_timeout).await;
        if let Some(channel) = channel.upgrade() {
            channel.cut_off(RpcError::unavailable(format!("the connection was ended: {why}")));
        }
    }
}

/// `fraction`, 0 to 1, chooses within the jitter.
fn jittered(age: Duration, fraction: f64) -> Duration {
    let factor = 1.0 + JITTER * (2.0 * fraction - 1.0);
    Duration::try_from_secs_f64(age.as_secs_f64() * factor).unwrap_or(age)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_age_of_connections_varies_by_a_tenth() {
        let hour = Duration::from_secs(3_600);
        assert_eq!(jittered(hour, 0.0), Duration::from_secs(3_240));
        assert_eq!(jittered(hour, 0.5), hour);
        assert_eq!(jittered(hour, 1.0), Duration::from_secs(3_960));
        assert_eq!(jittered(Duration::MAX, 1.0), Duration::MAX);
    }
}
