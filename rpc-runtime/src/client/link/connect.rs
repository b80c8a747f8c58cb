//! The steps of a connection attempt.

use std::sync::Arc;

use rpc_registry::{Printable, limited};
use tokio::task::AbortHandle;
use tracing::Instrument;

use super::Link;
use super::attempt::given_up;
use crate::client::refuse_requests::RefuseRequests;
use crate::connection::{Channel, driver};
use crate::error::RpcError;
use crate::observe::{self, RetireReason, Side};
use crate::protocol::{Hello, REPLY_METADATA};
use crate::transport::{self, Distrust, Transport};

impl Link {
    /// Connects, and waits for the provider's hello. An operating system accepts connections for a
    /// process that may never read them, and then it would be unknown whether a call was run.
    pub(super) async fn connect(self: &Arc<Self>) -> Result<Arc<Channel>, RpcError> {
        // It is never closed.
        let _permit = self.settings.connecting.acquire().await.ok();
        let timeout = self.settings.connect_timeout;
        let mut missing = "cannot connect: no answer";
        let attempt = async {
            let transport = transport::connect(&self.uri, &self.settings.transport).await?;
            missing = "connected, but no hello came";
            let channel = HandshakeGuard(Some(self.open(transport)?));
            channel.greeted().await
        };
        let outcome = tokio::time::timeout(timeout, attempt).await;
        outcome
            .unwrap_or_else(|_| Err(RpcError::unavailable(format!("{missing} within {timeout:?}"))))
            .map_err(|error| error.with_peer(&self.uri).unexecuted())
    }

    /// Starts a channel over an open connection.
    fn open(self: &Arc<Self>, mut transport: Transport) -> Result<Arc<Channel>, RpcError> {
        let hello = Hello {
            max_payload: u32::try_from(self.settings.channel.max_payload).unwrap_or(u32::MAX),
            heartbeat_ms: self.settings.channel.heartbeat.hello_ms(),
            stream_window: self.settings.channel.budget.stream_window(),
            features: vec![REPLY_METADATA.to_owned()],
            ..Hello::default()
        };
        let distrust = transport.distrust.take();
        let initializer = self.settings.initializer.as_ref();
        let (channel, reader) =
            Channel::new(transport, Arc::clone(&self.settings.channel), &hello, initializer)?;
        let limited = distrust.map(|distrust| self.limit(&channel, distrust));
        let driven =
            ConnectionGuard { link: Arc::clone(self), channel: Arc::clone(&channel), limited };
        let driver = driver::run(Arc::clone(&channel), reader, RefuseRequests::new(driven));
        match observe::connection(Side::Client, channel.peer()) {
            None => drop(tokio::spawn(driver)),
            Some(span) => drop(tokio::spawn(driver.instrument(*span))),
        }
        Ok(channel)
    }
}

impl Link {
    /// Stops using `channel` when its provider is no longer trusted. Calls in progress get the
    /// client's drain timeout.
    fn limit(&self, channel: &Arc<Channel>, distrust: Distrust) -> AbortHandle {
        let drain_timeout = self.settings.drain_timeout;
        let channel = Arc::downgrade(channel);
        let limit = async move {
            let why = distrust.await;
            let Some(open) = channel.upgrade() else { return };
            limited!(warn, peer = %Printable(open.peer()), "closing the connection: {why}");
            open.settings().observer.connection_retired(RetireReason::Distrust);
            open.drain_and_goaway();
            drop(open);
            tokio::time::sleep(drain_timeout).await;
            if let Some(open) = channel.upgrade() {
                open.close(RpcError::unavailable(format!("the connection was closed: {why}")));
            }
        };
        tokio::spawn(limit).abort_handle()
    }
}

/// Dropped with a channel's task: closes the channel and reports its end to the link.
struct ConnectionGuard {
    link: Arc<Link>,
    channel: Arc<Channel>,
    limited: Option<AbortHandle>,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.limited.iter().for_each(AbortHandle::abort);
        // Without effect if the task has run to its end.
        self.channel.close(RpcError::unavailable("the connection's task was ended"));
        self.link.ended(&self.channel);
    }
}

/// Closes the connection if it is dropped before the hello was received.
struct HandshakeGuard(Option<Arc<Channel>>);

impl HandshakeGuard {
    async fn greeted(mut self) -> Result<Arc<Channel>, RpcError> {
        if let Some(channel) = &self.0 {
            channel.greeted().await?;
        }
        self.0.take().ok_or_else(given_up)
    }
}

impl Drop for HandshakeGuard {
    fn drop(&mut self) {
        if let Some(channel) = self.0.take() {
            channel.close(RpcError::unavailable("the peer did not send its hello"));
        }
    }
}
