//! Graceful shutdown of a [`Server`].

use std::future::Future;
use std::time::Duration;

use rpc_registry::Lease;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::signals::termination_signal;
use super::{Accepting, Server};
use crate::error::RpcError;
use crate::observe::DrainOutcome;
use crate::status::Status;

/// Minimum time for removing the registrations, also with a drain timeout of 0.
const MIN_REVOKE_TIME: Duration = Duration::from_millis(500);

impl Server {
    /// Serves until `signal` completes, then [shuts down](Self::shutdown). The output of `signal`
    /// is ignored.
    ///
    /// During the shutdown, SIGINT or SIGTERM (Ctrl-C on systems without these signals) ends the
    /// server at once and cuts off running requests. From the beginning of the shutdown, these
    /// signals no longer end the process by default, since tokio keeps its handlers.
    ///
    /// # Errors
    /// Those of [`shutdown`](Self::shutdown). After a second signal `cancelled`, with the number of
    /// requests and connections that were cut off.
    pub async fn serve_until(mut self, signal: impl Future) -> Result<(), RpcError> {
        signal.await;
        let second_signal = termination_signal();
        tokio::select! {
            biased;
            result = self.end() => result,
            () = second_signal => {
                let cut_off = self.connections.close_all("the server was ended at once");
                self.observer.drained(DrainOutcome::CutOff);
                let message = format!(
                    "a second signal ended the server at once: requests cut off: {}, connections: {}",
                    cut_off.requests, cut_off.connections
                );
                tracing::warn!(uri = self.local_uri, "{message}");
                Err(RpcError::new(Status::Cancelled, message))
            }
        }
    }

    /// Ends the server gracefully, without losing a call.
    ///
    /// It sends a goaway to every client, removes the registrations, and waits until running
    /// requests are answered and the clients have closed their connections. Only a client knows
    /// whether one of its requests is still in transit, so clients close first. New connections are
    /// refused meanwhile. When the drain timeout
    /// ([`ServerBuilder::drain_timeout`](super::ServerBuilder::drain_timeout), default 10 s) has
    /// passed, remaining requests and connections are cut off.
    ///
    /// The registry gets half of the drain timeout to remove the registrations, at least 500 ms.
    /// Event loops end last, within the drain timeout, at least 500 ms.
    ///
    /// # Errors
    /// A registration could not be removed, or an event loop has panicked. The server has ended
    /// also in this case.
    ///
    /// # Cancel safety
    /// Dropping the future ends the server at once.
    pub async fn shutdown(mut self) -> Result<(), RpcError> {
        self.end().await
    }

    async fn end(&mut self) -> Result<(), RpcError> {
        let now = Instant::now();
        let until = now + self.drain_timeout;
        tracing::info!(uri = self.local_uri, "shutting down");
        self.connections.drain();
        // Running requests continue meanwhile. A registry that hangs leaves them the other half of
        // the time.
        let leases = std::mem::take(&mut self.leases);
        let for_registry = (self.drain_timeout / 2).max(MIN_REVOKE_TIME);
        let mut result = revoke_all(leases, now + for_registry).await;
        // A client that still finds an entry gets a refusal with the reason until here.
        self.stop.send_replace(true);
        if timeout_at(until, self.all_done.recv()).await.is_ok() {
            self.observer.drained(DrainOutcome::Complete);
        } else {
            self.observer.drained(DrainOutcome::CutOff);
            let why = "the server was shut down before the call was done";
            let cut_off = self.connections.close_all(why);
            tracing::warn!(
                uri = self.local_uri,
                connections = cut_off.connections,
                requests = cut_off.requests,
                "the drain timeout has passed; what was still there was cut off"
            );
        }
        if let Accepting::OnLoops(loops) = &mut self.accepting {
            result = result.and(loops.join(until).await);
        }
        tracing::info!(uri = self.local_uri, "shut down");
        result
    }
}

/// Removes registrations concurrently. Those that remain at `until` expire by their leases.
async fn revoke_all(leases: Vec<Lease>, until: Instant) -> Result<(), RpcError> {
    let mut revoking: JoinSet<_> = leases.into_iter().map(Lease::revoke).collect();
    let mut result = Ok(());
    loop {
        match timeout_at(until, revoking.join_next()).await {
            Ok(None) => return result,
            Ok(Some(Ok(Ok(())))) => {}
            Ok(Some(Ok(Err(error)))) => {
                let message = format!("a registration was not taken back: {error}");
                result = Err(RpcError::unavailable(message).with_source(&error));
            }
            Ok(Some(Err(error))) => {
                let message = format!("a registration was not taken back: {error}");
                result = Err(RpcError::internal(message).with_source(&error));
            }
            Err(_) => {
                return Err(RpcError::unavailable(
                    "a registration was not taken back: the registry did not answer in time",
                ));
            }
        }
    }
}
