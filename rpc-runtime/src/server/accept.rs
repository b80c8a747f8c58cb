//! Accepting connections.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::{LogLimit, Printable, limited};
use tokio::sync::{Semaphore, watch};
use tracing::Instrument;

use super::connections::{ConnectionPermit, Connections};
use super::dispatcher::Dispatcher;
use super::lifetime::Lifetime;
use super::requests::Requests;
use super::workers::Workers;
use crate::connection::{Channel, ChannelSettings, Initializer, driver, refuse};
use crate::error::RpcError;
use crate::observe::{self, ConnectionRefusal, Side};
use crate::protocol::Hello;
use crate::transport::{Accepted, Listener, Transport};

/// Accepts connections; has what all connections of a server share.
pub(super) struct Acceptor {
    pub(super) dispatcher: Arc<Dispatcher>,
    pub(super) settings: Arc<ChannelSettings>,
    pub(super) hello: Hello,
    pub(super) initializer: Option<Initializer>,
    pub(super) connections: Arc<Connections>,
    pub(super) lifetime: Lifetime,
    /// Held by everything that must end before the server does.
    pub(super) workers: Arc<Workers>,
    pub(super) refusals: Refusals,
}

/// Peers that are being sent the reason of their refusal.
pub(super) struct Refusals {
    at_a_time: Arc<Semaphore>,
    log: LogLimit,
}

impl Default for Refusals {
    fn default() -> Self {
        Self { at_a_time: Arc::new(Semaphore::new(MAX_REFUSALS)), log: LogLimit::new() }
    }
}

/// Maximum peers that are sent the reason of their refusal at a time; further ones are closed
/// without it. Each takes a file descriptor for up to a second.
const MAX_REFUSALS: usize = 64;

/// Pause before accepting again after an error, such as too many open files.
const OUT_OF_RESOURCES: Duration = Duration::from_millis(50);
/// Time for sending a refused client the reason.
const REFUSED: Duration = Duration::from_secs(1);

impl Acceptor {
    /// Accepts until `stop` is true. `listener` is dropped before `self` and thereby before
    /// `workers`, so the address is free when the server has ended.
    pub(super) async fn run(
        self: Arc<Self>,
        mut listener: Listener,
        mut stop: watch::Receiver<bool>,
    ) {
        loop {
            let accepted = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok(accepted) => match self.connections.admit(accepted.peer()) {
                    // In a separate task, so that a panic in a user's handlers does not end
                    // accepting.
                    Ok(permit) => {
                        let opening = Arc::clone(&self).open(accepted, permit, stop.clone());
                        drop(tokio::spawn(opening));
                    }
                    Err((reason, why)) => {
                        self.settings.observer.connection_refused(reason);
                        self.refusals.refuse(accepted, why);
                    }
                },
                Err(error) if concerns_one_connection(&error) => {}
                Err(error) => {
                    limited!(error, %error, "cannot accept connections; trying again");
                    tokio::time::sleep(OUT_OF_RESOURCES).await;
                }
            }
        }
    }

    /// A connection that is not open when the server stops has had no call, so it is dropped.
    async fn open(
        self: Arc<Self>,
        accepted: Accepted,
        permit: ConnectionPermit,
        mut stop: watch::Receiver<bool>,
    ) {
        let peer = accepted.peer().to_owned();
        let timeout = self.settings.handshake_timeout.unwrap_or(Duration::MAX);
        let opened = tokio::select! {
            biased;
            opened = tokio::time::timeout(timeout, accepted.open()) => opened,
            _ = stop.wait_for(|stop| *stop) => return,
        };
        let why = match opened {
            Ok(Ok(transport)) => return self.serve(transport, permit),
            Ok(Err(error)) => error.message().to_owned(),
            Err(_) => format!("no TLS handshake within {timeout:?} (`handshake_timeout`)"),
        };
        limited!(warn, limit = self.refusals.log; peer, "connection refused: {}", Printable(why));
        self.settings.observer.connection_refused(ConnectionRefusal::Handshake);
    }

    /// Serves a connection in a separate task, whose future does not contain the state of opening
    /// it, which may be larger than that of serving.
    fn serve(&self, mut transport: Transport, mut permit: ConnectionPermit) {
        let distrust = transport.distrust.take();
        let settings = Arc::clone(&self.settings);
        let opened = Channel::new(transport, settings, &self.hello, self.initializer.as_ref());
        let (channel, reader) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                limited!(error, %error, "the pipeline of a connection could not be set up");
                return;
            }
        };
        tracing::debug!(peer = %channel.peer(), "connection accepted");
        permit.take(&channel, self.lifetime.limit(&channel, distrust));
        let span = observe::connection(Side::Server, channel.peer());
        let requests = Requests::new(Arc::clone(&self.dispatcher), permit, &self.workers);
        let run = driver::run(channel, reader, requests);
        match span {
            None => drop(tokio::spawn(run)),
            Some(span) => drop(tokio::spawn(run.instrument(*span))),
        }
    }
}

impl Refusals {
    fn refuse(&self, accepted: Accepted, why: RpcError) {
        if why.is_overloaded() {
            limited!(warn, limit = self.log; peer = accepted.peer(), "connection refused: {why}");
        }
        if let Ok(permit) = Arc::clone(&self.at_a_time).try_acquire_owned() {
            tokio::spawn(async move {
                if let Ok(Ok(transport)) = tokio::time::timeout(REFUSED, accepted.open()).await {
                    refuse(transport, &why).await;
                }
                drop(permit);
            });
        }
    }
}

/// The peer of this connection has gone; the next ones are not affected.
fn concerns_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted)
}
