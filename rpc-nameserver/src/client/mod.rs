//! [`NameServers`]: the back end of the scheme `nameserver`.
//!
//! | file | what |
//! | --- | --- |
//! | [`settings`], [`uri`] | the servers and how they are used, and how a URI sets that |
//! | [`token`], `tls_reload` | authentication |
//! | [`server`] | the connection to one server |
//! | [`local_registrations`], [`task`] | the registrations of this process, and what each server must be sent |
//! | [`server_session`] | keeps one server up to date |
//! | [`session`] | one registration, at all servers |
//! | [`reader`], [`feed`] | asks one server and follows at one server, with failover |

mod feed;
mod local_registrations;
mod reader;
mod server;
mod server_session;
mod session;
mod settings;
mod task;
#[cfg(feature = "tls")]
mod tls_reload;
mod token;
mod uri;

use std::sync::{Arc, Once};

use futures::future::join_all;
use rpc_registry::{
    Announcement, BackEnd, BoxFuture, Claim, Feed, Instance, RegistryError, unix_ms,
};
use tokio::runtime::Handle;

use self::feed::{NameFeed, instances};
use self::local_registrations::LocalRegistrations;
use self::reader::{Reader, none_answers};
use self::server::RemoteServer;
use self::server_session::ServerSession;
use self::session::{RegistrationSession, Results};
pub use self::settings::NameServersSettings;
use crate::contract::NameService;
use crate::secret::{Secret, random_bytes};

/// The back end of a [`Resilient`](rpc_registry::Resilient) registry in name servers.
///
/// The scheme `nameserver` uses it. Made directly, it can use servers at other transports than
/// `tcp` and `tls`.
///
/// Its tasks run in the tokio runtime in which it was made. They end when it and its registrations
/// are dropped.
pub struct NameServers {
    settings: Arc<NameServersSettings>,
    /// The servers for queries.
    servers: Vec<Arc<RemoteServer>>,
    reader: Arc<Reader>,
    /// The servers for registrations. They use separate connections, so that no renewal waits
    /// behind a list.
    ///
    /// Each with the number of its session. No other server knows that number, so no server can use
    /// the session of this process at another server.
    attended: Vec<(Arc<RemoteServer>, u64)>,
    registrations: Arc<LocalRegistrations>,
    /// The sessions begin with the first registration: a consumer has none.
    attending: Once,
    runtime: Handle,
}

impl NameServers {
    /// Connects to no server yet.
    ///
    /// # Errors
    ///
    /// `is_invalid_uri` if an address can't be used, there is none, or a time is out of its range;
    /// `is_unavailable` outside of a tokio runtime.
    pub async fn new(settings: NameServersSettings) -> Result<Self, RegistryError> {
        settings.check()?;
        let runtime = Handle::try_current().map_err(|error| {
            RegistryError::unavailable("a registry needs a tokio runtime")
                .with_registry(&settings.uri)
                .with_source(error)
        })?;
        let (mut servers, mut attended) = (Vec::new(), Vec::new());
        for uri in &settings.servers {
            servers.push(Arc::new(RemoteServer::new(uri, &settings).await?));
            let session = random_bytes().map(u64::from_ne_bytes);
            let session = session.map_err(|error| error.with_registry(&settings.uri))?;
            attended.push((Arc::new(RemoteServer::new(uri, &settings).await?), session));
        }
        let reader = Arc::new(Reader::new(&settings.uri, servers.clone()));
        let registrations = Arc::new(LocalRegistrations::new(servers.len()));
        let settings = Arc::new(settings);
        #[cfg(feature = "tls")]
        tls_reload::reload_tls(&settings, &runtime);
        let attending = Once::new();
        Ok(Self { settings, servers, reader, attended, registrations, attending, runtime })
    }

    /// Begins the sessions at all servers.
    fn attend(&self) {
        self.attending.call_once(|| {
            for (index, (server, session)) in self.attended.iter().enumerate() {
                let attendant = ServerSession {
                    index,
                    server: Arc::clone(server),
                    registrations: Arc::clone(&self.registrations),
                    settings: Arc::clone(&self.settings),
                    session: *session,
                };
                self.runtime.spawn(attendant.run());
            }
        });
    }

    async fn announced(
        &self,
        instance: Instance,
        claim: Claim,
    ) -> Result<Announcement, RegistryError> {
        self.attend();
        let new = claim == Claim::New;
        let instance = match new {
            // No server remembers removed registrations. The time is newer than the epoch of any
            // earlier registration of this id.
            true => {
                let epoch = instance.epoch().max(unix_ms());
                instance.with_epoch(epoch)
            }
            false => instance,
        };
        let key = (instance.service().to_owned(), instance.id().to_owned());
        let secret = Secret::random().map_err(|error| error.with_registry(&self.settings.uri))?;
        let mut entered =
            self.registrations.add(instance.clone(), new, secret).ok_or_else(|| {
                RegistryError::already_exists(format!(
                    "the instance {:?} of {:?} is registered by this process",
                    key.1, key.0
                ))
                .with_registry(&self.settings.uri)
                .with_hint("give each provider its own id, or end the other one first")
            })?;
        // Removes the registration when dropped.
        let registration = RegistrationSession {
            registrations: Arc::clone(&self.registrations),
            settings: Arc::clone(&self.settings),
            key,
            number: entered.number,
        };
        let outcome = Results::of(&mut entered.results, self.settings.timeout).await;
        if let Some(refused) = outcome.refused {
            return Err(refused);
        }
        if outcome.done == 0 {
            return Err(none_answers(&self.settings.uri, outcome.failures));
        }
        let lost = registration.lost(entered.lost);
        Ok(Announcement { instance, lost, session: Box::new(registration) })
    }
}

impl BackEnd for NameServers {
    fn uri(&self) -> &str {
        &self.settings.uri
    }

    fn announce<'a>(
        &'a self,
        instance: Instance,
        claim: Claim,
    ) -> BoxFuture<'a, Result<Announcement, RegistryError>> {
        Box::pin(self.announced(instance, claim))
    }

    fn list<'a>(&'a self, service: &'a str) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>> {
        Box::pin(async move {
            let ask = |server: Arc<RemoteServer>| async move {
                let listing = server.stub.lookup(service.to_owned()).await?;
                instances(&listing.instances, service).await
            };
            Ok(self.reader.ask(ask).await?.1)
        })
    }

    fn follow<'a>(
        &'a self,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Box<dyn Feed>, RegistryError>> {
        Box::pin(async move {
            let feed = NameFeed::open(Arc::clone(&self.reader), service).await?;
            Ok(Box::new(feed) as _)
        })
    }

    /// Removes the registration at all servers; one response is enough. A server that is not
    /// reached keeps the entry. Registrations of other processes are removed only if this client
    /// has the right to.
    fn remove<'a>(
        &'a self,
        service: &'a str,
        instance_id: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move {
            let key = (service.to_owned(), instance_id.to_owned());
            let secret = self.registrations.secret(&key);
            let ask = |server: &Arc<RemoteServer>| {
                let secret = secret.as_ref().map(|secret| secret.at(&server.uri));
                let server = Arc::clone(server);
                let (service, id) = key.clone();
                async move {
                    let removed = server.stub.remove(service, id, secret).await;
                    removed.map_err(|error| server.explain(error))
                }
            };
            let answers = join_all(self.servers.iter().map(ask)).await;
            let is_denied = |answer: &Result<bool, RegistryError>| {
                answer.as_ref().is_err_and(RegistryError::is_permission_denied)
            };
            if let Some(Err(denied)) = answers.iter().find(|answer| is_denied(answer)) {
                return Err(denied.clone().with_registry(&self.settings.uri));
            }
            let (answered, failed): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
            if answered.is_empty() {
                let failures = failed.into_iter().filter_map(Result::err).collect();
                return Err(none_answers(&self.settings.uri, failures));
            }
            Ok(answered.into_iter().any(|removed| removed.is_ok_and(|it| it)))
        })
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(async move {
            let ask = |server: Arc<RemoteServer>| async move { server.stub.services().await };
            Ok(self.reader.ask(ask).await?.1)
        })
    }
}

impl Drop for NameServers {
    fn drop(&mut self) {
        self.registrations.close();
    }
}
