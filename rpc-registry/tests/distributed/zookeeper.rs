//! The back end `zookeeper:` on a real server, which each test starts for itself.
//!
//! The provider processes are this test program itself, told by the environment to run [`child`].
#![cfg(unix)]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test may fail"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::servers::until;
use crate::servers::zookeeper::ZooKeeper;
use rpc_registry::zookeeper::ZooKeeperBackEnd;
use rpc_registry::{
    BackEnd, Claim, Instance, LeaseState, Registry, RegistryError, RegistryUri, Snapshot, Source,
    Watch, connect, testing,
};
use tokio::time::{Instant, timeout};
use zookeeper_client::Client;

/// Soon gone, soon away. Servers under test allow sessions of 0.4 to 4 s.
const QUICK: &str = "cache=off&lease=1000ms&request_timeout=1000ms";
/// For what must outlive the restart of a server.
const PATIENT: &str = "cache=off&lease=4000ms&request_timeout=500ms";
/// The same for one server: the first session of one that has just started takes its time, and there
/// is no other to turn to.
const ALONE: &str = "cache=off&lease=4000ms&request_timeout=2000ms";
/// How long a test may wait for something on a machine that has other things to do.
const PATIENCE: Duration = Duration::from_secs(60);

const ROLE: &str = "RPC_REGISTRY_TEST_URI";
/// What a child prints when it has registered.
const READY: &str = "@ready";

/// Not a test of its own: what the provider processes run.
#[tokio::test]
async fn child() {
    let Ok(uri) = std::env::var(ROLE) else { return };
    // Ends with the parent, however that ends.
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    let registry = connect(uri).await.unwrap();
    let mut leases = Vec::new();
    for id in ["a", "b", "c", "d", "e", "f"] {
        leases.push(registry.register(instance(id)).await.unwrap());
    }
    println!("{READY}");
    std::future::pending::<()>().await;
}

/// A process with six registrations, killed when dropped.
struct Provider(Child);

impl Provider {
    fn start(uri: &str) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["zookeeper::child", "--exact", "--nocapture"])
            .env(ROLE, uri)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let is_ready = output.lines().any(|line| line.unwrap().contains(READY));
        assert!(is_ready, "the child ended before it was ready");
        Self(child)
    }

    fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn instance(id: &str) -> Instance {
    Instance::new("svc", "tcp://127.0.0.1:9").with_id(id)
}

fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.iter().map(Instance::id).collect()
}

/// Waits until the watch returns such a state.
async fn seen(watch: &mut Watch, what: &str, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let mut last = None;
    let seen = timeout(PATIENCE, async {
        loop {
            let now = watch.changed().await.unwrap();
            if wanted(&now) {
                return now;
            }
            last = Some(now);
        }
    });
    match seen.await {
        Ok(seen) => seen,
        Err(_) => panic!("not so: {what}; the last state is {last:?}"),
    }
}

async fn refused(registry: &Arc<dyn Registry>) -> RegistryError {
    let begun = Instant::now();
    let error = registry.lookup("svc").await.unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(4), "took {:?}", begun.elapsed());
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_keeps_the_rules_of_all_back_ends() {
    let Some(server) = ZooKeeper::start(1, "cache=off").await else { return };
    testing::conformance(&server).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ensemble_keeps_the_rules_and_survives_the_death_of_its_leader() {
    let Some(ensemble) = ZooKeeper::start(3, PATIENT).await else { return };
    testing::conformance(&ensemble).await;

    let (provider, consumer) = (ensemble.registry().await, ensemble.registry().await);
    let a = provider.register(instance("a")).await.unwrap();
    let mut watch = consumer.watch("svc").await.unwrap();
    seen(&mut watch, "a is seen", |now| ids(now) == ["a"]).await;
    ensemble.kill_leader();
    let killed = Instant::now();
    // Each attempt is new, and none of those that fail may leave anything.
    let b = loop {
        match provider.register(instance("b")).await {
            Ok(lease) => break lease,
            Err(error) => assert!(error.is_unavailable() || error.is_timeout(), "{error}"),
        }
        assert!(killed.elapsed() < PATIENCE, "the ensemble takes no registrations");
    };
    let is_whole = |now: &Snapshot| {
        assert!(!now.is_empty(), "a has never left");
        now.is_current() && ids(now) == ["a", "b"]
    };
    seen(&mut watch, "the watch is whole again", is_whole).await;
    assert!(killed.elapsed() < Duration::from_secs(20), "took {:?}", killed.elapsed());
    assert_eq!(ids(&consumer.lookup("svc").await.unwrap()), ["a", "b"]);
    let c = provider.register(instance("c")).await.unwrap();
    seen(&mut watch, "later changes are heard too", |now| now.len() == 3).await;
    for lease in [a, b, c] {
        lease.revoke().await.unwrap();
    }
    seen(&mut watch, "all have left", |now| now.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_is_an_outage() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let (provider, consumer) = (server.registry().await, server.registry().await);
    let lease = provider.register(instance("a")).await.unwrap();
    let mut watch = consumer.watch("svc").await.unwrap();
    seen(&mut watch, "a is seen", |now| ids(now) == ["a"]).await;
    server.freeze();
    let asked = Instant::now();
    let found = consumer.lookup("svc").await.unwrap();
    assert!(found.age().is_some() && ids(&found) == ["a"], "{found:?}");
    assert!(asked.elapsed() < Duration::from_secs(4), "took {:?}", asked.elapsed());
    seen(&mut watch, "the watch says so", |now| now.age().is_some()).await;
    server.thaw();
    seen(&mut watch, "the watch is whole again", |now| now.is_current() && now.len() == 1).await;
    lease.revoke().await.unwrap();
    seen(&mut watch, "a has left", |now| now.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_thirty_seconds_without_a_server_all_is_whole_again() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    testing::outage(&server, Duration::from_secs(30)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_short_outage_all_is_whole_again() {
    let Some(server) = ZooKeeper::start(1, ALONE).await else { return };
    testing::outage(&server, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_has_forgotten_everything_is_told_again() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let (provider, consumer) = (server.registry().await, server.registry().await);
    let mut leases = Vec::new();
    for id in ["a", "b", "c", "d"] {
        leases.push(provider.register(instance(id)).await.unwrap());
    }
    let mut watch = consumer.watch("svc").await.unwrap();
    seen(&mut watch, "all are seen", |now| now.len() == 4).await;

    server.kill();
    server.wipe();
    server.run().await;
    let is_back = |now: &Snapshot| {
        assert!(now.len() >= 2, "a list that has lost more than half is not believed: {now:?}");
        now.is_current() && now.len() == 4
    };
    seen(&mut watch, "the watch is whole again", is_back).await;
    until("a lookup finds them", PATIENCE, async || {
        let found = consumer.lookup("svc").await.unwrap();
        found.is_current() && found.len() == 4
    })
    .await;
    for lease in leases {
        lease.revoke().await.unwrap();
    }
    seen(&mut watch, "an orderly departure is believed", |now| now.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopped_provider_lapses_with_its_session_and_comes_back_with_a_new_one() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let registry = server.unprotected().await;
    let provider = Provider::start(&server.uri("", "test"));
    let mut watch = registry.watch("svc").await.unwrap();
    let before = seen(&mut watch, "all are seen", |now| now.len() == 6).await;
    provider.signal("-STOP");
    let stopped = Instant::now();
    seen(&mut watch, "they have lapsed", |now| now.is_empty()).await;
    // The last sign of life may be as old as the client's pause between two.
    assert!(stopped.elapsed() > Duration::from_millis(500), "took {:?}", stopped.elapsed());
    provider.signal("-CONT");
    let after = seen(&mut watch, "all are back", |now| now.len() == 6).await;
    for (before, after) in before.iter().zip(&after) {
        assert!(after.epoch() > before.epoch(), "{before:?} {after:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_providers_are_gone_with_their_session_and_a_mass_of_them_is_kept_for_a_while() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let (believing, protected) = (server.unprotected().await, server.registry().await);
    let provider = Provider::start(&server.uri("", "test"));
    let mut believes = believing.watch("svc").await.unwrap();
    let mut keeps = protected.watch("svc").await.unwrap();
    seen(&mut believes, "all are seen", |now| now.len() == 6).await;
    seen(&mut keeps, "all are seen", |now| now.len() == 6).await;
    drop(provider);
    let killed = Instant::now();
    seen(&mut believes, "they have lapsed", |now| now.is_empty()).await;
    assert!(killed.elapsed() < Duration::from_secs(10), "took {:?}", killed.elapsed());
    let is_protected = |now: &Snapshot| matches!(now.source, Source::Protected { .. });
    let kept = seen(&mut keeps, "a mass of lapses is not believed", is_protected).await;
    assert_eq!(ids(&kept), ["a", "b", "c", "d", "e", "f"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_epoch_neither_replaces_nor_removes_a_newer_one() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let uri = RegistryUri::parse(&server.uri("", "test")).unwrap();
    let (one, two) = (ZooKeeperBackEnd::new(&uri).unwrap(), ZooKeeperBackEnd::new(&uri).unwrap());
    let mut first = one.announce(instance("a"), Claim::New).await.unwrap();
    let epoch = first.instance.epoch();
    for older in [epoch.saturating_sub(1), epoch] {
        let claim = two.announce(instance("a").with_epoch(older), Claim::Again).await;
        assert!(claim.err().unwrap().is_already_exists());
    }
    let newer = two.announce(instance("a").with_epoch(epoch + 1), Claim::Again).await.unwrap();
    first.session.withdraw().await.unwrap();
    drop(first);
    let late = one.announce(instance("a").with_epoch(epoch), Claim::Again).await;
    assert!(late.err().unwrap().is_already_exists());
    let found = one.list("svc").await.unwrap();
    assert_eq!(found, std::slice::from_ref(&newer.instance));

    // Another holder of the id begins above all that the one before may try.
    let mut newer = newer;
    newer.session.withdraw().await.unwrap();
    let next = one.announce(instance("a"), Claim::New).await.unwrap();
    assert!(next.instance.epoch() > epoch + 1000);
    let former = two.announce(instance("a").with_epoch(epoch + 100), Claim::Again).await;
    assert!(former.err().unwrap().is_already_exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_cannot_remove_its_successor_of_the_same_session() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let registry = server.registry().await;
    let stale = registry.register(instance("a")).await.unwrap();
    assert!(registry.unregister("svc", "a").await.unwrap());
    let successor = registry.register(instance("a").with_weight(7)).await.unwrap();
    stale.revoke().await.unwrap();
    assert_eq!(registry.lookup("svc").await.unwrap()[0].weight(), 7);
    drop(successor);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_could_not_be_removed_goes_when_the_server_is_back() {
    let Some(server) = ZooKeeper::start(1, PATIENT).await else { return };
    let (registry, other) = (server.registry().await, server.registry().await);
    let stays = registry.register(instance("stays")).await.unwrap();
    let revoked = registry.register(instance("revoked")).await.unwrap();
    let dropped = registry.register(instance("dropped")).await.unwrap();
    server.kill();
    drop(dropped);
    let error = revoked.revoke().await.unwrap_err();
    assert!(error.is_timeout() || error.is_unavailable(), "{error}");
    server.run().await;
    until("only one is left", PATIENCE, async || {
        other.lookup("svc").await.is_ok_and(|found| ids(&found) == ["stays"])
    })
    .await;
    until("it is held", PATIENCE, async || matches!(stays.states().now(), LeaseState::Held { .. }))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_service_that_the_server_has_cleared_away_is_made_again_and_its_watch_goes_on() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let registry = server.registry().await;
    let mut watch = registry.watch("svc").await.unwrap();
    registry.register(instance("a")).await.unwrap().revoke().await.unwrap();
    let client = Client::connect(&server.servers()).await.unwrap();
    until("the empty service is cleared away", PATIENCE, async || {
        client.check_stat("/test/svc").await.unwrap().is_none()
    })
    .await;
    let lease = registry.register(instance("b")).await.unwrap();
    seen(&mut watch, "b is seen", |now| ids(now) == ["b"]).await;
    drop(lease);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_no_instance_does_not_take_the_others_with_it() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let registry = server.registry().await;
    let mut watch = registry.watch("svc").await.unwrap();
    let lease = registry.register(instance("a")).await.unwrap();
    let client = Client::connect(&server.servers()).await.unwrap();
    let options =
        zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::anyone_all());
    for (node, data) in [("b", "no JSON"), ("%zz", "{}"), ("c", r#"{"service":"svc"}"#)] {
        client.create(&format!("/test/svc/{node}"), data.as_bytes(), &options).await.unwrap();
    }
    assert_eq!(ids(&registry.lookup("svc").await.unwrap()), ["a"]);
    seen(&mut watch, "a is seen", |now| ids(now) == ["a"]).await;
    drop(lease);
    seen(&mut watch, "a has left", |now| now.is_empty()).await;
}

/// Collects the lines of the log, of all threads.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl tracing::Subscriber for Log {
    fn enabled(&self, metadata: &tracing::Metadata<'_>) -> bool {
        *metadata.level() <= tracing::Level::WARN && metadata.target().starts_with("rpc_registry")
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn event(&self, event: &tracing::Event<'_>) {
        let mut line = String::new();
        event.record(&mut |field: &tracing::field::Field, value: &dyn std::fmt::Debug| {
            line.push_str(&format!("{field}={value:?} "));
        });
        self.0.lock().unwrap().push(line);
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_everybody_may_change_although_there_is_a_user_are_told() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let log = Log::default();
    tracing::subscriber::set_global_default(log.clone()).unwrap();
    let with_user = |root: &str| server.uri("me:word@", root);
    let told = |node: &str| log.0.lock().unwrap().iter().any(|line| line.contains(node));
    let own = connect(with_user("own")).await.unwrap();
    let _own = own.register(instance("a")).await.unwrap();
    own.watch("svc").await.unwrap();
    assert!(!told("/own"), "{:?}", log.0);
    // A stranger has made the node of the service first, and may remove what is below it.
    let stranger = Client::connect(&server.servers()).await.unwrap();
    let options =
        zookeeper_client::CreateMode::Persistent.with_acls(zookeeper_client::Acls::anyone_all());
    stranger.create("/strange", &[], &options).await.unwrap();
    stranger.create("/strange/svc", &[], &options).await.unwrap();
    let strange = connect(with_user("strange")).await.unwrap();
    let _lease = strange.register(instance("a")).await.unwrap();
    assert!(told("/strange"), "{:?}", log.0);
    stranger.delete("/strange/svc/a", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_is_told_at_once() {
    let Some(server) = ZooKeeper::start(1, QUICK).await else { return };
    let owner = connect(server.uri("me:right@", "owned")).await.unwrap();
    let lease = owner.register(instance("a")).await.unwrap();
    for wrong in ["me:hunter2@", "other:right@", ""] {
        let registry = connect(server.uri(wrong, "owned")).await.unwrap();
        for error in [
            refused(&registry).await,
            registry.register(instance("b")).await.unwrap_err(),
            registry.watch("svc").await.unwrap_err(),
            registry.unregister("svc", "a").await.unwrap_err(),
        ] {
            assert!(error.is_permission_denied(), "{error}");
            assert!(!error.to_string().contains("hunter2"), "{error}");
            assert!(error.to_string().contains("check the user and the password"), "{error}");
        }
    }
    assert_eq!(ids(&owner.lookup("svc").await.unwrap()), ["a"]);
    drop(lease);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_none_are_told_within_the_connect_timeout() {
    let uri = |listener: &TcpListener| {
        let address = listener.local_addr().unwrap();
        format!("zookeeper://{address}/x?cache=off&request_timeout=1000ms")
    };
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let closed = uri(&listener);
    drop(listener);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let uris = [closed, uri(&silent), uri(&other)];
    std::thread::spawn(move || {
        for mut stream in other.incoming().flatten() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    for uri in uris {
        let registry = connect(&uri).await.unwrap();
        for error in [
            refused(&registry).await,
            registry.register(instance("a")).await.unwrap_err(),
            registry.watch("svc").await.unwrap_err(),
        ] {
            assert!(error.is_unavailable() || error.is_timeout(), "{error}");
            assert!(error.to_string().contains(&uri), "{error}");
            assert!(error.to_string().contains("; check that"), "{error}");
        }
    }
}
