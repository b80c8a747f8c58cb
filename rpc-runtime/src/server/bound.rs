//! [`Bound`]: the bound listeners of a server.

use std::num::NonZero;
use std::sync::Arc;
use std::thread;

use tokio::sync::watch;

use super::Accepting;
use super::accept::Acceptor;
use super::event_loops::EventLoops;
use crate::error::RpcError;
use crate::transport::{self, BoundSocket, ListenSettings, Listener};
use crate::uri::Uri;

/// The listeners of a server.
pub(super) enum Bound {
    Here(Listener),
    /// One for each loop.
    OnLoops(Vec<BoundSocket>),
}

impl Bound {
    pub(super) async fn new(
        uri: &Uri,
        event_loops: Option<usize>,
        settings: &ListenSettings,
    ) -> Result<Self, RpcError> {
        let loops = match event_loops {
            None => return transport::listen(uri, settings).await.map(Self::Here),
            Some(0) => thread::available_parallelism().map_or(1, NonZero::get),
            Some(loops) => loops,
        };
        transport::bind_several(uri, loops, settings).await.map(Self::OnLoops)
    }

    /// `asked` is the requested URI.
    pub(super) fn local_uri<'u>(&'u self, asked: &'u Uri) -> &'u Uri {
        match self {
            Self::Here(listener) => listener.local_uri(),
            Self::OnLoops(sockets) => sockets.first().map_or(asked, BoundSocket::local_uri),
        }
    }

    pub(super) async fn accept(
        self,
        acceptor: &Arc<Acceptor>,
        stopped: &watch::Receiver<bool>,
        settings: &ListenSettings,
    ) -> Result<Accepting, RpcError> {
        let run = |listener| Arc::clone(acceptor).run(listener, stopped.clone());
        match self {
            Self::Here(listener) => Ok(Accepting::Here(tokio::spawn(run(listener)))),
            Self::OnLoops(sockets) => {
                let service = |socket: BoundSocket| {
                    let (acceptor, stopped) = (Arc::clone(acceptor), stopped.clone());
                    let settings = settings.clone();
                    move || Ok(acceptor.run(socket.into_listener(&settings)?, stopped))
                };
                let services = sockets.into_iter().map(service).collect();
                EventLoops::start(services).await.map(Accepting::OnLoops)
            }
        }
    }
}
