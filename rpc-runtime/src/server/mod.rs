//! Providing services: [`Server`].

mod accept;
#[cfg(feature = "__bench")]
pub(crate) mod bench;
mod builder;
mod connections;
mod cores;
mod dispatcher;
mod event_loops;
mod late;
mod requests;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::Lease;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use builder::ServerBuilder;

use self::connections::Connections;
use self::event_loops::EventLoops;
use crate::channel::ChannelHandle;
use crate::error::RpcError;

/// A running server.
///
/// It serves from [`ServerBuilder::bind`] on, in tasks of the tokio runtime or on
/// [threads of its own](ServerBuilder::event_loops). Dropping it ends it at
/// once: the registrations are taken back and the connections closed, whatever is in work.
/// [`shutdown`](Self::shutdown) and [`serve_until`](Self::serve_until) end it without loss.
///
/// ```
/// # async fn example() -> rpc_runtime::Result<()> {
/// use rpc_runtime::Server;
///
/// let server = Server::builder().bind("tcp://127.0.0.1:0").await?;
/// println!("listening on {}", server.local_uri());
/// server.serve_until(async { /* tokio::signal::ctrl_c(), say */ }).await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a server ends when it is dropped: keep it, and end it with `serve_until` or `shutdown`"]
pub struct Server {
    local_uri: String,
    drain_timeout: Duration,
    leases: Vec<Lease>,
    accepting: Accepting,
    /// Set to `true` once: tells the accept loop to stop.
    stop: watch::Sender<bool>,
    connections: Arc<Connections>,
    /// Yields `None` when every connection and every request in work is done.
    all_done: mpsc::Receiver<()>,
}

impl Server {
    /// Settings of a new server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The address that the server listens on; a port 0 that it was given is the real port here.
    pub fn local_uri(&self) -> &str {
        &self.local_uri
    }

    /// The connections that are open now.
    pub fn channels(&self) -> Vec<ChannelHandle> {
        self.connections.open().into_iter().map(ChannelHandle::new).collect()
    }

    /// Serves until `signal` is ready, then [shuts down](Self::shutdown). What the signal yields
    /// does not matter.
    ///
    /// # Errors
    /// Those of [`shutdown`](Self::shutdown).
    pub async fn serve_until(self, signal: impl Future) -> Result<(), RpcError> {
        signal.await;
        self.shutdown().await
    }

    /// Ends the server without losing a call: every client is told to send no more, the
    /// registrations are taken back, requests in work are finished and their answers written, then
    /// the connections are closed. What is not done within the timeout
    /// ([`ServerBuilder::drain_timeout`], 10 s by default) is cut off.
    ///
    /// Event loops end after that, within the timeout and half a second at least.
    ///
    /// Dropping the future ends the server at once.
    ///
    /// # Errors
    /// A registration could not be taken back, or an event loop had panicked. The server is down all
    /// the same.
    pub async fn shutdown(mut self) -> Result<(), RpcError> {
        let until = tokio::time::Instant::now() + self.drain_timeout;
        tracing::info!(uri = self.local_uri, "shutting down");
        self.connections.drain();
        let mut result = Ok(());
        for lease in std::mem::take(&mut self.leases) {
            match tokio::time::timeout_at(until, lease.revoke()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    result = Err(RpcError::unavailable(format!(
                        "a registration was not taken back: {error}"
                    ))
                    .with_source(&error));
                }
                Err(_) => {
                    result = Err(RpcError::unavailable(
                        "a registration was not taken back: the registry did not answer in time",
                    ));
                }
            }
        }
        // New connections are accepted up to here: consumers may still have found the entry.
        self.stop.send_replace(true);
        if tokio::time::timeout_at(until, self.all_done.recv()).await.is_err() {
            let left =
                self.connections.close_all("the server was shut down before the call was done");
            tracing::warn!(
                connections = left.connections,
                requests = left.requests,
                "the drain timeout has passed; connections were cut off"
            );
        }
        if let Accepting::OnLoops(loops) = &mut self.accepting {
            result = result.and(loops.join(until).await);
        }
        tracing::info!(uri = self.local_uri, "shut down");
        result
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Accepting::Here(task) = &self.accepting {
            task.abort();
        }
        if !*self.stop.borrow() {
            tracing::warn!(uri = self.local_uri, "the server was dropped, and ended at once");
        }
        self.connections.close_all("the server was dropped");
    }
}

/// Where connections are accepted and served.
#[derive(Debug)]
enum Accepting {
    /// In the runtime of whoever bound the server.
    Here(JoinHandle<()>),
    OnLoops(EventLoops),
}
