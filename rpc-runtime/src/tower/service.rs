//! A [`Client`] as a service of tower.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use ::tower::Service;

use crate::call::Reply;
use crate::client::{Client, request};
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::protocol::payload::Arguments;

/// A call of a method by its descriptor: the request of a [`Client`] as a tower `Service`.
///
/// The response is a [`Reply`], which [`Reply::decode`] reads; an error of the contract is a reply
/// with [`Status::Application`](crate::Status::Application). The types of the arguments are not
/// checked against the contract: if the provider cannot read them, its error
/// [`is_decode`](RpcError::is_decode).
///
/// ```
/// use std::time::Duration;
///
/// use rpc_runtime::tower::MethodCall;
/// use rpc_runtime::{Client, Result, Server, rpc_service};
/// use tower::{Service, ServiceBuilder};
///
/// #[rpc_service]
/// pub trait Hello {
///     async fn hello(&self, name: String) -> Result<String>;
/// }
///
/// # struct Plain;
/// # impl Hello for Plain {
/// #     async fn hello(&self, name: String) -> Result<String> {
/// #         Ok(format!("Hello, {name}"))
/// #     }
/// # }
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> std::result::Result<(), tower::BoxError> {
/// # let server = Server::builder().provide(HelloServer::new(Plain)).bind("memory:tower").await?;
/// let client = Client::builder().connect("memory:tower").await?;
/// let mut service =
///     ServiceBuilder::new().timeout(Duration::from_millis(300)).service(client);
///
/// let hello = HELLO_DESCRIPTOR.method("hello").expect("it is in the contract");
/// let reply = service.call(MethodCall::new(hello, ("world".to_owned(),))).await?;
/// assert_eq!(reply.decode::<String>()?, "Hello, world");
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct MethodCall<A> {
    method: &'static MethodDescriptor,
    arguments: A,
}

impl<A: Arguments> MethodCall<A> {
    /// A call with these arguments, a tuple of as many as the method has.
    pub fn new(method: &'static MethodDescriptor, arguments: A) -> Self {
        Self { method, arguments }
    }
}

impl<A> fmt::Debug for MethodCall<A> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let method = format_args!("{}", self.method);
        f.debug_struct("MethodCall").field("method", &method).finish_non_exhaustive()
    }
}

impl<A: Arguments> Service<MethodCall<A>> for Client {
    type Response = Reply;
    type Error = RpcError;
    type Future = Pin<Box<dyn Future<Output = Result<Reply, RpcError>> + Send>>;

    /// Always ready: a call itself waits for a connection.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), RpcError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, call: MethodCall<A>) -> Self::Future {
        let client = self.clone();
        Box::pin(async move { request(&client, call.method, call.arguments).await })
    }
}
