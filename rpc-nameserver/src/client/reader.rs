//! [`Reader`]: queries one server, with failover to the others.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rpc_registry::{RegistryError, random_index};

use super::server::{RemoteServer, is_worth_another};
use crate::contract::NameError;

pub(super) struct Reader {
    /// For messages.
    uri: String,
    servers: Vec<Arc<RemoteServer>>,
    /// The server that is queried first, by all tasks of this process.
    current: AtomicUsize,
}

impl Reader {
    /// Begins with a random server, so that clients spread over all servers.
    pub(super) fn new(uri: &str, servers: Vec<Arc<RemoteServer>>) -> Self {
        let current = random_index(servers.len());
        Self { uri: uri.to_owned(), servers, current: AtomicUsize::new(current) }
    }

    /// The URI of a server, by its index.
    pub(super) fn name(&self, index: usize) -> &str {
        self.servers.get(index).map_or("", |server| &server.uri)
    }

    /// Queries one server after the other until one responds. That server is queried first from
    /// then on. Also returns its index.
    pub(super) async fn ask<T, F, Fut>(&self, question: F) -> Result<(usize, T), RegistryError>
    where
        F: Fn(Arc<RemoteServer>) -> Fut,
        Fut: Future<Output = Result<T, NameError>>,
    {
        let first = self.current.load(Ordering::Relaxed);
        let mut failures = Vec::new();
        let count = self.servers.len();
        for index in (first..count).chain(0..first.min(count)) {
            let Some(server) = self.servers.get(index) else { continue };
            match question(Arc::clone(server)).await {
                Ok(answer) => {
                    self.current.store(index, Ordering::Relaxed);
                    return Ok((index, answer));
                }
                Err(error) => {
                    let error = server.explain(error);
                    if !is_worth_another(&error) {
                        return Err(error.with_registry(&self.uri));
                    }
                    failures.push(error);
                }
            }
        }
        Err(none_answers(&self.uri, failures))
    }

    /// Another server than this one is queried first from here on.
    pub(super) fn leave(&self, index: usize) {
        let next = index.wrapping_add(1).checked_rem(self.servers.len()).unwrap_or_default();
        let order = Ordering::Relaxed;
        let _ = self.current.compare_exchange(index, next, order, order);
    }

    /// Explains an error of this server.
    pub(super) fn explain(&self, index: usize, error: NameError) -> RegistryError {
        let explained = match self.servers.get(index) {
            Some(server) => server.explain(error),
            None => RegistryError::unavailable(format!("a name server failed: {error:?}")),
        };
        explained.with_registry(&self.uri)
    }
}

/// The error if no server has responded. The failures do not name the registry.
pub(super) fn none_answers(uri: &str, mut failures: Vec<RegistryError>) -> RegistryError {
    let texts: Vec<_> = failures.iter().map(ToString::to_string).collect();
    // An error that a server sent has no source.
    let is_unheard = failures.iter().all(|failure| failure.source().is_some());
    let error = match failures.len() {
        0 => RegistryError::timeout("no name server answered in time"),
        1 => failures.remove(0),
        _ => {
            RegistryError::unavailable(format!("no name server can be used: {}", texts.join("; ")))
        }
    };
    let error = error.with_registry(uri);
    match is_unheard {
        true => error.with_hint("check that a name server runs there and can be reached from here"),
        false => error,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use rpc_runtime::RpcError;

    use super::*;
    use crate::NameServersSettings;

    const SERVERS: [&str; 3] = ["memory:a", "memory:b", "memory:c"];

    async fn reader() -> Reader {
        let settings = NameServersSettings::new(SERVERS);
        let mut servers = Vec::new();
        for uri in SERVERS {
            servers.push(Arc::new(RemoteServer::new(uri, &settings).await.unwrap()));
        }
        Reader::new("nameserver:", servers)
    }

    #[tokio::test]
    async fn it_stays_with_a_server_until_that_fails_and_then_with_the_next() {
        let reader = reader().await;
        let asked = Mutex::new(Vec::new());
        let ask = async |away: &str| {
            asked.lock().unwrap().clear();
            let question = |server: Arc<RemoteServer>| {
                asked.lock().unwrap().push(server.uri.clone());
                let is_away = server.uri == away;
                async move { if is_away { Err(RpcError::unavailable("").into()) } else { Ok(()) } }
            };
            let (index, ()) = reader.ask(question).await.unwrap();
            (SERVERS[index], asked.lock().unwrap().len())
        };
        let (first, times) = ask("").await;
        assert_eq!(times, 1);
        assert_eq!(ask("").await, (first, 1));
        let (second, times) = ask(first).await;
        assert!(second != first && times == 2);
        assert_eq!(ask("").await, (second, 1));
    }

    #[tokio::test]
    async fn what_another_server_would_say_too_is_not_asked_again() {
        let reader = reader().await;
        let asked = AtomicUsize::new(0);
        let question = |_| {
            asked.fetch_add(1, Ordering::Relaxed);
            async { Err::<(), _>(NameError::Invalid("no".to_owned())) }
        };
        assert!(reader.ask(question).await.unwrap_err().is_invalid_instance());
        assert_eq!(asked.load(Ordering::Relaxed), 1);
    }
}
