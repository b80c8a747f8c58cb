//! [`Peer`]: what the other end has said of itself.

use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use crate::error::RpcError;
use crate::handlers::MIN_REQUESTED_INTERVAL;
use crate::protocol::Hello;
use crate::status::Status;

/// What the other end has said of itself.
#[derive(Default)]
pub(in crate::connection) struct Peer {
    hello: Option<Arc<Hello>>,
    /// Who waits for the hello.
    awaiting_hello: Option<Waker>,
    /// Why it is about to close, if it said so.
    error: Option<RpcError>,
}

impl Peer {
    pub(in crate::connection) fn hello(&self) -> Option<&Arc<Hello>> {
        self.hello.as_ref()
    }

    #[inline]
    pub(in crate::connection) fn has_greeted(&self) -> bool {
        self.hello.is_some()
    }

    pub(super) fn greet(&mut self, hello: Hello, wakers: &mut Vec<Waker>) {
        self.hello = Some(Arc::new(hello));
        wakers.extend(self.awaiting_hello.take());
    }

    /// Wakes `waker` once the hello has come or will not.
    pub(super) fn await_hello(&mut self, waker: &Waker) {
        self.awaiting_hello = Some(waker.clone());
    }

    /// No hello will come.
    pub(super) fn close(&mut self, wakers: &mut Vec<Waker>) {
        wakers.extend(self.awaiting_hello.take());
    }

    pub(super) fn set_error(&mut self, error: RpcError) {
        self.error = Some(error);
    }

    /// Why the connection ended: what the peer said, if it said anything.
    pub(in crate::connection) fn error_or(&mut self, error: RpcError) -> RpcError {
        self.error.take().unwrap_or(error)
    }

    /// Whether it takes a payload of `bytes` bytes, as far as it has said.
    #[inline]
    pub(in crate::connection) fn fits(&self, bytes: usize) -> Result<(), RpcError> {
        let limit = self.hello.as_ref().map_or(0, |hello| hello.max_payload as usize);
        if limit == 0 || bytes <= limit {
            return Ok(());
        }
        let message = format!("payload of {bytes} bytes is over the peer's limit of {limit} bytes");
        Err(RpcError::new(Status::TooLarge, message).unexecuted())
    }

    /// Whether it takes grants of the window that all streams share.
    pub(super) fn has_stream_window(&self) -> bool {
        self.hello.as_ref().is_some_and(|hello| hello.stream_window > 0)
    }

    /// How often it expects a sign of life, if it does.
    pub(in crate::connection) fn heartbeat_interval(&self) -> Option<Duration> {
        let told = self.hello.as_ref().map_or(0, |hello| hello.heartbeat_ms);
        (told > 0).then(|| Duration::from_millis(told.into()).max(MIN_REQUESTED_INTERVAL))
    }
}
