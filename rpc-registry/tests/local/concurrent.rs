//! Many tasks of one process at one registry, and both back ends against one model.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use proptest::prelude::*;
use rpc_registry::{Instance, Lease, Registry, Watch, connect};
use tempfile::TempDir;
use tokio::task::JoinSet;
use tokio::time::timeout;

async fn folder() -> (TempDir, String, Arc<dyn Registry>) {
    let dir = tempfile::tempdir().unwrap();
    // Generous, so that a machine under load does not fail a test that is not about time.
    let uri = format!("file://{}?lock_timeout=120000ms", dir.path().display());
    let registry = connect(&uri).await.unwrap();
    (dir, uri, registry)
}

fn instance(id: &str) -> Instance {
    Instance::new("svc", "tcp://127.0.0.1:9000").with_id(id)
}

async fn ids(registry: &Arc<dyn Registry>) -> Vec<String> {
    let found = registry.lookup("svc").await.unwrap();
    found.iter().map(|instance| instance.id().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nothing_is_lost_when_many_tasks_register_and_leave_at_once() {
    let (dir, uri, registry) = folder().await;
    let _constant = registry.register(instance("constant")).await.unwrap();
    let mut tasks = JoinSet::new();
    for task in 0..24 {
        let uri = uri.clone();
        tasks.spawn(async move {
            let registry = connect(uri).await.unwrap();
            for round in 0..6 {
                let id = format!("{task}-{round}");
                let lease = registry.register(instance(&id)).await.unwrap();
                let found = ids(&registry).await;
                assert!(found.contains(&id), "{id} is registered and was not found");
                assert!(found.contains(&"constant".to_owned()), "a bystander was lost");
                match round % 2 {
                    0 => lease.revoke().await.unwrap(),
                    _ => drop(lease),
                }
                assert!(!ids(&registry).await.contains(&id), "{id} was found after its end");
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    assert_eq!(ids(&registry).await, ["constant"]);
    let _last = registry.register(instance("last")).await.unwrap();
    assert_eq!(std::fs::read_dir(dir.path().join("leases")).unwrap().count(), 2);
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn registrations_that_wait_for_their_turn_are_written_together() {
    use std::os::unix::fs::MetadataExt;
    let (dir, uri, registry) = folder().await;
    let _first = registry.register(instance("first")).await.unwrap();
    let lock = std::fs::File::open(dir.path().join("registry.lock")).unwrap();
    lock.lock().unwrap();
    let list = dir.path().join("registry.jsonl");
    let which = move || std::fs::metadata(&list).unwrap().ino();
    let mut tasks = JoinSet::new();
    for n in 0..200 {
        let registry = connect(&uri).await.unwrap();
        tasks.spawn(async move { registry.register(instance(&n.to_string())).await.unwrap() });
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    let writes = std::thread::spawn(move || {
        let mut seen = vec![which()];
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(1) {
            let now = which();
            if seen.last() != Some(&now) {
                seen.push(now);
            }
        }
        seen.len() - 1
    });
    lock.unlock().unwrap();
    let _leases = tasks.join_all().await;
    assert_eq!(ids(&registry).await.len(), 201);
    let writes = writes.join().unwrap();
    assert!((1..20).contains(&writes), "written {writes} times");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hand_over_never_looks_like_nobody() {
    let (_dir, uri, registry) = folder().await;
    let mut current = registry.register(instance("0")).await.unwrap();
    let done = Arc::new(AtomicBool::new(false));
    let looks = Arc::new(AtomicU64::new(0));
    let mut readers = JoinSet::new();
    for _ in 0..3 {
        let (uri, done, looks) = (uri.clone(), Arc::clone(&done), Arc::clone(&looks));
        readers.spawn(async move {
            let registry = connect(uri).await.unwrap();
            while !done.load(Ordering::Relaxed) {
                assert!(!ids(&registry).await.is_empty(), "nobody, although somebody was there");
                looks.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let mut generation = 1;
    while generation < 300 || looks.load(Ordering::Relaxed) < 1000 {
        let next = registry.register(instance(&generation.to_string())).await.unwrap();
        drop(std::mem::replace(&mut current, next));
        generation += 1;
        if readers.try_join_next().is_some_and(|reader| reader.is_err()) {
            panic!("a reader has failed");
        }
    }
    done.store(true, Ordering::Relaxed);
    while let Some(reader) = readers.join_next().await {
        reader.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_registration_that_is_cancelled_at_any_moment_is_taken_back() {
    let (dir, _, registry) = folder().await;
    let mut cancelled = 0;
    for n in 0..200_u64 {
        let register = registry.register(instance(&format!("c{n}")));
        match timeout(Duration::from_micros(n * 20), register).await {
            Ok(lease) => drop(lease.unwrap()),
            Err(_) => cancelled += 1,
        }
    }
    assert!(cancelled > 0, "nothing was cancelled");
    // What was under way ends on another thread; no lease may be left over then.
    let emptied = async {
        while std::fs::read_dir(dir.path().join("leases")).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(60), emptied).await.expect("a cancelled registration lives on");
    assert!(ids(&registry).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_reaches_a_hundred_watches_within_200_ms() {
    async fn heard(watches: Vec<Watch>, wanted: usize) -> Vec<Watch> {
        let hear = |mut watch: Watch| async move {
            while watch.changed().await.unwrap().len() != wanted {}
            watch
        };
        let all = watches.into_iter().map(hear).collect::<JoinSet<_>>().join_all();
        timeout(Duration::from_secs(20), all).await.expect("not all have heard")
    }
    let (_dir, uri, registry) = folder().await;
    let mut watches = Vec::new();
    for _ in 0..100 {
        watches.push(connect(&uri).await.unwrap().watch("svc").await.unwrap());
    }
    watches = heard(watches, 0).await;
    let mut took = Vec::new();
    for _ in 0..5 {
        let changed = Instant::now();
        let lease = registry.register(instance("a")).await.unwrap();
        watches = heard(watches, 1).await;
        took.push(changed.elapsed());
        let changed = Instant::now();
        drop(lease);
        watches = heard(watches, 0).await;
        took.push(changed.elapsed());
    }
    took.sort_unstable();
    // The machine may be busy with something else now and then.
    assert!(took[took.len() / 2] < Duration::from_millis(200), "{took:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Register(&'static str, &'static str),
    Drop(&'static str, &'static str),
    Revoke(&'static str, &'static str),
    Unregister(&'static str, &'static str),
}

fn step() -> impl Strategy<Value = Step> {
    let service = prop::sample::select(vec!["a", "b"]);
    let id = prop::sample::select(vec!["1", "2", "3"]);
    (0..4, service, id).prop_map(|(kind, service, id)| match kind {
        0 => Step::Register(service, id),
        1 => Step::Drop(service, id),
        2 => Step::Revoke(service, id),
        _ => Step::Unregister(service, id),
    })
}

/// The leases that were given out, stale ones included, beside what must be visible.
#[derive(Default)]
struct Model {
    visible: BTreeSet<(&'static str, &'static str)>,
    /// With each lease: whether it is the one that keeps its instance visible.
    leases: BTreeMap<(&'static str, &'static str), Vec<(Lease, bool)>>,
}

impl Model {
    async fn take(&mut self, registry: &Arc<dyn Registry>, step: Step) {
        match step {
            Step::Register(service, id) => {
                let instance = Instance::new(service, "tcp://h:1").with_id(id);
                match registry.register(instance).await {
                    Ok(lease) => {
                        assert!(self.visible.insert((service, id)), "an id was given out twice");
                        self.leases.entry((service, id)).or_default().push((lease, true));
                    }
                    Err(error) => {
                        assert!(error.is_already_exists(), "{error}");
                        assert!(self.visible.contains(&(service, id)));
                    }
                }
            }
            Step::Drop(service, id) => drop(self.oldest(service, id)),
            Step::Revoke(service, id) => {
                if let Some(lease) = self.oldest(service, id) {
                    lease.revoke().await.unwrap();
                }
            }
            Step::Unregister(service, id) => {
                let there = self.visible.remove(&(service, id));
                assert_eq!(registry.unregister(service, id).await.unwrap(), there);
                for (_, keeps) in self.leases.entry((service, id)).or_default() {
                    *keeps = false;
                }
            }
        }
    }

    fn oldest(&mut self, service: &'static str, id: &'static str) -> Option<Lease> {
        let leases = self.leases.get_mut(&(service, id)).filter(|leases| !leases.is_empty())?;
        let (lease, keeps) = leases.remove(0);
        if keeps {
            self.visible.remove(&(service, id));
        }
        Some(lease)
    }

    async fn check(&self, registry: &Arc<dyn Registry>) {
        for service in ["a", "b"] {
            let found = registry.lookup(service).await.unwrap();
            let found: Vec<_> = found.iter().map(Instance::id).collect();
            let expected = self.visible.iter().filter(|(s, _)| *s == service);
            assert_eq!(found, expected.map(|(_, id)| *id).collect::<Vec<_>>());
        }
        let services: BTreeSet<_> = self.visible.iter().map(|(s, _)| (*s).to_owned()).collect();
        assert_eq!(registry.services().await.unwrap(), Vec::from_iter(services));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]

    #[test]
    fn a_lease_keeps_its_own_registration_and_no_other(
        steps in prop::collection::vec(step(), 1..30)
    ) {
        static RUN: AtomicU64 = AtomicU64::new(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (_dir, _, file) = folder().await;
            let run = RUN.fetch_add(1, Ordering::Relaxed);
            let memory = connect(format!("memory:model-{run}")).await.unwrap();
            for registry in [file, memory] {
                let mut model = Model::default();
                for step in &steps {
                    model.take(&registry, step.clone()).await;
                    model.check(&registry).await;
                }
            }
        });
    }
}
