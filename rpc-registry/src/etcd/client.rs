//! [`Client`]: requests to whichever server of the cluster answers.

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use http::uri::PathAndQuery;
use prost::Message;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep_until, timeout_at};
use tokio_stream::StreamExt;
use tonic::client::Grpc;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};
use tonic_prost::ProstCodec;

use super::fault::{Fault, is_about_the_token};
use super::messages::{AuthenticateRequest, AuthenticateResponse, WatchRequest, WatchResponse};
use super::settings::Settings;
use crate::RegistryError;
use crate::instance::random_bits;

/// Longest answer. Ten thousand instances take some 3 MB.
const MAX_ANSWER: usize = 64 << 20;
/// Between two rounds through all servers, when none could serve.
const PAUSE: Duration = Duration::from_millis(100);

/// Talks to one server until that fails, then to the next.
///
/// A request may reach etcd more than once, since an answer that did not come leaves open whether
/// it was served. All requests here come to the same when they are repeated.
pub(super) struct Client {
    uri: String,
    servers: Vec<Server>,
    /// The server that is asked first.
    current: AtomicUsize,
    credentials: Option<(String, String)>,
    token: Mutex<Token>,
    timeout: Duration,
    /// Where connections live, whoever asks.
    runtime: Handle,
}

struct Server {
    name: String,
    endpoint: Endpoint,
    line: Mutex<Line>,
}

/// What leads to a server.
struct Line {
    channel: Channel,
    /// How many there were before.
    number: u64,
}

/// What shows etcd who asks.
#[derive(Clone)]
enum Token {
    /// It must be asked for.
    Wanted,
    /// The cluster wants none.
    Needless,
    Given(MetadataValue<Ascii>),
}

/// A method of etcd, by its path.
#[derive(Clone, Copy)]
pub(super) struct Method(&'static str);

impl Method {
    pub(super) const RANGE: Self = Self("/etcdserverpb.KV/Range");
    pub(super) const TXN: Self = Self("/etcdserverpb.KV/Txn");
    pub(super) const GRANT: Self = Self("/etcdserverpb.Lease/LeaseGrant");
    pub(super) const REVOKE: Self = Self("/etcdserverpb.Lease/LeaseRevoke");
    /// A stream in both directions, of which each carries one message here.
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
        let servers = settings.servers.iter().map(|(name, endpoint)| Server {
            name: name.clone(),
            endpoint: endpoint.clone(),
            line: Mutex::new(Line { channel: channel(endpoint, &runtime), number: 0 }),
        });
        let servers: Vec<_> = servers.collect();
        // Not all clients at the first server.
        let first = usize::try_from(random_bits() >> 32).unwrap_or_default();
        Self {
            uri: settings.uri.clone(),
            servers,
            current: AtomicUsize::new(first),
            credentials: settings.credentials.clone(),
            token: Mutex::new(Token::Wanted),
            timeout: settings.timeout,
            runtime,
        }
    }

    /// As given, credentials redacted.
    pub(super) fn uri(&self) -> &str {
        &self.uri
    }

    /// One request, one answer.
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

    /// A watch that has been heard by the server, with all that it says from the first message on.
    pub(super) async fn watch(
        &self,
        order: WatchRequest,
    ) -> Result<Streaming<WatchResponse>, RegistryError> {
        self.retried(|mut grpc, token| {
            // The stream of orders stays open: its end would be taken for the watch's.
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

    /// Tries one server after the other, until one has served, one has refused, none can be
    /// reached, or the time is up.
    async fn retried<T>(
        &self,
        attempt: impl Fn(Grpc<Channel>, Option<MetadataValue<Ascii>>) -> Attempt<T>,
    ) -> Result<T, RegistryError> {
        let deadline = Instant::now() + self.timeout;
        // None may take all of the time for itself.
        let share = self.timeout / u32::try_from(self.servers.len()).unwrap_or(u32::MAX).max(1);
        loop {
            let mut failures = Vec::new();
            let mut may_serve_soon = false;
            for _ in 0..self.servers.len() {
                let index = self.current.load(Ordering::Relaxed);
                let Some(server) = self.servers.get(index % self.servers.len()) else { break };
                let line = server.line().number;
                let limit = deadline.min(Instant::now() + share);
                let failure = match timeout_at(limit, self.attempt(server, &attempt)).await {
                    Ok(Ok(answer)) => return Ok(answer),
                    Ok(Err(status)) => match Fault::of(&status) {
                        Fault::Refused(error) => return Err(error.with_registry(&self.uri)),
                        Fault::Busy(why) => {
                            may_serve_soon = true;
                            why
                        }
                        Fault::Unreachable(why) => why,
                    },
                    Err(_) => {
                        // The connection may be dead without anybody having noticed.
                        server.replace(line, &self.runtime);
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
                *self.token() = Token::Wanted;
                let token = self.authenticated(server).await?;
                attempt(server.grpc(), token).await
            }
            tried => tried,
        }
    }

    /// Asks the next server first from here on, unless somebody has moved on already.
    fn move_on_from(&self, index: usize) {
        let next = index.wrapping_add(1);
        let order = Ordering::Relaxed;
        let _ = self.current.compare_exchange(index, next, order, order);
    }

    async fn authenticated(&self, server: &Server) -> Result<Option<MetadataValue<Ascii>>, Status> {
        let Some((name, password)) = &self.credentials else { return Ok(None) };
        match self.token().clone() {
            Token::Given(token) => return Ok(Some(token)),
            Token::Needless => return Ok(None),
            Token::Wanted => {}
        }
        let who = AuthenticateRequest { name: name.clone(), password: password.clone() };
        let answer: Result<AuthenticateResponse, _> =
            unary(&mut server.grpc(), Method::AUTHENTICATE, request(who, None)).await;
        let (known, token) = match answer {
            Ok(answer) => {
                let token = header(answer.token)?;
                (Token::Given(token.clone()), Some(token))
            }
            // Credentials are there before a cluster is told to ask for them.
            Err(status) if status.message().contains("authentication is not enabled") => {
                (Token::Needless, None)
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
        self.token.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    fn line(&self) -> MutexGuard<'_, Line> {
        self.line.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn grpc(&self) -> Grpc<Channel> {
        Grpc::new(self.line().channel.clone()).max_decoding_message_size(MAX_ANSWER)
    }

    /// Takes another line from here on, unless somebody has done so already.
    fn replace(&self, line: u64, runtime: &Handle) {
        let mut now = self.line();
        if now.number == line {
            *now = Line { channel: channel(&self.endpoint, runtime), number: line.wrapping_add(1) };
        }
    }
}

/// Connects with the first request, in this runtime.
fn channel(endpoint: &Endpoint, runtime: &Handle) -> Channel {
    let _inside = runtime.enter();
    endpoint.connect_lazy()
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

/// A token as a header value, marked sensitive: not logged with headers, and not kept in tables of
/// header compression.
fn header(token: String) -> Result<MetadataValue<Ascii>, Status> {
    let mut token = MetadataValue::try_from(token)
        .map_err(|_| Status::internal("etcdserver: the token is no header value"))?;
    token.set_sensitive(true);
    Ok(token)
}

fn request<Q>(message: Q, token: Option<MetadataValue<Ascii>>) -> Request<Q> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    // A server that has lost the others says so, instead of waiting for them or, in a watch,
    // saying nothing.
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
