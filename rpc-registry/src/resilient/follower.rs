//! Following a service for all its watches, again whenever that broke.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::back_off::BackOff;
use super::roster::Roster;
use super::{Shared, is_away};
use crate::back_end::{BackEnd, Feed, Update};
use crate::pace::rest_after;
use crate::{Instance, LogLimit, RegistryError, Snapshot, Source, Watch, WatchSender, limited};

/// One for each service that is watched, kept by its task.
pub(super) struct Follower {
    known: Mutex<Known>,
    sender: WatchSender,
    /// Whether there is a first state, or why there is none.
    started: watch::Sender<Option<Result<(), RegistryError>>>,
}

struct Known {
    roster: Roster,
    /// When the registry was last there, if it is away.
    away: Option<SystemTime>,
}

impl Known {
    fn snapshot(&self) -> Snapshot {
        match self.away {
            Some(as_of) => self.roster.snapshot().with_source(Source::Cache { as_of }),
            None => self.roster.snapshot(),
        }
    }
}

/// A watch whose first state is there. Makes the follower if there is none.
pub(super) async fn watch<B: BackEnd>(
    shared: &Arc<Shared<B>>,
    service: &str,
) -> Result<Watch, RegistryError> {
    let (watch, mut started) = {
        // Under this lock, a follower that has a watch does not end.
        let mut followers = shared.followers();
        let follower = followers.get(service).and_then(std::sync::Weak::upgrade);
        let follower = follower.unwrap_or_else(|| {
            let known = Known { roster: Roster::new(shared.settings.protection), away: None };
            let (started, _) = watch::channel(None);
            let sender = Watch::channel(Vec::new()).0;
            let follower = Arc::new(Follower { known: Mutex::new(known), sender, started });
            followers.insert(service.to_owned(), Arc::downgrade(&follower));
            let task = Follow {
                shared: Arc::clone(shared),
                service: service.to_owned(),
                feed: None,
                log: Log::default(),
            };
            shared.runtime.spawn(task.run(Arc::clone(&follower)));
            follower
        });
        (follower.sender.subscribe(), follower.started.subscribe())
    };
    let outcome = started.wait_for(Option::is_some).await;
    let outcome = outcome.map(|outcome| outcome.clone().unwrap_or(Ok(())));
    outcome.unwrap_or_else(|_| {
        Err(RegistryError::unavailable("the runtime of the registry has ended")
            .with_registry(shared.back_end.uri()))
    })?;
    Ok(watch)
}

impl Follower {
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What somebody found who looked, and those beside it that are kept.
    pub(super) fn looked_up(&self, instances: Vec<Instance>) -> Snapshot {
        let known = self.known();
        if known.away.is_none() {
            return known.roster.beside(instances);
        }
        // The registry is back, and the feed does not know it yet: this list is to be believed no
        // more than the first one that the feed will tell.
        let mut roster = known.roster.clone();
        roster.take(Update { instances, ..Update::default() }, Instant::now().into_std());
        roster.snapshot()
    }

    /// What was known last, if there is a first state.
    pub(super) fn last_known(&self) -> Option<Snapshot> {
        if !matches!(&*self.started.borrow(), Some(Ok(()))) {
            return None;
        }
        let known = self.known();
        let as_of = known.away.unwrap_or_else(SystemTime::now);
        Some(known.roster.snapshot().with_source(Source::Cache { as_of }))
    }

    fn publish(&self) {
        let snapshot = self.known().snapshot();
        self.sender.publish(snapshot);
    }

    fn has_started(&self) -> bool {
        self.started.borrow().is_some()
    }
}

/// The task of a follower.
struct Follow<B> {
    shared: Arc<Shared<B>>,
    service: String,
    feed: Option<Box<dyn Feed>>,
    log: Log,
}

/// The limits of log lines about one service. An unstable registry or unstable instances can cause
/// any number of them.
#[derive(Default)]
struct Log {
    away: LogLimit,
    back: LogLimit,
    kept: LogLimit,
    gone: LogLimit,
}

impl<B: BackEnd> Follow<B> {
    async fn run(mut self, follower: Arc<Follower>) {
        let mut back_off = BackOff::default();
        let mut since = Instant::now();
        loop {
            let due = follower.known().roster.due().map(Instant::from_std);
            let news = tokio::select! {
                biased;
                () = follower.sender.closed() => {
                    if self.ends(&follower) {
                        return;
                    }
                    continue;
                }
                news = self.next() => Some(news),
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => None,
            };
            match news {
                Some(Ok(update)) => {
                    let begun = Instant::now();
                    self.heard(&follower, update);
                    tokio::select! {
                        () = follower.sender.closed() => {}
                        () = sleep(rest_after(begun.elapsed())) => {}
                    }
                }
                Some(Err(error)) => {
                    self.feed = None;
                    back_off.lasted(since.elapsed());
                    if !self.missed(&follower, error) {
                        return;
                    }
                    tokio::select! {
                        () = follower.sender.closed() => {}
                        () = sleep(back_off.next()) => {}
                    }
                    since = Instant::now();
                }
                None => {
                    let gone = follower.known().roster.release(Instant::now().into_std());
                    limited!(
                        warn,
                        limit = self.log.gone;
                        service = self.service,
                        gone,
                        "instances that the registry does not have were kept for long enough"
                    );
                    follower.publish();
                }
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

    fn heard(&self, follower: &Follower, update: Update) {
        let mut known = follower.known();
        let was_away = known.away.take().is_some();
        let kept = known.roster.take(update, Instant::now().into_std());
        if let Some(cache) = &self.shared.cache {
            cache.note(&self.service, &known.roster.snapshot());
        }
        drop(known);
        if was_away {
            limited!(info, limit = self.log.back; service = self.service, "the registry is back");
        }
        if kept > 0 {
            limited!(
                warn,
                limit = self.log.kept;
                service = self.service,
                kept,
                registry = self.shared.back_end.uri(),
                "the registry has lost many instances at once; they are kept for a while"
            );
        }
        follower.publish();
        follower.started.send_if_modified(|started| started.replace(Ok(())).is_none());
    }

    /// The registry could not be followed. Whether to try again.
    fn missed(&self, follower: &Follower, error: RegistryError) -> bool {
        let remembered = || match &self.shared.cache {
            Some(cache) if is_away(&error) => cache.get(&self.service),
            _ => None,
        };
        let mut known = follower.known();
        if follower.has_started() {
            known.roster.fault();
            if known.away.is_none() {
                known.away = Some(SystemTime::now());
                limited!(
                    warn,
                    limit = self.log.away;
                    service = self.service,
                    %error,
                    "the registry is away; the last list stays in use"
                );
            }
        } else if let Some((instances, as_of)) = remembered() {
            limited!(
                warn,
                limit = self.log.away;
                service = self.service,
                %error,
                "the registry is away; using the cached list"
            );
            known.roster.remember(instances);
            known.roster.fault();
            known.away = Some(as_of);
        } else {
            drop(known);
            self.shared.followers().remove(&self.service);
            follower.started.send_replace(Some(Err(error)));
            return false;
        }
        drop(known);
        follower.publish();
        follower.started.send_if_modified(|started| started.replace(Ok(())).is_none());
        true
    }

    /// Whether nobody watches any more; then there is no follower from here on.
    fn ends(&self, follower: &Follower) -> bool {
        let mut followers = self.shared.followers();
        let ends = follower.sender.is_closed();
        if ends {
            followers.remove(&self.service);
        }
        ends
    }
}
