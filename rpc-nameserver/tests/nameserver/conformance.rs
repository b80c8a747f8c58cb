//! What every back end must do.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::registry_with;
use rpc_nameserver::{NameServer, NameServersSettings};
use rpc_registry::testing::{self, Fixture, Outage};
use rpc_registry::{BoxFuture, Registry, RegistryError};

/// An identity that may do everything, also remove what others have registered. The hash is that of
/// `t0ken`.
const POLICY: &str = r#"
[[identity]]
name = "all"
token_sha256 = ["b46c09677343261f0b439a472422225e3a230c9c094d6ab16762e2036b597053"]
register = ["*"]
remove = ["*"]
read = ["*"]
"#;

/// Servers at addresses that stay when they are killed and started again.
struct Servers {
    policy: tempfile::NamedTempFile,
    settings: NameServersSettings,
    running: Mutex<Vec<NameServer>>,
}

impl Servers {
    async fn new(count: usize) -> Self {
        let mut running = Vec::new();
        let policy = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(policy.path(), POLICY).unwrap();
        for _ in 0..count {
            running.push(server("tcp://127.0.0.1:0", &policy).await);
        }
        let places: Vec<_> = running.iter().map(|server| server.local_uri().to_owned()).collect();
        let settings = NameServersSettings::new(places)
            .with_interval(Duration::from_secs(1))
            .with_lease(Duration::from_secs(3))
            .with_token("t0ken")
            .unwrap();
        Self { policy, settings, running: Mutex::new(running) }
    }
}

async fn server(uri: &str, policy: &tempfile::NamedTempFile) -> NameServer {
    let builder = NameServer::builder().grace(Duration::ZERO).policy_file(policy.path());
    builder.bind(uri).await.unwrap()
}

impl Fixture for Servers {
    fn connect(&self) -> BoxFuture<'_, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(async { Ok(Arc::new(registry_with(self.settings.clone()).await) as _) })
    }
}

impl Outage for Servers {
    fn stop(&self) -> BoxFuture<'_, ()> {
        Box::pin(async { self.running.lock().unwrap().clear() })
    }

    fn start(&self) -> BoxFuture<'_, ()> {
        Box::pin(async {
            for place in &self.settings.servers {
                let server = server(place, &self.policy).await;
                self.running.lock().unwrap().push(server);
            }
        })
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_name_server_conforms() {
    testing::conformance(&Servers::new(1).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_name_servers_conform() {
    testing::conformance(&Servers::new(2).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_shorter_than_the_expiry_does_no_harm() {
    testing::outage(&Servers::new(2).await, Duration::from_millis(500)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outage_after_which_all_have_lapsed_does_no_harm() {
    testing::outage(&Servers::new(2).await, Duration::from_secs(6)).await;
}
