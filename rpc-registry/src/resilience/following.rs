//! The task that keeps a [`Subscription`] up to date, and follows the service again when the feed
//! breaks.

use std::sync::{Arc, Weak};
use std::time::{Duration, SystemTime};

use tokio::time::{Instant, sleep, sleep_until};

use super::shared::{Shared, is_away};
use super::subscription::Subscription;
use crate::back_end::{BackEnd, Feed, Update};
use crate::back_off::BackOff;
use crate::update_pause::rest_after;
use crate::{LogLimit, RegistryError, Watch, limited};

/// The pauses between attempts to follow a service.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// The timer's resolution. Shorter pauses are left out.
const TICK: Duration = Duration::from_millis(1);

/// A watch with its first list. Makes the subscription if there is none.
pub(super) async fn watch<B: BackEnd>(
    shared: &Arc<Shared<B>>,
    service: &str,
) -> Result<Watch, RegistryError> {
    let (watch, mut started) = {
        // Under this lock, a subscription with a watch does not end.
        let mut subscriptions = shared.subscriptions.lock();
        let subscription = subscriptions.get(service).and_then(Weak::upgrade);
        let subscription = subscription.unwrap_or_else(|| {
            let subscription = Arc::new(Subscription::new(shared.settings.protection));
            subscriptions.insert(service.to_owned(), Arc::downgrade(&subscription));
            let task = Follower {
                shared: Arc::clone(shared),
                service: service.to_owned(),
                feed: None,
                limits: LogLimits::default(),
            };
            shared.runtime.spawn(task.run(Arc::clone(&subscription)));
            subscription
        });
        subscription.subscribe()
    };
    let outcome = started.wait_for(Option::is_some).await;
    let outcome = outcome.map(|outcome| outcome.clone().unwrap_or(Ok(())));
    outcome.unwrap_or_else(|_| {
        Err(RegistryError::unavailable("the runtime of the registry has ended")
            .with_registry(shared.back_end.uri()))
    })?;
    Ok(watch)
}

struct Follower<B> {
    shared: Arc<Shared<B>>,
    service: String,
    feed: Option<Box<dyn Feed>>,
    limits: LogLimits,
}

/// The limits of log lines about one service. An unstable registry or unstable instances can cause
/// any number of them.
#[derive(Default)]
struct LogLimits {
    away: LogLimit,
    back: LogLimit,
    kept: LogLimit,
    released: LogLimit,
}

impl<B: BackEnd> Follower<B> {
    async fn run(mut self, subscription: Arc<Subscription>) {
        let mut back_off = BackOff::new(FIRST_PAUSE, LONGEST_PAUSE);
        let mut since = Instant::now();
        loop {
            let release = subscription.known().protection.next_release();
            let release = async {
                match release {
                    Some(at) => sleep_until(Instant::from_std(at)).await,
                    None => std::future::pending().await,
                }
            };
            let update = tokio::select! {
                biased;
                () = subscription.closed() => {
                    if self.ends(&subscription) {
                        return;
                    }
                    continue;
                }
                update = self.next() => update,
                () = release => {
                    self.release(&subscription);
                    continue;
                }
            };
            let pause = match update {
                Ok(update) => {
                    let begun = Instant::now();
                    self.apply(&subscription, update);
                    rest_after(begun.elapsed())
                }
                Err(error) => {
                    self.feed = None;
                    back_off.lasted(since.elapsed());
                    if !self.lose(&subscription, error) {
                        return;
                    }
                    back_off.next_pause()
                }
            };
            if pause >= TICK {
                tokio::select! {
                    () = subscription.closed() => {}
                    () = sleep(pause) => {}
                }
            }
            if self.feed.is_none() {
                since = Instant::now();
            }
        }
    }

    async fn next(&mut self) -> Result<Update, RegistryError> {
        let feed = match &mut self.feed {
            Some(feed) => feed,
            none => none.insert(self.shared.back_end.follow(&self.service).await?),
        };
        feed.next().await
    }

    fn apply(&self, subscription: &Subscription, update: Update) {
        let mut known = subscription.known();
        let was_away = known.away_since.take().is_some();
        let kept = known.protection.apply(update, Instant::now().into_std());
        if let Some(cache) = &self.shared.cache {
            cache.note(&self.service, &known.protection.snapshot());
        }
        drop(known);
        if was_away {
            limited!(info, limit = self.limits.back; service = self.service, "the registry is back");
        }
        if kept > 0 {
            limited!(
                warn,
                limit = self.limits.kept;
                service = self.service,
                kept,
                registry = self.shared.back_end.uri(),
                "the registry has lost many instances at once; they are kept for a while"
            );
        }
        subscription.publish();
    }

    /// Removes instances that were kept for long enough.
    fn release(&self, subscription: &Subscription) {
        let released = subscription.known().protection.release(Instant::now().into_std());
        limited!(
            warn,
            limit = self.limits.released;
            service = self.service,
            released,
            "protected instances are removed: the registry still does not list them"
        );
        subscription.publish();
    }

    /// The feed has broken. Returns whether to follow the service again.
    fn lose(&self, subscription: &Subscription, error: RegistryError) -> bool {
        let cached = || match &self.shared.cache {
            Some(cache) if is_away(&error) => cache.get(&self.service),
            _ => None,
        };
        let mut known = subscription.known();
        if subscription.has_started() {
            known.protection.note_fault();
            if known.away_since.is_none() {
                known.away_since = Some(SystemTime::now());
                limited!(
                    warn,
                    limit = self.limits.away;
                    service = self.service,
                    %error,
                    "the registry is away; the last list stays in use"
                );
            }
        } else if let Some((instances, as_of)) = cached() {
            limited!(
                warn,
                limit = self.limits.away;
                service = self.service,
                %error,
                "the registry is away; using the cached list"
            );
            known.protection.restore(instances);
            known.protection.note_fault();
            known.away_since = Some(as_of);
        } else {
            drop(known);
            self.shared.subscriptions.lock().remove(&self.service);
            subscription.fail(error);
            return false;
        }
        drop(known);
        subscription.publish();
        true
    }

    /// Whether there is no watch any more. Then the subscription has ended.
    fn ends(&self, subscription: &Subscription) -> bool {
        let mut subscriptions = self.shared.subscriptions.lock();
        let ends = subscription.is_closed();
        if ends {
            subscriptions.remove(&self.service);
        }
        ends
    }
}
