//! [`Client`]: requests to the cluster, with failover.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::messages::{AuthenticateRequest, AuthenticateResponse};
use super::request_error::{RequestError, is_about_the_token};
use super::server::Server;
use super::settings::Settings;
use super::watch_messages::{WatchRequest, WatchResponse};
use crate::RegistryError;
use crate::random::random_index;
use crate::sync::{Mutex, MutexGuard};

/// Pause between two rounds through all servers.
const PAUSE: Duration = Duration::from_millis(100);

/// Uses one server until it fails, then the next.
///
/// A request may reach etcd more than once, since after a missing response it is not known whether
/// it was processed. All requests of this crate are idempotent.
pub(super) struct Client {
    uri: String,
    servers: Vec<Server>,
    /// The server that is tried first.
    current: AtomicUsize,
    credentials: Option<(String, String)>,
    token: Mutex<Token>,
    timeout: Duration,
    /// The runtime of the connections.
    runtime: Handle,
}

/// The authentication token.
#[derive(Clone)]
enum Token {
    /// Not requested yet.
    Unknown,
    /// The cluster has no authentication.
    NotRequired,
    Valid(MetadataValue<Ascii>),
}

/// A method of etcd, by its path.
#[derive(Clone, Copy)]
pub(super) struct Method(&'static str);

impl Method {
    pub(super) const RANGE: Self = Self("/etcdserverpb.KV/Range");
    pub(super) const TXN: Self = Self("/etcdserverpb.KV/Txn");
    pub(super) const GRANT: Self = Self("/etcdserverpb.Lease/LeaseGrant");
    pub(super) const REVOKE: Self = Self("/etcdserverpb.Lease/LeaseRevoke");
    /// A bidirectional stream, with one message in each direction here.
    pub(super) const KEEP_ALIVE: Self = Self("/etcdserverpb.Lease/LeaseKeepAlive");
    const WATCH: Self = Self("/etcdserverpb.Watch/Watch");
    const AUTHENTICATE: Self = Self("/etcdserverpb.Auth/Authenticate");

    fn path(self) -> PathAndQuery {
        PathAndQuery::from_static(self.0)
    }
}

type Attempt<T> = Pin<Box<dyn Future<Output = Result<T, Status>> + Send>>;

impl Client {
    /// Connects when the first request is made.
    pub(super) fn new(settings: &Settings, runtime: Handle) -> Self {
        let servers = settings.servers.iter();
        let servers: Vec<_> =
            servers.map(|(name, endpoint)| Server::new(name, endpoint, &runtime)).collect();
        // Clients spread over the servers.
        let first = random_index(servers.len());
        Self {
            uri: settings.uri.clone(),
            servers,
            current: AtomicUsize::new(first),
            credentials: settings.credentials.clone(),
            token: Mutex::new(Token::Unknown),
            timeout: settings.timeout,
            runtime,
        }
    }

    /// As given, credentials redacted.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// A unary request.
    pub(super) async fn call<Q, A>(&self, method: Method, question: Q) -> Result<A, RegistryError>
    where
        Q: Message + Clone + 'static,
        A: Message + Default + 'static,
    {
        self.retried(|mut grpc, token| {
            let request = request(question.clone(), token);
            Box::pin(async move { unary(&mut grpc, method, request).await })
        })
        .await
    }

    /// A watch that the server has accepted, with all its messages.
    pub(super) async fn watch(
        &self,
        order: WatchRequest,
    ) -> Result<Streaming<WatchResponse>, RegistryError> {
        self.retried(|mut grpc, token| {
            // The stream of requests stays open: its end would end the watch.
            let orders = tokio_stream::once(order.clone()).chain(tokio_stream::pending());
            let request = request(orders, token);
            Box::pin(async move {
                ready(&mut grpc).await?;
                let codec = ProstCodec::default();
                let answer = grpc.streaming(request, Method::WATCH.path(), codec).await?;
                Ok(answer.into_inner())
            })
        })
        .await
    }

    /// Tries one server after the other, until one responds, one refuses, none can be reached, or
    /// the timeout passes.
    async fn retried<T>(
        &self,
        attempt: impl Fn(Grpc<Channel>, Option<MetadataValue<Ascii>>) -> Attempt<T>,
    ) -> Result<T, RegistryError> {
        let deadline = Instant::now() + self.timeout;
        // No server may use up the whole timeout.
        let share = self.timeout / u32::try_from(self.servers.len()).unwrap_or(u32::MAX).max(1);
        loop {
            let mut failures = Vec::new();
            let mut may_serve_soon = false;
            for _ in 0..self.servers.len() {
                let index = self.current.load(Ordering::Relaxed);
                let Some(server) = self.servers.get(index % self.servers.len()) else { break };
                let connection = server.connection();
                let limit = deadline.min(Instant::now() + share);
                let failure = match timeout_at(limit, self.attempt(server, &attempt)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(status)) => match RequestError::of(&status) {
                        RequestError::Refused(error) => return Err(error.with_registry(&self.uri)),
                        RequestError::Busy(why) => {
                            may_serve_soon = true;
                            why
                        }
                        RequestError::Unreachable(why) => why,
                    },
                    Err(_) => {
                        // The connection may be dead without an error.
                        server.replace(connection, &self.runtime);
                        may_serve_soon = true;
                        "no answer in time".to_owned()
                    }
                };
                failures.push(format!("{}: {failure}", server.name));
                self.move_on_from(index);
                if Instant::now() >= deadline {
                    break;
                }
            }
            let pause = Instant::now() + PAUSE;
            if !may_serve_soon || pause >= deadline {
                return Err(self.away(&failures));
            }
            sleep_until(pause).await;
        }
    }

    async fn attempt<T>(
        &self,
        server: &Server,
        attempt: &impl Fn(Grpc<Channel>, Option<MetadataValue<Ascii>>) -> Attempt<T>,
    ) -> Result<T, Status> {
        let token = self.authenticated(server).await?;
        match attempt(server.grpc(), token).await {
            Err(status) if self.credentials.is_some() && is_about_the_token(&status) => {
                *self.token() = Token::Unknown;
                let token = self.authenticated(server).await?;
                attempt(server.grpc(), token).await
            }
            tried => tried,
        }
    }

    /// Tries the next server first from here on, unless another task has changed that already.
    fn move_on_from(&self, index: usize) {
        let next = index.wrapping_add(1);
        let order = Ordering::Relaxed;
        let _ = self.current.compare_exchange(index, next, order, order);
    }

    async fn authenticated(&self, server: &Server) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some((name, password)) = &self.credentials else { return Ok(None) };
        match self.token().clone() {
            Token::Valid(token) => return Ok(Some(token)),
            Token::NotRequired => return Ok(None),
            Token::Unknown => {}
        }
        let who = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let answer: Result<AuthenticateResponse, _> =
            unary(&mut server.grpc(), Method::AUTHENTICATE, request(who, None)).await;
        let (known, token) = match answer {
            Ok(answer) => {
                let token = header(answer.token)?;
                (Token::Valid(token.clone()), Some(token))
            }
            // A URI may have credentials before authentication is enabled in the cluster.
            Err(status) if status.message().contains("authentication is not enabled") => {
                (Token::NotRequired, None)
            }
            Err(status) => return Err(status),
        };
        *self.token() = known;
        Ok(token)
    }

    fn away(&self, failures: &[String]) -> RegistryError {
        RegistryError::unavailable(format!("no etcd server could serve: {}", failures.join(", ")))
            .with_registry(&self.uri)
            .with_hint("check that the servers of the URI run and can be reached from here")
    }

    fn token(&self) -> MutexGuard<'_, Token> {
        self.token.lock()
    }
}

async fn unary<Q, A>(
    grpc: &mut Grpc<Channel>,
    method: Method,
    request: Request<Q>,
) -> Result<A, Status>
where
    Q: Message + 'static,
    A: Message + Default + 'static,
{
    ready(grpc).await?;
    Ok(grpc.unary(request, method.path(), ProstCodec::default()).await?.into_inner())
}

async fn ready(grpc: &mut Grpc<Channel>) -> Result<(), Status> {
    grpc.ready().await.map_err(|error| Status::from_error(error.into()))
}

/// A token as a header value, marked sensitive: it is not logged and not stored in tables of header
/// compression.
fn header(token: String) -> Result<MetadataValue<Ascii>, Status> {
    let mut token = MetadataValue::try_from(token)
        .map_err(|_| Status::internal("etcdserver: the token is no header value"))?;
    token.set_sensitive(true);
    Ok(token)
}

fn request<Q>(message: Q, token: Option<MetadataValue<Ascii>>) -> Request<Q> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    // A server without a leader fails the request, instead of waiting or, in a watch, sending
    // nothing.
    metadata.insert("hasleader", MetadataValue::from_static("true"));
    if let Some(token) = token {
        metadata.insert("token", token);
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_password_nor_token_is_shown() {
        let asked = request(
            AuthenticateRequest { name: "me".to_owned(), password: "hunter2".to_owned() },
            Some(header("t0ken".to_owned()).unwrap()),
        );
        let answer = AuthenticateResponse { token: "t0ken".to_owned() };
        let shown = format!("{asked:?} {answer:?}");
        assert!(shown.contains("me") && !shown.contains("hunter2"), "{shown}");
        assert!(!shown.contains("t0ken"), "{shown}");
    }
}
