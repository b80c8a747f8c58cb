//! The services of a server, and their interceptors.

use std::sync::Arc;

use super::ServerBuilder;
use crate::call::{Interceptor, Interceptors};
use crate::server::dispatcher::Provided;
use crate::service::Service;

impl ServerBuilder {
    /// Provides a service. A server can provide several services, and several major versions of
    /// one.
    pub fn provide(self, service: impl Service) -> Self {
        self.provide_with(service, Interceptors::new())
    }

    /// Provides a service whose calls run through `interceptors`, inside those of the
    /// [server](Self::interceptor). Pass an array or a vector for interceptors of one type,
    /// [`Interceptors`] for several types.
    ///
    /// ```
    /// # use rpc_runtime::{Call, Interceptor, Interceptors, Next, Reply, Result, Server, rpc_service};
    /// # #[rpc_service] pub trait Admin { async fn restart(&self) -> Result<()>; }
    /// # #[rpc_service] pub trait Audit { async fn last(&self) -> Result<String>; }
    /// # struct Node;
    /// # impl Admin for Node { async fn restart(&self) -> Result<()> { Ok(()) } }
    /// # impl Audit for Node { async fn last(&self) -> Result<String> { Ok(String::new()) } }
    /// # macro_rules! pass { ($($t:ty),*) => {$(impl Interceptor for $t {
    /// #     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
    /// #         next.run(call).await
    /// #     }
    /// # })*} }
    /// # struct RequireRole(&'static str);
    /// # struct Log;
    /// # pass!(RequireRole, Log);
    /// let server = Server::builder()
    ///     .provide_with(AdminServer::new(Node), [RequireRole("admin")])
    ///     .provide_with(AuditServer::new(Node), Interceptors::new().with(Log).with(RequireRole("audit")));
    /// ```
    pub fn provide_with(
        mut self,
        service: impl Service,
        interceptors: impl Into<Interceptors>,
    ) -> Self {
        let (service, interceptors) = (Arc::new(service), interceptors.into());
        self.services.push(Provided { service, interceptors });
        self
    }

    /// Adds an interceptor for the calls of all services. The first one added is the outermost.
    ///
    /// Requests for unknown methods and requests over a limit are refused before it runs; see
    /// `docs/protocol.md`. It runs before the arguments are decoded, in the task in which an
    /// `inline` method would run, so it must not block. Calls of a `blocking` method wait for a
    /// thread after the interceptors. When the deadline passes or the caller is gone, the
    /// interceptors are dropped like the method.
    ///
    /// ```
    /// use rpc_runtime::{Call, Context, Interceptor, Next, Reply, Result, RpcError, Server, rpc_service};
    ///
    /// #[rpc_service]
    /// pub trait Hello {
    ///     async fn hello(&self) -> Result<String>;
    /// }
    ///
    /// /// The authenticated caller.
    /// struct User(String);
    ///
    /// struct Greeter;
    /// impl Hello for Greeter {
    ///     async fn hello(&self) -> Result<String> {
    ///         let user = Context::current().extension::<User>();
    ///         Ok(format!("Hello, {}", user.map_or("stranger".to_owned(), |user| user.0.clone())))
    ///     }
    /// }
    ///
    /// struct RequireBearer(&'static str);
    /// impl Interceptor for RequireBearer {
    ///     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
    ///         match call.metadata("authorization").and_then(|value| value.strip_prefix("Bearer ")) {
    ///             Some(token) if token == self.0 => {
    ///                 call.extensions_mut().insert(User("ada".into()));
    ///                 next.run(call).await.map(|reply| reply.with_metadata("served-by", "node-7"))
    ///             }
    ///             _ => Err(RpcError::unauthenticated("a bearer token is needed")),
    ///         }
    ///     }
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<()> {
    /// let server = Server::builder()
    ///     .provide(HelloServer::new(Greeter))
    ///     .interceptor(RequireBearer("s3cret"))
    ///     .bind("memory:bearer")
    ///     .await?;
    /// let hello = HelloClient::connect("memory:bearer").await?;
    /// let error = hello.hello().await.unwrap_err();
    /// assert!(error.is_unauthenticated() && error.is_safe_to_retry());
    /// let hello = hello.with_metadata("authorization", "Bearer s3cret");
    /// assert_eq!(hello.hello().await?, "Hello, ada");
    /// # server.shutdown().await
    /// # }
    /// ```
    pub fn interceptor(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors = self.interceptors.with(interceptor);
        self
    }
}
