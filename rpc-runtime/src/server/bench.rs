//! The dispatching of one connection without a peer, for benchmarks.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use bytes::BytesMut;
use tokio::sync::mpsc;

use super::connections::{ConnectionLimits, Connections};
use super::dispatcher::{Dispatcher, Provided};
use super::requests::Requests;
use super::workers::{WorkLimits, Workers};
use crate::call::Interceptors;
use crate::connection::driver::{Batch, RequestHandler};
use crate::connection::{Channel, ChannelSettings, clock};
use crate::descriptor::Dispatch;
use crate::error::RpcError;
use crate::protocol::{Frame, Hello};
use crate::service::Service;
use crate::transport::{Reader, Transport, Writer};

/// A connection whose requests are given to it, and whose answers are dropped once they are
/// written.
pub struct Dispatching {
    channel: Arc<Channel>,
    requests: Requests,
    _done: mpsc::Receiver<()>,
}

impl Dispatching {
    /// A connection of a server that provides `service` behind `interceptors`.
    ///
    /// # Errors
    /// Two methods of the service have the same id.
    pub fn new(
        service: impl Service,
        interceptors: impl Into<Interceptors>,
    ) -> Result<Self, RpcError> {
        let settings = ChannelSettings::default();
        let (service, interceptors) = (Arc::new(service), interceptors.into());
        let services = [Provided { service, interceptors: Interceptors::new() }];
        let dispatcher =
            Dispatcher::new(&services, &interceptors, Dispatch::Inline, settings.observer)?;
        let nowhere = Transport::new(NullTransport, NullTransport, String::new());
        let observer = settings.observer;
        let (channel, _) = Channel::new(nowhere, settings, &Hello::default(), None)?;
        channel.flush(clock());
        let (done, _done) = mpsc::channel(1);
        let limits = ConnectionLimits { total: 1, per_address: None };
        let permit = Arc::new(Connections::new(limits)).admit("").map_err(|(_, why)| why)?;
        let workers = Workers::new(WorkLimits::default(), observer, done);
        let requests = Requests::new(Arc::new(dispatcher), permit, &Arc::new(workers));
        Ok(Self { channel, requests, _done })
    }

    /// Requests that came together, from the frames to the bytes of the answers.
    #[inline]
    pub fn answer<'a>(&mut self, requests: impl IntoIterator<Item = Frame<'a>>) {
        let requests = requests.into_iter().collect();
        let batch = Batch { requests, now: clock(), in_work: 0, overloaded: false, split: false };
        let mut cx = Context::from_waker(Waker::noop());
        let now = self.requests.handle(&self.channel, batch, &mut cx);
        self.channel.flush(now);
    }
}

struct NullTransport;

impl Reader for NullTransport {
    fn poll_read(
        &mut self,
        _: &mut Context<'_>,
        _: &mut BytesMut,
        _: usize,
    ) -> Poll<io::Result<usize>> {
        Poll::Pending
    }

    fn is_closed(&mut self, _: &mut Context<'_>) -> bool {
        false
    }
}

impl Writer for NullTransport {
    fn try_write(&self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn poll_write_ready(&self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn shutdown_write(&self) {}

    fn shutdown(&self) {}
}
