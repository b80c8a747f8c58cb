//! Lists of a registry that are long, whoever made them so: calls go on meanwhile.
#![allow(missing_docs)]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rpc_registry::{Instance, Lease, Registry, RegistryError, Snapshot, Watch, WatchSender};
use rpc_runtime::{Client, ConnectionState, Server};
use rpc_tests::probe::{PROBE_DESCRIPTOR, Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::turn;
use rpc_tests::waiting::{soon, until};

/// A registry that says what a test wants.
pub(crate) struct Said(Mutex<WatchSender>);

impl Said {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Watch::channel(Vec::new()).0)))
    }

    pub(crate) fn say(&self, instances: Vec<Instance>) {
        self.0.lock().unwrap().send(instances);
    }
}

type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, RegistryError>> + Send + 'a>>;

impl Registry for Said {
    fn uri(&self) -> &str {
        "said:"
    }
    fn register<'a>(&'a self, _: Instance) -> Answer<'a, Lease> {
        Box::pin(async { Err(RegistryError::unavailable("it only says what it was told")) })
    }
    fn lookup<'a>(&'a self, _: &'a str) -> Answer<'a, Snapshot> {
        Box::pin(async { Err(RegistryError::unavailable("it is watched only")) })
    }
    fn watch<'a>(&'a self, _: &'a str) -> Answer<'a, Watch> {
        Box::pin(async { Ok(self.0.lock().unwrap().subscribe()) })
    }
    fn unregister<'a>(&'a self, _: &'a str, _: &'a str) -> Answer<'a, bool> {
        Box::pin(async { Ok(false) })
    }
    fn services<'a>(&'a self) -> Answer<'a, Vec<String>> {
        Box::pin(async { Ok(Vec::new()) })
    }
}

pub(crate) fn instance(id: String, uri: &str) -> Instance {
    Instance::new("e2e.Probe", uri).with_version("1.4.0").with_id(id)
}

/// So many instances at addresses at which nobody is, with this in their names, and one that serves.
fn list(fakes: usize, name: &str, served: &str) -> Vec<Instance> {
    let fake = |n| instance(format!("{n:06}-{name}"), &format!("memory://{name}-{n}"));
    (0..fakes).map(fake).chain([instance("served".into(), served)]).collect()
}

/// The processor time of this thread: what others do on the machine does not count.
fn thread_time() -> Duration {
    static STARTED: Mutex<Option<Instant>> = Mutex::new(None);
    let read = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
    };
    let started = || STARTED.lock().unwrap().get_or_insert_with(Instant::now).elapsed();
    read().unwrap_or_else(started)
}

/// The longest call, in processor time of the only thread, while lists of so many instances are
/// taken over.
async fn slowest_call(fakes: usize, name: &str) -> Duration {
    let served = format!("memory://long-lists-{name}");
    let server = Server::builder().provide(ProbeServer::new(Provider::new(name)));
    let _server = server.bind(&served).await.unwrap();
    let registry = Said::new();
    registry.say(vec![instance("served".into(), &served)]);
    // All of them: it is about the cost of long lists.
    let client = Client::builder().max_providers(100_000).subset(usize::MAX);
    let client = client.discover(Arc::clone(&registry) as _, &PROBE_DESCRIPTOR).await.unwrap();
    let probe = ProbeClient::new(client.clone());
    assert_eq!(probe.add(1, 2).await, Ok(3));
    let mut slowest = Duration::ZERO;
    for name in ["one", "other", "third"] {
        let list = list(fakes, name, &served);
        registry.say(list);
        let mut calls = 0;
        loop {
            let begun = thread_time();
            assert_eq!(probe.add(1, 2).await, Ok(3));
            slowest = slowest.max(thread_time().saturating_sub(begun));
            calls += 1;
            // The addresses of the last list are retired last.
            let is_done = calls % 50 == 0 && {
                let connections = client.connections();
                let known = connections.iter().filter(|it| it.state != ConnectionState::Closed);
                known.count() == fakes + 1 && connections.len() == fakes + 1
            };
            if is_done && calls > 200 {
                break;
            }
        }
    }
    slowest
}

#[tokio::test]
async fn calls_go_on_while_ten_thousand_instances_are_taken_over() {
    let _turn = turn::mine().await;
    let slowest = slowest_call(10_000, "ten").await;
    assert!(slowest < Duration::from_millis(250), "{slowest:?}");
}

#[tokio::test]
async fn calls_go_on_while_forty_thousand_instances_are_taken_over() {
    let _turn = turn::mine().await;
    let slowest = slowest_call(40_000, "forty").await;
    assert!(slowest < Duration::from_millis(250), "{slowest:?}");
}

#[tokio::test]
async fn a_list_that_changes_all_the_time_does_not_take_a_whole_core() {
    let _turn = turn::mine().await;
    let served = "memory://long-lists-flapping";
    let server = Server::builder().provide(ProbeServer::new(Provider::new("flapping")));
    let _server = server.bind(served).await.unwrap();
    let registry = Said::new();
    let lists = [list(10_000, "one", served), list(10_001, "one", served)];
    registry.say(vec![instance("served".into(), served)]);
    let client = Client::builder().subset(usize::MAX);
    let client = client.discover(Arc::clone(&registry) as _, &PROBE_DESCRIPTOR);
    let probe = ProbeClient::new(client.await.unwrap());
    assert_eq!(probe.add(1, 2).await, Ok(3));
    let (begun, spent) = (Instant::now(), thread_time());
    let (said, ends) = (Arc::clone(&registry), Duration::from_secs(3));
    let saying = std::thread::spawn(move || {
        for list in lists.iter().cycle().take_while(|_| begun.elapsed() < ends) {
            said.say(list.clone());
            std::thread::sleep(Duration::from_millis(1));
        }
    });
    while begun.elapsed() < ends {
        assert_eq!(probe.add(1, 2).await, Ok(3));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let share = (thread_time() - spent).as_secs_f64() / begun.elapsed().as_secs_f64();
    assert!(share < 0.5, "{share}");
    saying.join().unwrap();
}

#[tokio::test]
async fn a_list_of_fakes_neither_replaces_who_is_there_nor_takes_thousands_of_connections() {
    let _turn = turn::mine().await;
    let served = "memory://long-lists-flood";
    let server = Server::builder().provide(ProbeServer::new(Provider::new("flood")));
    let _server = server.bind(served).await.unwrap();
    let registry = Said::new();
    registry.say(vec![instance("served".into(), served)]);
    let client = Client::builder().max_providers(1_000).subset(usize::MAX);
    let client = client.discover(Arc::clone(&registry) as _, &PROBE_DESCRIPTOR).await.unwrap();
    let probe = ProbeClient::new(client.clone());
    assert_eq!(probe.add(1, 2).await, Ok(3));
    // Nobody answers at these, for as long as an attempt may take.
    let fake = |n| instance(format!("{n:06}"), &format!("tcp://240.0.0.1:{}", 1 + n % 60_000));
    let mut list: Vec<_> = (0..60_000).map(fake).collect();
    list.push(instance("served".into(), served));
    registry.say(list);
    until("it is taken over", || client.connections().len() == 1_000).await;
    for n in 0..2_000 {
        assert_eq!(soon("a call", probe.add(n, 1)).await, Ok(n + 1));
    }
    let uris: Vec<_> = client.connections();
    assert!(uris.iter().any(|it| it.uri == served && it.state == ConnectionState::Ready));
    let connecting = uris.iter().filter(|it| it.state == ConnectionState::Connecting).count();
    assert!(connecting <= 130, "{connecting} attempts at a time");
    registry.say(vec![instance("served".into(), served)]);
    until("they are forgotten", || client.connections().len() == 1).await;
    assert_eq!(client.connections()[0].reconnects, 0);
}
