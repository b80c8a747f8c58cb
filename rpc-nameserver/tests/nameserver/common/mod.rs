//! Servers and registries for the tests.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail")]

use std::future::Future;
use std::time::Duration;

use rpc_nameserver::{NameServer, NameServers, NameServersSettings};
use rpc_registry::{Instance, Registry, Resilient, ResilientSettings, Snapshot, Watch};
use tokio::time::timeout;

/// Longest wait for a state that must come.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A server without a time of grace.
pub(crate) async fn server(uri: &str) -> NameServer {
    NameServer::builder().grace(Duration::ZERO).bind(uri).await.unwrap()
}

/// A registry that uses these servers, of any transport, and remembers nothing in files.
pub(crate) async fn registry(servers: &[&str]) -> Resilient<NameServers> {
    registry_with(NameServersSettings::new(servers.iter().copied())).await
}

pub(crate) async fn registry_with(settings: NameServersSettings) -> Resilient<NameServers> {
    let back_end = NameServers::new(settings).await.unwrap();
    Resilient::new(back_end, ResilientSettings::default()).await.unwrap()
}

pub(crate) fn instance(id: &str) -> Instance {
    Instance::new("svc", "tcp://127.0.0.1:1").with_id(id)
}

pub(crate) fn ids(snapshot: &Snapshot) -> Vec<&str> {
    snapshot.iter().map(Instance::id).collect()
}

/// Waits until the lookup says so.
pub(crate) async fn until_listed(registry: &(impl Registry + ?Sized), expected: &[&str]) {
    let mut last = String::new();
    let seen = async {
        loop {
            match registry.lookup("svc").await {
                Ok(snapshot) if snapshot.is_current() && ids(&snapshot) == expected => return,
                other => last = format!("{other:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    if timeout(PATIENCE, seen).await.is_err() {
        panic!("not {expected:?} within {PATIENCE:?}, but {last}");
    }
}

/// Waits until the watch says so.
pub(crate) async fn until_seen(watch: &mut Watch, wanted: impl Fn(&Snapshot) -> bool) -> Snapshot {
    let seen = async {
        loop {
            let snapshot = watch.changed().await.unwrap();
            if wanted(&snapshot) {
                return snapshot;
            }
        }
    };
    within(seen).await
}

pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("not within {PATIENCE:?}"))
}
