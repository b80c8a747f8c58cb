//! What the layer above a distributed back end adds, on a back end that fails as it is told to, in
//! virtual time.

#![expect(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rpc_registry::{
    Announcement, BackEnd, BoxFuture, Claim, Feed, Instance, LeaseState, Registry, RegistryError,
    Resilient, ResilientSettings, Session, Snapshot, Source, Update, Watch,
};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, sleep, timeout};

/// A registry in memory that can be away, forget everything, and end sessions.
#[derive(Clone)]
struct Fake(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    changed: watch::Sender<()>,
}

#[derive(Default)]
struct State {
    away: bool,
    entries: BTreeMap<String, Entry>,
    departed: Vec<String>,
    announced: Vec<(u64, Claim)>,
    /// The epoch of another provider that has every id.
    taken: Option<u64>,
    /// Feeds tell one list and break.
    breaks: bool,
    follows: usize,
    /// Sessions end at once.
    flighty: bool,
    /// How often all entries were told.
    lists: usize,
}

struct Entry {
    instance: Instance,
    lost: Option<oneshot::Sender<RegistryError>>,
}

fn away() -> RegistryError {
    RegistryError::unavailable("the registry is away")
}

impl Fake {
    fn new() -> Self {
        Self(Arc::new(Inner { state: Mutex::default(), changed: watch::channel(()).0 }))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap()
    }

    fn act(&self, act: impl FnOnce(&mut State)) {
        act(&mut self.state());
        self.0.changed.send_replace(());
    }

    /// Ends the sessions of all entries. They vanish.
    fn lose_all(&self) {
        self.act(|state| {
            for (_, entry) in std::mem::take(&mut state.entries) {
                let cause = RegistryError::unavailable("the session has expired");
                entry.lost.into_iter().for_each(|lost| drop(lost.send(cause.clone())));
            }
        });
    }

    fn go_away(&self) {
        self.act(|state| state.away = true);
    }

    fn come_back(&self) {
        self.act(|state| state.away = false);
    }

    /// An entry of a provider in another process.
    fn add(&self, id: &str) {
        self.act(|state| {
            let entry = Entry { instance: instance(id), lost: None };
            state.entries.insert(id.to_owned(), entry);
        });
    }

    fn remove(&self, ids: &[&str]) {
        self.act(|state| state.entries.retain(|id, _| !ids.contains(&id.as_str())));
    }

    fn check(&self) -> Result<(), RegistryError> {
        if self.state().away { Err(away()) } else { Ok(()) }
    }

    fn announcement(
        &self,
        instance: Instance,
        hears: oneshot::Receiver<RegistryError>,
    ) -> Announcement {
        let lost: BoxFuture<'static, RegistryError> = Box::pin(async {
            match hears.await {
                Ok(cause) => cause,
                Err(_) => std::future::pending().await,
            }
        });
        let (id, epoch) = (instance.id().to_owned(), instance.epoch());
        let session = Box::new(FakeSession { fake: self.clone(), id, epoch });
        Announcement { instance, lost, session }
    }

    fn listed(&self) -> Vec<Instance> {
        let mut state = self.state();
        state.lists += 1;
        state.entries.values().map(|entry| entry.instance.clone()).collect()
    }
}

impl BackEnd for Fake {
    fn uri(&self) -> &str {
        "fake://registry"
    }

    fn announce<'a>(
        &'a self,
        instance: Instance,
        claim: Claim,
    ) -> BoxFuture<'a, Result<Announcement, RegistryError>> {
        Box::pin(async move {
            self.state().announced.push((instance.epoch(), claim));
            sleep(Duration::from_millis(10)).await;
            self.check()?;
            if self.state().taken.is_some_and(|epoch| epoch >= instance.epoch()) {
                return Err(RegistryError::already_exists("the id is taken"));
            }
            let (lost, hears) = oneshot::channel();
            if self.state().flighty {
                let _ = lost.send(RegistryError::unavailable("the session has ended"));
                return Ok(self.announcement(instance, hears));
            }
            let id = instance.id().to_owned();
            self.act(|state| {
                let entry = Entry { instance: instance.clone(), lost: Some(lost) };
                state.entries.insert(id.clone(), entry);
            });
            Ok(self.announcement(instance, hears))
        })
    }

    fn list<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>> {
        Box::pin(async move { self.check().map(|()| self.listed()) })
    }

    fn follow<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Box<dyn Feed>, RegistryError>> {
        Box::pin(async move {
            self.check()?;
            self.state().follows += 1;
            let mut changed = self.0.changed.subscribe();
            changed.mark_changed();
            Ok(Box::new(FakeFeed { fake: self.clone(), changed, told: false }) as _)
        })
    }

    fn remove<'a>(&'a self, _: &'a str, id: &'a str) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move {
            let mut found = false;
            self.act(|state| found = state.entries.remove(id).is_some());
            Ok(found)
        })
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(async move { self.check().map(|()| vec!["b".into(), "a".into(), "b".into()]) })
    }
}

struct FakeSession {
    fake: Fake,
    id: String,
    epoch: u64,
}

impl Session for FakeSession {
    fn withdraw(&mut self) -> BoxFuture<'_, Result<(), RegistryError>> {
        Box::pin(async {
            self.fake.check()?;
            self.abandon();
            Ok(())
        })
    }

    fn abandon(&mut self) {
        let (id, epoch) = (&self.id, self.epoch);
        self.fake.act(|state| {
            if state.entries.get(id).is_some_and(|entry| entry.instance.epoch() == epoch) {
                state.entries.remove(id);
                state.departed.push(id.clone());
            }
        });
    }
}

struct FakeFeed {
    fake: Fake,
    changed: watch::Receiver<()>,
    told: bool,
}

impl Feed for FakeFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>> {
        Box::pin(async {
            self.changed.changed().await.unwrap();
            self.fake.check()?;
            let mut state = self.fake.state();
            if state.breaks {
                self.changed.mark_changed();
                if std::mem::replace(&mut self.told, true) {
                    return Err(RegistryError::unavailable("the feed has broken"));
                }
            }
            let departed = std::mem::take(&mut state.departed);
            drop(state);
            Ok(Update { instances: self.fake.listed(), departed, ..Update::default() })
        })
    }
}

fn instance(id: &str) -> Instance {
    Instance::new("svc", "tcp://127.0.0.1:1").with_id(id).with_started_ms(1)
}

fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.iter().map(Instance::id).collect()
}

async fn registry() -> (Fake, Resilient<Fake>) {
    let fake = Fake::new();
    let registry = Resilient::new(fake.clone(), ResilientSettings::default()).await.unwrap();
    (fake, registry)
}

async fn with_cache(fake: &Fake, folder: &Path) -> Resilient<Fake> {
    let mut settings = ResilientSettings::default();
    settings.cache = Some(folder.to_owned());
    Resilient::new(fake.clone(), settings).await.unwrap()
}

async fn next(watch: &mut Watch) -> Snapshot {
    timeout(Duration::from_secs(3_600), watch.changed()).await.expect("a change").unwrap()
}

async fn nothing_more(watch: &mut Watch, within: Duration) {
    let more = timeout(within, watch.changed()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lost_registration_is_made_again_with_a_higher_epoch_and_that_can_be_followed() {
    let (fake, registry) = registry().await;
    let lease = registry.register(instance("a")).await.unwrap();
    let mut states = lease.states();
    fake.lose_all();
    let LeaseState::Lost { cause } = states.changed().await.unwrap() else { panic!("it is lost") };
    assert!(cause.to_string().contains("the session has expired"), "{cause}");
    let LeaseState::Held { epoch } = states.changed().await.unwrap() else { panic!("it is held") };
    assert_eq!(epoch, 1);
    assert_eq!(registry.lookup("svc").await.unwrap()[0].epoch(), 1);
    assert_eq!(fake.state().announced, [(0, Claim::New), (1, Claim::Again)]);
    lease.revoke().await.unwrap();
    assert!(registry.lookup("svc").await.unwrap().is_empty(), "the new session is withdrawn");
    assert!(states.changed().await.is_none(), "the lease has ended");
}

#[tokio::test(start_paused = true)]
async fn registering_again_goes_on_for_ever_with_a_new_epoch_each_time() {
    let (fake, registry) = registry().await;
    let lease = registry.register(instance("a")).await.unwrap();
    fake.lose_all();
    fake.go_away();
    sleep(Duration::from_secs(3_600)).await;
    let attempts = fake.state().announced.len();
    assert!((360..800).contains(&attempts), "every 5 to 10 s in the end, not {attempts}");
    let epochs: Vec<u64> = fake.state().announced.iter().map(|(epoch, _)| *epoch).collect();
    assert!(epochs.is_sorted_by(|a, b| a < b), "an attempt whose answer is lost does not block");
    assert!(matches!(lease.states().now(), LeaseState::Lost { .. }));
    fake.come_back();
    let back = Instant::now();
    while fake.listed().is_empty() {
        sleep(Duration::from_millis(100)).await;
    }
    assert!(back.elapsed() < Duration::from_secs(11), "{:?}", back.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_takes_everything_and_keeps_nothing_is_asked_ever_more_rarely() {
    let (fake, registry) = registry().await;
    let _lease = registry.register(instance("a")).await.unwrap();
    let _watch = registry.watch("svc").await.unwrap();
    fake.act(|state| (state.flighty, state.breaks) = (true, true));
    fake.lose_all();
    sleep(Duration::from_secs(600)).await;
    let announced = fake.state().announced.len();
    let follows = fake.state().follows;
    assert!((60..150).contains(&announced), "registered {announced} times in ten minutes");
    assert!((60..150).contains(&follows), "followed {follows} times in ten minutes");
    fake.act(|state| (state.flighty, state.breaks) = (false, false));
    sleep(Duration::from_secs(11)).await;
    assert_eq!(ids(&registry.lookup("svc").await.unwrap()), ["a"], "and in the end it is there");
}

#[tokio::test(start_paused = true)]
async fn an_id_that_somebody_else_has_meanwhile_is_not_taken_from_them() {
    let (fake, registry) = registry().await;
    let lease = registry.register(instance("a")).await.unwrap();
    fake.act(|state| state.taken = Some(1));
    fake.lose_all();
    sleep(Duration::from_secs(3600)).await;
    let state = lease.states().now();
    assert!(matches!(&state, LeaseState::Lost { cause } if cause.is_already_exists()), "{state:?}");
    fake.act(|state| state.taken = None);
    sleep(Duration::from_secs(60)).await;
    assert!(matches!(lease.states().now(), LeaseState::Held { .. }));
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_ends_while_it_is_lost_is_not_registered_again() {
    for revoke in [true, false] {
        let (fake, registry) = registry().await;
        let lease = registry.register(instance("a")).await.unwrap();
        fake.lose_all();
        fake.go_away();
        sleep(Duration::from_secs(1)).await;
        if revoke {
            lease.revoke().await.unwrap();
        } else {
            drop(lease);
        }
        fake.come_back();
        sleep(Duration::from_secs(60)).await;
        assert!(fake.listed().is_empty(), "revoked: {revoke}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_lease_is_gone_before_drop_returns() {
    let (fake, registry) = registry().await;
    drop(registry.register(instance("a")).await.unwrap());
    assert!(fake.listed().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_watch_says_that_the_registry_is_away_and_goes_on_when_it_is_back() {
    let (fake, registry) = registry().await;
    fake.add("a");
    let mut watch = registry.watch("svc").await.unwrap();
    assert_eq!(ids(&next(&mut watch).await), ["a"]);
    fake.go_away();
    let away = next(&mut watch).await;
    assert_eq!(ids(&away), ["a"], "the last list stays in use");
    assert!(away.age().is_some() && away.change.is_empty(), "{away:?}");
    nothing_more(&mut watch, Duration::from_secs(600)).await;
    fake.add("b");
    fake.come_back();
    let back = next(&mut watch).await;
    assert_eq!((ids(&back), back.is_current()), (vec!["a", "b"], true));
    assert_eq!(back.change.added, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_feed_that_breaks_after_its_first_list_is_not_asked_for_all_the_time() {
    let (fake, registry) = registry().await;
    fake.add("a");
    fake.act(|state| state.breaks = true);
    let mut watch = registry.watch("svc").await.unwrap();
    sleep(Duration::from_secs(3_600)).await;
    let follows = fake.state().follows;
    assert!((360..800).contains(&follows), "every 5 to 10 s in the end, not {follows}");
    assert_eq!(ids(&next(&mut watch).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn lookups_while_it_is_away_are_answered_with_what_was_watched_last() {
    let (fake, registry) = registry().await;
    fake.add("a");
    let mut watch = registry.watch("svc").await.unwrap();
    next(&mut watch).await;
    fake.go_away();
    let found = registry.lookup("svc").await.unwrap();
    assert_eq!(ids(&found), ["a"]);
    assert!(found.age().is_some());
    let unknown = registry.lookup("other").await.unwrap_err();
    assert!(unknown.is_unavailable(), "nothing is known of it: {unknown}");
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_comes_back_empty_is_not_believed_for_a_while() {
    let (fake, registry) = registry().await;
    ["a", "b"].iter().for_each(|id| fake.add(id));
    let mut watch = registry.watch("svc").await.unwrap();
    next(&mut watch).await;
    fake.go_away();
    next(&mut watch).await;
    fake.remove(&["a", "b"]);
    fake.come_back();
    let back = next(&mut watch).await;
    assert_eq!(ids(&back), ["a", "b"]);
    let kept = Source::Protected { kept: vec!["a".to_owned(), "b".to_owned()] };
    assert_eq!(back.source, kept);
    assert_eq!(registry.lookup("svc").await.unwrap().source, kept, "a lookup says the same");
    let since = Instant::now();
    let in_the_end = next(&mut watch).await;
    assert!(in_the_end.is_empty() && in_the_end.is_current(), "{in_the_end:?}");
    assert!(since.elapsed() >= Duration::from_secs(290), "{:?}", since.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lookup_believes_no_more_than_a_watch_when_the_registry_has_just_come_back_empty() {
    let (fake, registry) = registry().await;
    fake.add("a");
    let mut watch = registry.watch("svc").await.unwrap();
    next(&mut watch).await;
    fake.go_away();
    next(&mut watch).await;
    sleep(Duration::from_secs(60)).await;
    fake.remove(&["a"]);
    // The feed pauses for some seconds yet.
    fake.state().away = false;
    let found = registry.lookup("svc").await.unwrap();
    assert_eq!((ids(&found), found.is_current()), (vec!["a"], false));
}

#[tokio::test(start_paused = true)]
async fn a_mass_that_lapses_is_kept_and_one_that_leaves_in_order_is_not() {
    let (fake, registry) = registry().await;
    let mut leases = Vec::new();
    for id in ["a", "b", "c", "d"] {
        leases.push(registry.register(instance(id)).await.unwrap());
    }
    let mut watch = registry.watch("svc").await.unwrap();
    assert_eq!(next(&mut watch).await.len(), 4);
    for lease in leases {
        lease.revoke().await.unwrap();
    }
    while !next(&mut watch).await.is_empty() {}
    ["e", "f", "g", "h"].iter().for_each(|id| fake.add(id));
    while next(&mut watch).await.len() < 4 {}
    fake.remove(&["e", "f", "g", "h"]);
    let kept = next(&mut watch).await;
    assert_eq!((ids(&kept), kept.is_current()), (vec!["e", "f", "g", "h"], false));
}

#[tokio::test]
async fn a_start_without_the_registry_uses_what_was_remembered() {
    let folder = tempfile::tempdir().unwrap();
    let fake = Fake::new();
    fake.add("a");
    let first = with_cache(&fake, folder.path()).await;
    first.lookup("svc").await.unwrap();
    let is_written = |entry: std::io::Result<std::fs::DirEntry>| {
        entry.unwrap().path().extension().is_some_and(|it| it == "json")
    };
    while !std::fs::read_dir(folder.path()).unwrap().any(is_written) {
        sleep(Duration::from_millis(50)).await;
    }
    drop(first);
    fake.go_away();
    let second = with_cache(&fake, folder.path()).await;
    let found = second.lookup("svc").await.unwrap();
    assert_eq!(ids(&found), ["a"]);
    assert!(found.age().unwrap() < Duration::from_secs(60));
    let mut watch = second.watch("svc").await.unwrap();
    let remembered = next(&mut watch).await;
    assert_eq!((ids(&remembered), remembered.age().is_some()), (vec!["a"], true));
    assert!(second.watch("other").await.unwrap_err().is_unavailable());
    fake.add("b");
    fake.come_back();
    let back = next(&mut watch).await;
    assert_eq!((ids(&back), back.is_current()), (vec!["a", "b"], true));
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_cannot_begin_says_why_and_can_be_tried_again() {
    let (fake, registry) = registry().await;
    fake.go_away();
    let refused = registry.watch("svc").await.unwrap_err();
    assert!(refused.to_string().contains("the registry is away"), "{refused}");
    fake.come_back();
    fake.add("a");
    let mut watch = registry.watch("svc").await.unwrap();
    assert_eq!(ids(&next(&mut watch).await), ["a"]);
}

#[tokio::test(start_paused = true)]
async fn all_watches_of_a_service_share_one_feed_and_it_ends_with_the_last_of_them() {
    let (fake, registry) = registry().await;
    fake.add("a");
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(registry.watch("svc").await.unwrap());
    }
    assert_eq!(fake.state().follows, 1);
    fake.add("b");
    for watch in &mut watches {
        while ids(&next(watch).await) != ["a", "b"] {}
    }
    drop(watches);
    sleep(Duration::from_millis(1)).await;
    assert_eq!(fake.0.changed.receiver_count(), 0, "the feed is gone");
    let mut again = registry.watch("svc").await.unwrap();
    assert_eq!(ids(&next(&mut again).await), ["a", "b"]);
    assert_eq!(fake.state().follows, 2);
}

#[tokio::test(start_paused = true)]
async fn services_are_sorted_and_named_once() {
    let (_fake, registry) = registry().await;
    assert_eq!(registry.services().await.unwrap(), ["a", "b"]);
}

/// In real time, since it is about processor time.
#[tokio::test]
async fn a_list_that_changes_all_the_time_leaves_most_of_the_time_to_others() {
    let fake = Fake::new();
    (0..5_000).for_each(|n| fake.add(&n.to_string()));
    let registry = Resilient::new(fake.clone(), ResilientSettings::default()).await.unwrap();
    let mut watch = registry.watch("svc").await.unwrap();
    let (begun, before) = (Instant::now(), fake.state().lists);
    let mut turns_of_others = 0;
    while begun.elapsed() < Duration::from_secs(2) {
        fake.add("other");
        fake.remove(&["other"]);
        turns_of_others += 1;
        tokio::task::yield_now().await;
    }
    let lists = fake.state().lists - before;
    assert!(turns_of_others > 20 * lists, "{lists} lists, {turns_of_others} turns of others");
    fake.add("last");
    let told =
        async { while !watch.changed().await.unwrap().iter().any(|it| it.id() == "last") {} };
    timeout(Duration::from_secs(10), told).await.expect("the last change is not told");
}
