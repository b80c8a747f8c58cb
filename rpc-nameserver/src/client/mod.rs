//! [`NameServers`]: the back end of the scheme `nameserver`.
//!
//! | file | what |
//! | --- | --- |
//! | [`settings`] | which servers there are, and how they are used |
//! | [`security`] | by what servers and this client know each other |
//! | [`server`] | one of them, as seen from here |
//! | [`roll`] | what this process announces, and what each server is still to be told |
//! | [`attendant`] | tells one server |
//! | [`session`] | one registration |
//! | [`reader`], [`feed`] | asks one server, follows at one server, and moves on when that fails |

mod attendant;
mod feed;
mod reader;
mod roll;
mod security;
mod server;
mod session;
mod settings;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Arc, Once};
use std::time::{SystemTime, UNIX_EPOCH};

use futures::future::join_all;
use rpc_registry::{Announcement, BackEnd, BoxFuture, Claim, Feed, Instance, RegistryError};
use tokio::runtime::Handle;

use self::attendant::Attendant;
use self::feed::{NameFeed, instances};
use self::reader::{Reader, none_answers};
use self::roll::Roll;
use self::server::RemoteServer;
use self::session::{Outcome, Registration};
pub use self::settings::NameServersSettings;
use crate::contract::NameService;
use crate::secret::{Secret, random_bytes};

/// Some name servers as the back end of a [`Resilient`](rpc_registry::Resilient) registry.
///
/// It is what the scheme `nameserver` uses; made by hand it can have servers at other transports
/// than `tcp`.
///
/// Its tasks run in the tokio runtime in which it was made. They end when it and its registrations
/// are dropped.
pub struct NameServers {
    settings: Arc<NameServersSettings>,
    /// To ask.
    servers: Vec<Arc<RemoteServer>>,
    reader: Arc<Reader>,
    /// To attend. Their connections are others, so that no renewal waits behind a list.
    ///
    /// Each with the number of the session there. That server alone knows it, so nobody else can
    /// speak for this process at another.
    attended: Vec<(Arc<RemoteServer>, u64)>,
    roll: Arc<Roll>,
    /// Done with the first announcement: who only asks has no session.
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
        let roll = Arc::new(Roll::new(servers.len()));
        let settings = Arc::new(settings);
        #[cfg(feature = "tls")]
        security::renew_tls(&settings, &runtime);
        let attending = Once::new();
        Ok(Self { settings, servers, reader, attended, roll, attending, runtime })
    }

    /// Attends all servers from now on.
    fn attend(&self) {
        self.attending.call_once(|| {
            for (index, (server, session)) in self.attended.iter().enumerate() {
                let attendant = Attendant {
                    index,
                    server: Arc::clone(server),
                    roll: Arc::clone(&self.roll),
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
            // No server remembers who is gone, nor knows what others remember: but the time is newer
            // than that of any former life.
            true => {
                let epoch = instance.epoch().max(unix_ms());
                instance.with_epoch(epoch)
            }
            false => instance,
        };
        let key = (instance.service().to_owned(), instance.id().to_owned());
        let secret = Secret::random().map_err(|error| error.with_registry(&self.settings.uri))?;
        let mut entered = self.roll.enter(instance.clone(), new, secret).ok_or_else(|| {
            RegistryError::already_exists(format!(
                "the instance {:?} of {:?} is registered by this process",
                key.1, key.0
            ))
            .with_registry(&self.settings.uri)
            .with_hint("give each provider its own id, or end the other one first")
        })?;
        // From here on it is taken back if this is dropped.
        let registration = Registration {
            roll: Arc::clone(&self.roll),
            settings: Arc::clone(&self.settings),
            key,
            number: entered.number,
        };
        let outcome = Outcome::of(&mut entered.verdicts, self.settings.timeout).await;
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
            let secret = self.roll.secret(&key);
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
        self.roll.close();
    }
}

/// Nobody else has the same: the standard library seeds each process's hashers from the operating
/// system, and no two hashers of a process are alike. Time and process id make up for a copied
/// process image.
fn random_bits() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    hasher.write_u64(unix_ms());
    hasher.finish()
}

/// Milliseconds since the Unix epoch; 0 if the clock stands before it.
fn unix_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
