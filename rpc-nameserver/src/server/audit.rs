//! [`Audit`]: log events for changes and refusals.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::Printable;
use rpc_registry::sync::Mutex;
use tokio::time::Instant;

use super::identity::Identity;

/// The target of all events, for filters of subscribers.
const TARGET: &str = "rpc_nameserver::audit";
/// Rate for changes. Their number is bounded by the client's registrations.
const CHANGES: Rate = Rate { burst: 1_024, refill: Duration::from_millis(50) };
/// Rate for refusals, which cost a client nothing.
const REFUSALS: Rate = Rate { burst: 32, refill: Duration::from_secs(1) };
/// Clients with separate counts; all others share one count.
const MAX_CLIENTS: usize = 4_096;

/// Burst of one client's events, and the interval after which one more is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Rate {
    burst: u32,
    refill: Duration,
}

/// The action of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Action {
    Register,
    /// A registration of another session, or of an older epoch.
    Replace,
    Unregister,
    /// A registration of another client.
    Remove,
    /// A session whose connection has ended, with all that it had.
    Leave,
    /// A session that was not renewed.
    Expire,
    /// A session whose client lost its rights.
    Revoke,
    Refuse,
}

/// Writes an event for each change and each refusal, with the target `rpc_nameserver::audit`. The
/// rate per client is limited, so that a client can neither fill a disk nor hide the events of
/// others.
#[derive(Debug, Default)]
pub(super) struct Audit {
    changes: Buckets,
    refusals: Buckets,
}

type Buckets = Mutex<HashMap<Arc<str>, Bucket>>;

#[derive(Debug)]
struct Bucket {
    rate: Rate,
    left: u32,
    since: Instant,
    held_back: u64,
}

impl Audit {
    /// `what` is the object of the change, and `why` the reason of a refusal. Both may contain
    /// untrusted text and are escaped and cut.
    pub(super) fn record(&self, action: Action, by: &Identity, what: &[&str], why: &str) {
        let (buckets, rate) = match action {
            Action::Refuse => (&self.refusals, REFUSALS),
            _ => (&self.changes, CHANGES),
        };
        let Some(held_back) = pass(buckets, rate, &by.owner, Instant::now()) else { return };
        let identity = Printable(by.name.as_deref().unwrap_or("anonymous")).to_string();
        let (peer, what) = (&*by.peer, Printable(what.join(" ")).to_string());
        if action == Action::Refuse {
            let why = Printable(why).to_string();
            tracing::warn!(target: TARGET, ?action, identity, peer, what, why, held_back);
        } else {
            tracing::info!(target: TARGET, ?action, identity, peer, what, held_back);
        }
    }
}

/// Whether an event of this client may be written. If so, the number of events suppressed before
/// it.
fn pass(buckets: &Buckets, rate: Rate, owner: &Arc<str>, now: Instant) -> Option<u64> {
    let mut buckets = buckets.lock();
    if buckets.len() >= MAX_CLIENTS && !buckets.contains_key(owner) {
        buckets.retain(|_, bucket| !bucket.is_full(now));
    }
    let owner = match buckets.len() >= MAX_CLIENTS && !buckets.contains_key(owner) {
        true => "others".into(),
        false => Arc::clone(owner),
    };
    let full = || Bucket { rate, left: rate.burst, since: now, held_back: 0 };
    buckets.entry(owner).or_insert_with(full).pass(now)
}

impl Bucket {
    /// Events that are allowed by now.
    fn room(&self, now: Instant) -> (u32, u32) {
        let passed =
            now.saturating_duration_since(self.since).as_millis() / self.rate.refill.as_millis();
        let gained = u32::try_from(passed).unwrap_or(u32::MAX);
        (gained, self.left.saturating_add(gained).min(self.rate.burst))
    }

    fn is_full(&self, now: Instant) -> bool {
        self.room(now).1 == self.rate.burst && self.held_back == 0
    }

    fn pass(&mut self, now: Instant) -> Option<u64> {
        let (gained, room) = self.room(now);
        if gained > 0 {
            self.since = now;
        }
        match room.checked_sub(1) {
            Some(left) => {
                self.left = left;
                Some(std::mem::take(&mut self.held_back))
            }
            None => {
                self.held_back = self.held_back.saturating_add(1);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_client_that_floods_the_log_is_held_back_and_others_are_not() {
        let buckets = Buckets::default();
        let pass = |owner: &str| pass(&buckets, REFUSALS, &owner.into(), Instant::now());
        assert_eq!((0..10_000).filter(|_| pass("flood").is_some()).count(), 32);
        assert_eq!(pass("quiet"), Some(0));
        tokio::time::advance(REFUSALS.refill).await;
        assert_eq!(pass("flood"), Some(10_000 - 32));
        assert_eq!(pass("flood"), None);
    }

    #[tokio::test(start_paused = true)]
    async fn many_clients_take_a_bounded_table_that_has_room_again_later() {
        let buckets = Buckets::default();
        let pass = |n: u32| {
            pass(&buckets, CHANGES, &Arc::from(format!("client {n}")), Instant::now());
            buckets.lock().len()
        };
        assert!((0..10_000).all(|n| pass(n) <= MAX_CLIENTS + 1));
        tokio::time::advance(CHANGES.refill * (CHANGES.burst + 1)).await;
        // Suppressed events are still to be counted.
        assert!(pass(10_000) <= 2 + 1);
    }
}
