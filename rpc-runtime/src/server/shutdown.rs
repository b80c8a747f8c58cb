//! How a [`Server`] ends.

use std::future::Future;
use std::time::Duration;

use rpc_registry::Lease;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use super::signals::told_to_end;
use super::{Accepting, Server};
use crate::error::RpcError;
use crate::observe::DrainOutcome;
use crate::status::Status;

/// What a registry is given in any case: to take back a registration is worth a moment even where
/// nobody waits for requests.
const LEAST_FOR_REGISTRY: Duration = Duration::from_millis(500);

impl Server {
    /// Serves until `signal` is ready, then [shuts down](Self::shutdown). What the signal yields
    /// does not matter.
    ///
    /// A second signal ends the server at once: while it shuts down, SIGINT or SIGTERM (Ctrl-C where
    /// there are no such signals) cuts off what is still in work. From the beginning of the shutdown
    /// on, these signals no longer end the process by themselves, since tokio keeps its handlers.
    ///
    /// # Errors
    /// Those of [`shutdown`](Self::shutdown). `cancelled`, after a second signal: the message says
    /// how many requests and connections were cut off.
    pub async fn serve_until(mut self, signal: impl Future) -> Result<(), RpcError> {
        signal.await;
        let second_signal = told_to_end();
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

    /// Ends the server without losing a call: every client is told to send no more, the
    /// registrations are taken back, requests in work are finished and their answers written, then
    /// the connections end. A client that is told ends its connection when it has its answers, and
    /// is waited for: it alone knows whether a request is still on its way. What is not done within
    /// the timeout ([`ServerBuilder::drain_timeout`](super::ServerBuilder::drain_timeout), 10 s by
    /// default) is cut off; so is a client that does not react to being told.
    ///
    /// A registry that does not answer is given half of that time, and half a second at least.
    /// Connections that are made in the meantime are refused, so their clients go elsewhere. Event
    /// loops end after all that, within the timeout and half a second at least.
    ///
    /// Dropping the future ends the server at once.
    ///
    /// # Errors
    /// A registration could not be taken back, or an event loop had panicked. The server is down all
    /// the same.
    pub async fn shutdown(mut self) -> Result<(), RpcError> {
        self.end().await
    }

    async fn end(&mut self) -> Result<(), RpcError> {
        let now = Instant::now();
        let until = now + self.drain_timeout;
        tracing::info!(uri = self.local_uri, "shutting down");
        self.connections.drain();
        // The requests in work go on in the meantime; a registry that hangs leaves the other half of
        // the time to whatever comes behind it.
        let leases = std::mem::take(&mut self.leases);
        let for_registry = (self.drain_timeout / 2).max(LEAST_FOR_REGISTRY);
        let mut result = revoke_all(leases, now + for_registry).await;
        // Whoever still found an entry was told by then that nobody is served here any more.
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

/// Takes registrations back, all at a time. What a registry has not done until then is left to it.
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
