//! What becomes of registrations and watches when etcd is away, hangs or forgets.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::servers::etcd::Etcd;
use crate::servers::{ids, settled, until};
use rpc_registry::testing::{self, Outage};
use rpc_registry::{BoxFuture, Instance, Lease, LeaseState, Registry, RegistryError, Watch};
use tokio::sync::Mutex;
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

fn instance(id: &str) -> Instance {
    Instance::new("com.shop.Orders", "tcp://127.0.0.1:9000").with_id(id)
}

async fn registry(etcd: &Etcd, rest: &str) -> Arc<dyn Registry> {
    rpc_registry::connect(etcd.uri("", rest)).await.unwrap()
}

/// An etcd that can be taken away.
struct Removable {
    uri: String,
    etcd: Mutex<Etcd>,
}

impl testing::Fixture for Removable {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(rpc_registry::connect(&self.uri))
    }
}

impl Outage for Removable {
    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.etcd.lock().await.stop_node(0) })
    }

    fn start(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.etcd.lock().await.start_node(0) })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_leaves_no_trace() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let uri = etcd.uri("", "/rpc?lease=2s&request_timeout=500ms&cache=off");
    let fixture = Removable { uri, etcd: Mutex::new(etcd) };
    // Shorter than the leases, and longer.
    testing::outage(&fixture, Duration::from_millis(500)).await;
    testing::outage(&fixture, Duration::from_secs(5)).await;
}

/// Whole again: found as if nothing had been, by lookups and watches.
async fn whole(registry: &Arc<dyn Registry>, watch: &mut Watch, wanted: &[&str]) {
    until("all are registered again", Duration::from_secs(25), async || {
        matches!(registry.lookup("com.shop.Orders").await,
            Ok(found) if found.is_current() && ids(&found) == wanted)
    })
    .await;
    settled(watch, wanted, SOON).await;
}

#[tokio::test]
async fn while_etcd_is_stopped_for_30_s_lookups_say_how_old_they_are_and_all_comes_back() {
    let Some(mut etcd) = Etcd::start(1).await else { return };
    let registry = registry(&etcd, "/rpc?lease=5s&request_timeout=500ms&cache=off").await;
    let a = registry.register(instance("a")).await.unwrap();
    let _b = registry.register(instance("b")).await.unwrap();
    let mut watch = registry.watch("com.shop.Orders").await.unwrap();
    settled(&mut watch, &["a", "b"], SOON).await;
    etcd.stop_node(0);
    let stopped = Instant::now();
    let mut last_age = Duration::ZERO;
    until("30 s", Duration::from_secs(60), async || {
        let found = registry.lookup("com.shop.Orders").await.unwrap();
        assert_eq!(ids(&found), ["a", "b"]);
        last_age = found.age().expect("an age while etcd is away");
        assert!(last_age <= stopped.elapsed() + Duration::from_secs(2));
        tokio::time::sleep(Duration::from_millis(200)).await;
        stopped.elapsed() > Duration::from_secs(30)
    })
    .await;
    assert!(last_age > Duration::from_secs(25), "{last_age:?}");
    assert!(matches!(a.states().now(), LeaseState::Lost { .. }));
    etcd.start_node(0);
    whole(&registry, &mut watch, &["a", "b"]).await;
    until("the lease says so", SOON, async || {
        matches!(a.states().now(), LeaseState::Held { epoch } if epoch > a.instance().epoch())
    })
    .await;
    let _c = registry.register(instance("c")).await.unwrap();
    settled(&mut watch, &["a", "b", "c"], SOON).await;
}

#[tokio::test]
async fn a_lease_that_is_dropped_while_etcd_is_away_is_gone_soon_after() {
    let Some(mut etcd) = Etcd::start(1).await else { return };
    let registry = registry(&etcd, "/rpc?lease=600s&cache=off").await;
    let lease = registry.register(instance("a")).await.unwrap();
    etcd.stop_node(0);
    drop(lease);
    tokio::time::sleep(Duration::from_secs(2)).await;
    etcd.start_node(0);
    until(
        "it is gone, long before its time",
        SOON,
        async || matches!(registry.lookup("com.shop.Orders").await, Ok(found) if found.is_empty()),
    )
    .await;
}

#[tokio::test]
async fn a_program_that_starts_without_etcd_uses_what_it_remembers() {
    let Some(mut etcd) = Etcd::start(1).await else { return };
    let folder = tempfile::tempdir().unwrap();
    let rest = format!("/rpc?request_timeout=500ms&cache={}", folder.path().display());
    let first = registry(&etcd, &rest).await;
    let _lease = first.register(instance("a")).await.unwrap();
    assert_eq!(ids(&first.lookup("com.shop.Orders").await.unwrap()), ["a"]);
    etcd.stop_node(0);
    until("it is remembered", SOON, async || {
        let second = registry(&etcd, &rest).await;
        matches!(second.lookup("com.shop.Orders").await,
            Ok(found) if found.age().is_some() && ids(&found) == ["a"])
    })
    .await;
    let second = registry(&etcd, &rest).await;
    let mut watch = second.watch("com.shop.Orders").await.unwrap();
    assert_eq!(ids(&watch.changed().await.unwrap()), ["a"]);
    let unknown = second.lookup("unknown").await.unwrap_err();
    assert!(unknown.is_unavailable(), "{unknown}");
    etcd.start_node(0);
    settled(&mut watch, &["a"], Duration::from_secs(25)).await;
}

#[tokio::test]
async fn an_etcd_that_has_lost_all_gets_the_registrations_again() {
    let Some(mut etcd) = Etcd::start(1).await else { return };
    let registry = registry(&etcd, "/rpc?lease=5s&cache=off").await;
    let leases = [registry.register(instance("a")), registry.register(instance("b"))];
    let [a, b] = leases;
    let leases = (a.await.unwrap(), b.await.unwrap());
    let mut watch = registry.watch("com.shop.Orders").await.unwrap();
    settled(&mut watch, &["a", "b"], SOON).await;
    etcd.stop_node(0);
    etcd.wipe(0);
    etcd.start_node(0);
    let mut never_empty = registry.watch("com.shop.Orders").await.unwrap();
    whole(&registry, &mut watch, &["a", "b"]).await;
    while let Ok(seen) = timeout(Duration::from_millis(100), never_empty.changed()).await {
        assert_eq!(ids(&seen.unwrap()), ["a", "b"]);
    }
    drop(leases);
    settled(&mut watch, &[], SOON).await;
}

fn ids_of(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Looks up and registers without a pause, and fails on a wrong answer. That none comes is none.
async fn load(registry: Arc<dyn Registry>, always: Vec<String>) {
    for n in 0_u32.. {
        if let Ok(found) = registry.lookup("com.shop.Orders").await {
            let found = ids(&found);
            assert!(always.iter().all(|id| found.contains(&id.as_str())), "{found:?}");
        }
        let id = format!("w{n}");
        let other = Instance::new("other", "tcp://127.0.0.1:1").with_id(&id);
        if let Ok(lease) = registry.register(other).await {
            if let Ok(found) = registry.lookup("other").await {
                assert!(!found.is_current() || ids(&found).contains(&id.as_str()), "no {id}");
            }
            drop(lease);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_leader_is_killed_no_answer_is_wrong_and_all_is_whole_within_10_s() {
    let Some(mut etcd) = Etcd::start(3).await else { return };
    let registry = registry(&etcd, "/rpc?lease=5s&cache=off").await;
    let names: Vec<_> = (0..20).map(|n| format!("i{n:02}")).collect();
    let mut leases = Vec::new();
    for name in &names {
        leases.push(registry.register(instance(name)).await.unwrap());
    }
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    // One watch at each server, and one for what comes later.
    let mut watches = Vec::new();
    for _ in 0..4 {
        let other = self::registry(&etcd, "/rpc?lease=5s&cache=off").await;
        let mut watch = other.watch("com.shop.Orders").await.unwrap();
        settled(&mut watch, &names, SOON).await;
        watches.push((other, watch));
    }
    let load = tokio::spawn(load(Arc::clone(&registry), ids_of(&names)));
    tokio::time::sleep(Duration::from_secs(1)).await;
    etcd.stop_node(etcd.leader());
    let killed = Instant::now();
    until("a registration is made", SOON, async || {
        match registry.register(instance("late")).await {
            Ok(lease) => {
                leases.push(lease);
                true
            }
            Err(_) => false,
        }
    })
    .await;
    let mut wanted = [&names[..], &["late"]].concat();
    wanted.sort_unstable();
    load.abort();
    if let Err(failed) = load.await {
        assert!(failed.is_cancelled(), "{failed}");
    }
    for (_, watch) in &mut watches {
        settled(watch, &wanted, SOON).await;
    }
    until("lookups are current", SOON, async || {
        matches!(registry.lookup("com.shop.Orders").await,
            Ok(found) if found.is_current() && ids(&found) == wanted)
    })
    .await;
    assert!(killed.elapsed() < Duration::from_secs(10), "{:?}", killed.elapsed());
    let held = |lease: &Lease| matches!(lease.states().now(), LeaseState::Held { .. });
    assert!(leases.iter().all(held));
}

#[tokio::test]
async fn a_leader_that_hangs_is_left_for_another_server() {
    let Some(etcd) = Etcd::start(3).await else { return };
    let registry = registry(&etcd, "/rpc?lease=5s&cache=off").await;
    let mut leases = vec![registry.register(instance("a")).await.unwrap()];
    // One at each server.
    let mut watches = Vec::new();
    for _ in 0..8 {
        let other = self::registry(&etcd, "/rpc?lease=5s&cache=off").await;
        let mut watch = other.watch("com.shop.Orders").await.unwrap();
        settled(&mut watch, &["a"], SOON).await;
        watches.push((other, watch));
    }
    let leader = etcd.leader();
    etcd.node(leader).freeze();
    until("a registration is made", SOON, async || match registry.register(instance("b")).await {
        Ok(lease) => {
            leases.push(lease);
            true
        }
        Err(_) => false,
    })
    .await;
    for (_, watch) in &mut watches {
        settled(watch, &["a", "b"], Duration::from_secs(20)).await;
    }
    let all_are_held = |lease: &Lease| matches!(lease.states().now(), LeaseState::Held { .. });
    until("all are held", SOON, async || leases.iter().all(all_are_held)).await;
    etcd.node(leader).thaw();
}
