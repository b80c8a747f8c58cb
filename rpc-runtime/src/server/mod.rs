//! Providing services: [`Server`].

mod accept;
mod answers;
mod argument_memory;
#[cfg(feature = "__bench")]
pub(crate) mod bench;
mod bound;
mod builder;
mod chain;
mod connections;
mod cores;
mod dispatcher;
mod event_loops;
mod executor;
mod fair_queue;
mod large;
mod lifetime;
mod method_end;
mod owned_request;
mod ready_responses;
mod received;
mod requests;
mod response;
mod shutdown;
mod signals;
mod slow_methods;
mod spawned_call;
#[cfg(test)]
mod tests;
mod thread_pool;
mod thread_work;
mod threads;
mod turns;
mod user_code;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use rpc_registry::Lease;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

pub use builder::ServerBuilder;

use self::connections::Connections;
use self::event_loops::EventLoops;
use crate::connection::ChannelHandle;
use crate::observe::Observer;

/// A running server.
///
/// It serves from [`ServerBuilder::bind`] until it ends, in tasks of the tokio runtime or on
/// [separate threads](ServerBuilder::event_loops). [`shutdown`](Self::shutdown) and
/// [`serve_until`](Self::serve_until) end it gracefully. Dropping it ends it at once: the
/// registrations are removed and the connections closed, also during calls.
///
/// ```
/// # async fn example() -> rpc_runtime::Result<()> {
/// use rpc_runtime::Server;
///
/// let server = Server::builder().bind("tcp://127.0.0.1:0").await?;
/// println!("listening on {}", server.local_uri());
/// server.serve_until(async { /* for example tokio::signal::ctrl_c() */ }).await
/// # }
/// ```
#[derive(Debug)]
#[must_use = "a server ends when it is dropped: keep it, and end it with `serve_until` or `shutdown`"]
pub struct Server {
    local_uri: String,
    drain_timeout: Duration,
    observer: Observer,
    leases: Vec<Lease>,
    accepting: Accepting,
    /// Set to `true` once, to stop the accept loop.
    stop: watch::Sender<bool>,
    connections: Arc<Connections>,
    /// Yields `None` when all connections and all running requests have ended.
    all_done: mpsc::Receiver<()>,
}

impl Server {
    /// Settings of a new server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// URI of the address that the server listens on, with the real port if it was bound to port 0.
    pub fn local_uri(&self) -> &str {
        &self.local_uri
    }

    /// The registrations of the services, one for each; empty without a registry. Their
    /// [`states`](rpc_registry::Lease::states) report whether one is lost and is being repeated.
    pub fn leases(&self) -> &[Lease] {
        &self.leases
    }

    /// The open connections.
    pub fn channels(&self) -> Vec<ChannelHandle> {
        self.connections.open().into_iter().map(ChannelHandle::new).collect()
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
    /// In the runtime in which the server was bound.
    Here(JoinHandle<()>),
    OnLoops(EventLoops),
}
