//! Measures a registry with many instances:
//!
//! ```text
//! cargo run --release --bin registry-bench --features etcd,zookeeper -- URI [INSTANCES [SERVICES]]
//! ```
//!
//! The default is 10,000 instances of 500 services, all of this process. With `file:` each instance
//! keeps a file open, so use `ulimit -n 12000`. The results are printed as rows of a table;
//! `docs/benchmarks/registry.md` has those of each back end.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a measurement that fails is none")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use rpc_registry::{Instance, Lease, Registry, Watch};
use tokio::task::JoinSet;

/// Number of concurrent registrations and removals.
const AT_ONCE: usize = 64;
/// Number of watches of one service, each with a separate connection.
const WATCHES: usize = 100;
const LOOKUPS: usize = 2_000;
const CHANGES: usize = 50;

#[tokio::main]
async fn main() {
    let mut args = std::env::args().skip(1);
    let Some(uri) = args.next() else {
        println!("usage: registry-bench URI [INSTANCES [SERVICES]]");
        std::process::exit(2);
    };
    let mut number = |default| args.next().map_or(default, |text| text.parse::<usize>().unwrap());
    let (instances, services) = (number(10_000), number(500));
    let registry = rpc_examples::registry(&uri).await.unwrap();
    println!("{instances} instances of {services} services at {}\n", registry.uri());
    println!("| what | per second | median | 99 % | worst |");
    println!("| --- | ---: | ---: | ---: | ---: |");

    let (leases, figures) = register(&registry, instances, services).await;
    figures.print(&format!("register, {AT_ONCE} at a time"));
    register_one_by_one(&registry).await.print("register beside all these, one after the other");
    lookups(&registry, services).await.print("look up a service, one after the other");
    lookups_at_once(&registry, services).await.print("look up a service, 8 at a time");
    changes(&uri, &registry).await.print(&format!("a change reaches all {WATCHES} watches of it"));
    leave(leases).await.print(&format!("leave, {AT_ONCE} at a time"));
}

fn service(number: usize) -> String {
    format!("bench.Service{number}")
}

fn instance(service: String) -> Instance {
    Instance::new(service, "tcp://127.0.0.1:9000").with_zone("zone-1").with_metadata("rack", "r7")
}

async fn register(
    registry: &Arc<dyn Registry>,
    instances: usize,
    services: usize,
) -> (Vec<Lease>, Figures) {
    let mut figures = Figures::begin();
    let mut running = JoinSet::new();
    let mut leases = Vec::with_capacity(instances);
    for number in 0..instances {
        if running.len() == AT_ONCE {
            figures.take(running.join_next().await, &mut leases);
        }
        let registry = Arc::clone(registry);
        running.spawn(async move {
            let begun = Instant::now();
            let lease = registry.register(instance(service(number % services))).await.unwrap();
            (lease, begun.elapsed())
        });
    }
    while let Some(done) = running.join_next().await {
        figures.take(Some(done), &mut leases);
    }
    (leases, figures)
}

async fn register_one_by_one(registry: &Arc<dyn Registry>) -> Figures {
    let mut figures = Figures::begin();
    for _ in 0..CHANGES {
        let begun = Instant::now();
        let lease = registry.register(instance(service(0))).await.unwrap();
        figures.add(begun.elapsed());
        lease.revoke().await.unwrap();
    }
    figures.without_rate()
}

async fn lookups(registry: &Arc<dyn Registry>, services: usize) -> Figures {
    let mut figures = Figures::begin();
    for number in 0..LOOKUPS {
        let begun = Instant::now();
        assert!(!registry.lookup(&service(number % services)).await.unwrap().is_empty());
        figures.add(begun.elapsed());
    }
    figures
}

async fn lookups_at_once(registry: &Arc<dyn Registry>, services: usize) -> Figures {
    let mut figures = Figures::begin();
    let mut running = JoinSet::new();
    for task in 0..8 {
        let registry = Arc::clone(registry);
        running.spawn(async move { (lookups(&registry, services).await, task) });
    }
    while let Some(done) = running.join_next().await {
        figures.taken.extend(done.unwrap().0.taken);
    }
    figures
}

/// Time from a registration or removal until the last watch has reported it.
async fn changes(uri: &str, registry: &Arc<dyn Registry>) -> Figures {
    let mut watches = Vec::new();
    for _ in 0..WATCHES {
        let watch =
            rpc_examples::registry(uri).await.unwrap().watch("bench.Watched").await.unwrap();
        watches.push(watch);
    }
    watches = heard(watches, 0).await;
    let mut figures = Figures::begin();
    for _ in 0..CHANGES {
        let begun = Instant::now();
        let lease = registry.register(instance("bench.Watched".to_owned())).await.unwrap();
        watches = heard(watches, 1).await;
        figures.add(begun.elapsed());
        let begun = Instant::now();
        lease.revoke().await.unwrap();
        watches = heard(watches, 0).await;
        figures.add(begun.elapsed());
    }
    figures.without_rate()
}

/// Waits until each watch has reported `wanted` instances.
async fn heard(watches: Vec<Watch>, wanted: usize) -> Vec<Watch> {
    let hear = |mut watch: Watch| async move {
        while watch.changed().await.unwrap().len() != wanted {}
        watch
    };
    watches.into_iter().map(hear).collect::<JoinSet<_>>().join_all().await
}

async fn leave(leases: Vec<Lease>) -> Figures {
    let mut figures = Figures::begin();
    let mut running = JoinSet::new();
    for lease in leases {
        if running.len() == AT_ONCE {
            figures.take(running.join_next().await, &mut Vec::new());
        }
        running.spawn(async move {
            let begun = Instant::now();
            lease.revoke().await.unwrap();
            ((), begun.elapsed())
        });
    }
    while let Some(done) = running.join_next().await {
        figures.take(Some(done), &mut Vec::new());
    }
    figures
}

struct Figures {
    begun: Instant,
    taken: Vec<Duration>,
    has_rate: bool,
}

impl Figures {
    fn begin() -> Self {
        Self { begun: Instant::now(), taken: Vec::new(), has_rate: true }
    }

    fn without_rate(mut self) -> Self {
        self.has_rate = false;
        self
    }

    fn add(&mut self, took: Duration) {
        self.taken.push(took);
    }

    fn take<T>(
        &mut self,
        done: Option<Result<(T, Duration), tokio::task::JoinError>>,
        made: &mut Vec<T>,
    ) {
        let (value, took) = done.unwrap().unwrap();
        self.add(took);
        made.push(value);
    }

    fn print(mut self, what: &str) {
        let rate = match self.has_rate {
            true => format!("{:.0}", self.taken.len() as f64 / self.begun.elapsed().as_secs_f64()),
            false => String::new(),
        };
        self.taken.sort_unstable();
        let last = self.taken.len() - 1;
        let at = |share: usize| milliseconds(self.taken[last * share / 100]);
        println!("| {what} | {rate} | {} | {} | {} |", at(50), at(99), at(100));
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.2} ms", time.as_secs_f64() * 1000.0)
}
