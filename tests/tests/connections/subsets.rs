//! A client of a long list uses a part of it.
#![allow(missing_docs)]

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use rpc_registry::{Instance, Lease, Registry, RegistryError, Snapshot, Watch, WatchSender};
use rpc_runtime::{Client, ConnectionState, Server};
use rpc_tests::probe::{PROBE_DESCRIPTOR, Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::waiting::{soon, until};

/// A registry that says what a test wants.
struct Said(Mutex<WatchSender>);

impl Said {
    fn new() -> Arc<Self> {
        Arc::new(Self(Mutex::new(Watch::channel(Vec::new()).0)))
    }

    fn say(&self, mut instances: Vec<Instance>) {
        instances.sort_by(|a, b| a.id().cmp(b.id()));
        self.0.lock().unwrap().send(instances);
    }

    async fn follow(self: &Arc<Self>, client: rpc_runtime::ClientBuilder) -> Client {
        client.discover(Arc::clone(self) as _, &PROBE_DESCRIPTOR).await.unwrap()
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

fn instance(uri: &str) -> Instance {
    Instance::new("e2e.Probe", uri).with_version("1.4.0").with_id(uri)
}

/// A server at so many addresses.
async fn serve(name: &str, addresses: usize) -> (Vec<Server>, Vec<Instance>) {
    let (mut servers, mut instances) = (Vec::new(), Vec::new());
    for n in 0..addresses {
        let uri = format!("memory://subsets-{name}-{n}");
        let server = Server::builder().provide(ProbeServer::new(Provider::new(name)));
        servers.push(server.bind(&uri).await.unwrap());
        instances.push(instance(&uri));
    }
    (servers, instances)
}

fn fakes(count: usize) -> Vec<Instance> {
    (0..count).map(|n| instance(&format!("memory://subsets-nobody-{n:06}"))).collect()
}

fn ready(client: &Client) -> Vec<String> {
    let ready = |it: &rpc_runtime::ConnectionInfo| it.state == ConnectionState::Ready;
    client.connections().into_iter().filter(ready).map(|it| it.uri).collect()
}

#[tokio::test]
async fn a_client_of_a_long_list_connects_to_twenty_providers_and_of_a_short_one_to_all() {
    let (_servers, instances) = serve("default", 150).await;
    let registry = Said::new();
    registry.say(instances[..100].to_vec());
    let client = registry.follow(Client::builder()).await;
    let probe = ProbeClient::new(client.clone());
    let has = |connections| {
        // Calls connect what is in use.
        let probe = probe.clone();
        tokio::spawn(async move { probe.add(1, 2).await });
        client.connections().len() == connections && ready(&client).len() == connections
    };
    until("all are connected", || has(100)).await;
    registry.say(instances);
    until("most are given up", || has(20)).await;
    for n in 0..100 {
        assert_eq!(soon("a call", probe.add(n, 1)).await, Ok(n + 1));
    }
    assert_eq!(client.connections().len(), 20);
}

#[tokio::test]
async fn what_works_is_not_given_up_for_addresses_at_which_nobody_is() {
    let (_servers, instances) = serve("flood", 3).await;
    let registry = Said::new();
    registry.say(instances.clone());
    let client = registry.follow(Client::builder()).await;
    let probe = ProbeClient::new(client.clone());
    for n in 0..10 {
        assert_eq!(soon("a call", probe.add(n, 1)).await, Ok(n + 1));
    }
    let mut flood = fakes(20_000 - instances.len());
    flood.extend(instances.iter().cloned());
    registry.say(flood);
    until("it is taken over", || client.connections().len() > 3).await;
    for n in 0..200 {
        assert_eq!(soon("a call", probe.add(n, 1)).await, Ok(n + 1));
    }
    assert!(ready(&client).iter().all(|uri| instances.iter().any(|it| it.uri() == uri)));
    assert!(client.connections().len() < 100, "{}", client.connections().len());
}

#[tokio::test(start_paused = true)]
async fn the_one_provider_of_a_long_list_that_can_be_reached_is_found() {
    let (_servers, instances) = serve("needle", 1).await;
    let registry = Said::new();
    let mut long = fakes(300);
    long.extend(instances);
    registry.say(long);
    let client = registry.follow(Client::builder().wait_for_ready(true)).await;
    let probe = ProbeClient::new(client.with_timeout(std::time::Duration::from_secs(60)));
    assert_eq!(probe.add(1, 2).await, Ok(3));
}

#[tokio::test]
async fn when_providers_are_added_a_client_moves_to_its_part_of_them_without_an_error() {
    let (_servers, instances) = serve("growth", 40).await;
    let registry = Said::new();
    registry.say(instances[..4].to_vec());
    let client = registry.follow(Client::builder().subset(4)).await;
    let probe = ProbeClient::new(client.clone());
    let mut calls = 0;
    let mut call = async || {
        calls += 1;
        assert_eq!(soon("a call", probe.add(calls, 1)).await, Ok(calls + 1));
    };
    for _ in 0..10 {
        call().await;
    }
    registry.say(instances.clone());
    for _ in 0..200 {
        call().await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        if client.connections().len() == 4 && ready(&client).len() == 4 {
            break;
        }
    }
    assert_eq!((client.connections().len(), ready(&client).len()), (4, 4));
}
