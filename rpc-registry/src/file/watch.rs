//! A watch is a task that looks again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::store::Store;
use crate::watch::WatchSender;
use crate::{RegistryError, Watch};

/// Reads the present state, then follows it until the last watch is dropped.
pub(super) async fn start(
    store: Arc<Store>,
    service: String,
    interval: Duration,
) -> Result<Watch, RegistryError> {
    let initial = store.lookup(&service).await?;
    let (sender, watch) = Watch::channel(initial);
    tokio::spawn(follow(store, service, interval, sender));
    Ok(watch)
}

/// One look costs a `stat` of the list and an attempt at each lease of the service; the list is
/// read only when it has changed.
///
/// A look that fails leaves the last good list in force: a slip of an editor in the list, or a
/// full table of open files, should not cost a client its connections. It is logged once.
async fn follow(store: Arc<Store>, service: String, interval: Duration, sender: WatchSender) {
    let mut failing = false;
    while timeout(interval, sender.closed()).await.is_err() {
        match store.lookup(&service).await {
            Ok(instances) => {
                if failing {
                    tracing::info!(service, "the registry can be read again");
                }
                failing = false;
                sender.send(instances);
            }
            Err(error) => {
                if !failing {
                    tracing::warn!(service, %error, "watching the list as it was");
                }
                failing = true;
            }
        }
    }
}
