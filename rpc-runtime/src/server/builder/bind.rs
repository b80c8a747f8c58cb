//! [`ServerBuilder::bind`].

use std::sync::Arc;

use tokio::sync::{mpsc, watch};

use super::ServerBuilder;
use super::announce::announce;
use crate::budget::Budget;
use crate::connection::MAX_CONTROL;
use crate::error::RpcError;
use crate::protocol::{Hello, HelloService};
use crate::runtime::current_runtime;
use crate::server::Server;
use crate::server::accept::{Acceptor, Refusals};
use crate::server::bound::Bound;
use crate::server::connections::Connections;
use crate::server::dispatcher::{Dispatcher, Provided};
use crate::server::lifetime::Lifetime;
use crate::server::workers::Workers;
#[cfg(feature = "tls")]
use crate::transport::Acceptor as TlsAcceptor;
use crate::transport::ListenSettings;
use crate::uri::Uri;

impl ServerBuilder {
    /// Listens on `uri`, starts serving and registers the services.
    ///
    /// - `tcp://host:port`; port 0 for any free port.
    /// - `tls://host:port`: the same with TLS; needs the feature `tls` and `ServerBuilder::tls`.
    /// - `unix:///path`: a socket in the file system, for consumers on this machine. Its file is
    ///   made with the permissions of the process's umask; every user with write access to it may
    ///   call. Put it into a folder in which no other user can create files. It is removed when the
    ///   server ends, and that of a server that was killed is replaced. Beside it is a lock file,
    ///   `/path.lock`, which stays.
    /// - `memory:name`: within this process.
    ///
    /// # Errors
    /// The URI or the heartbeat is invalid, the port is in use, two services conflict, the registry
    /// refuses a registration, event loops are not supported for the address, or there is no tokio
    /// runtime.
    ///
    /// # Cancel safety
    /// Dropping the future closes the listener and removes the registrations.
    pub async fn bind(mut self, uri: impl AsRef<str>) -> Result<Server, RpcError> {
        current_runtime()?;
        self.settings.heartbeat.check()?;
        let uri = Uri::parse(uri.as_ref())?;
        self.settings.budget = Budget::new(self.memory, self.settings.observer);
        if self.services.is_empty() {
            tracing::warn!(%uri, "nothing is provided: name services with `provide`");
        }
        let observer = self.settings.observer;
        observer.describe();
        let dispatcher =
            Dispatcher::new(&self.services, &self.interceptors, self.dispatch, observer)?;
        let listen = self.listen_settings()?;
        let bound = Bound::new(&uri, self.event_loops, &listen).await?;
        let local_uri = bound.local_uri(&uri).clone();
        let instances = self.instances(&local_uri)?;
        let hello = self.hello()?;
        let (done, all_done) = mpsc::channel(1);
        let (stop, stopped) = watch::channel(false);
        let connections = Arc::new(Connections::new(self.connections));
        let acceptor = Arc::new(Acceptor {
            dispatcher: Arc::new(dispatcher),
            settings: Arc::new(self.settings),
            hello,
            initializer: self.initializer,
            connections: Arc::clone(&connections),
            workers: Arc::new(Workers::new(self.work, observer, done)),
            lifetime: Lifetime {
                max_age: self.max_connection_age,
                drain_timeout: self.drain_timeout,
            },
            refusals: Refusals::default(),
        });
        let mut server = Server {
            local_uri: local_uri.to_string(),
            drain_timeout: self.drain_timeout,
            observer,
            leases: Vec::new(),
            accepting: bound.accept(&acceptor, &stopped, &listen).await?,
            stop,
            connections,
            all_done,
        };
        if let Some(registry) = self.registry {
            for instance in instances {
                server.leases.push(announce(&*registry, instance).await?);
            }
        }
        tracing::info!(uri = server.local_uri(), "serving");
        Ok(server)
    }

    /// The hello of each connection.
    fn hello(&self) -> Result<Hello, RpcError> {
        let mut hello = Hello {
            max_payload: u32::try_from(self.settings.max_payload).unwrap_or(u32::MAX),
            max_requests: u32::try_from(self.settings.max_concurrent_requests).unwrap_or(u32::MAX),
            heartbeat_ms: self.settings.heartbeat.hello_ms(),
            stream_window: self.settings.budget.stream_window(),
            services: self
                .services
                .iter()
                .map(|Provided { service, .. }| {
                    HelloService::new(service.descriptor(), service.fingerprints())
                })
                .collect(),
            ..Hello::default()
        };
        hello.shorten(MAX_CONTROL)?;
        let hello_bytes = hello.encode()?.len();
        if hello_bytes > MAX_CONTROL {
            return Err(RpcError::invalid(format!(
                "the names of the {} services take {hello_bytes} bytes, a connection's greeting has \
                 room for {MAX_CONTROL}: provide fewer services in one server",
                self.services.len()
            )));
        }
        Ok(hello)
    }

    fn listen_settings(&self) -> Result<ListenSettings, RpcError> {
        Ok(ListenSettings {
            #[cfg(feature = "tls")]
            tls: self.tls.as_ref().map(TlsAcceptor::new).transpose()?,
        })
    }
}
