//! tower's layers around calls, and a client as a service of tower.
#![allow(missing_docs)]

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use rpc_runtime::tower::{LayerCall, Layered, MethodCall};
use rpc_runtime::{Client, Interceptor, Reply, Result, RpcError, Server, Status, rpc_service};
use rpc_tests::waiting::until;
use tower::{Layer, Service, ServiceBuilder};

#[rpc_service]
pub trait Echo {
    async fn echo(&self, text: String) -> Result<String>;
    async fn waits(&self, milliseconds: u64) -> Result<()>;
    /// The first call of all waits for ever.
    async fn first_waits(&self) -> Result<usize>;
    async fn refuses(&self) -> Result<()>;
    async fn by(&self) -> Result<Option<String>>;
    #[rpc(oneway)]
    async fn note(&self) -> Result<()>;
}

/// How many calls there were, and are.
#[derive(Clone, Default)]
struct Provider {
    calls: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
}

struct Running(Arc<AtomicUsize>);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Provider {
    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn begin(&self) -> Running {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let running = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most.fetch_max(running, Ordering::SeqCst);
        Running(Arc::clone(&self.running))
    }
}

impl Echo for Provider {
    async fn echo(&self, text: String) -> Result<String> {
        let _running = self.begin();
        Ok(text)
    }
    async fn waits(&self, milliseconds: u64) -> Result<()> {
        let _running = self.begin();
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        Ok(())
    }
    async fn first_waits(&self) -> Result<usize> {
        let _running = self.begin();
        match self.calls() {
            1 => std::future::pending().await,
            calls => Ok(calls),
        }
    }
    async fn refuses(&self) -> Result<()> {
        Err(RpcError::invalid("not this"))
    }
    async fn by(&self) -> Result<Option<String>> {
        Ok(rpc_runtime::Context::current().metadata("by").map(str::to_owned))
    }
    async fn note(&self) -> Result<()> {
        drop(self.begin());
        Ok(())
    }
}

async fn pair() -> (Server, Provider) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let uri = format!("memory:tower-{}", NUMBER.fetch_add(1, Ordering::SeqCst));
    let provider = Provider::default();
    let server = Server::builder().provide(EchoServer::new(provider.clone()));
    (server.bind(&uri).await.unwrap(), provider)
}

async fn with(interceptor: impl Interceptor) -> (Server, Provider, EchoClient) {
    let (server, provider) = pair().await;
    let client = Client::builder().interceptor(interceptor).connect(server.local_uri());
    let client = EchoClient::new(client.await.unwrap());
    (server, provider, client)
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_a_layer_cancels_the_call_and_says_that_it_may_have_run() {
    let layers = ServiceBuilder::new().timeout(Duration::from_millis(50)).into_inner();
    let (_server, provider, echo) = with(Layered::new(layers)).await;
    assert_eq!(echo.echo("x".into()).await.as_deref(), Ok("x"));
    let error = echo.waits(5_000).await.unwrap_err();
    assert!(error.is_timeout() && !error.is_safe_to_retry(), "{error:?}");
    until("the method is cancelled", || provider.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_is_one_for_all_calls_of_a_client_and_its_clones() {
    let layers = ServiceBuilder::new().concurrency_limit(1).into_inner();
    let (_server, provider, echo) = with(Layered::new(layers)).await;
    let other = echo.with_timeout(Duration::from_secs(1));
    let (one, two, three) = tokio::join!(echo.waits(100), other.waits(100), echo.waits(100));
    assert_eq!((one, two, three), (Ok(()), Ok(()), Ok(())));
    assert_eq!((provider.calls(), provider.most.load(Ordering::SeqCst)), (3, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_layer_sheds_is_not_sent_and_is_safe_to_retry() {
    let layers = ServiceBuilder::new().load_shed().concurrency_limit(1).into_inner();
    let (_server, provider, echo) = with(Layered::new(layers)).await;
    let (first, second) = tokio::join!(echo.waits(100), echo.waits(100));
    assert_eq!(first, Ok(()));
    let error = second.unwrap_err();
    assert!(error.is_overloaded() && error.is_safe_to_retry(), "{error:?}");
    assert_eq!(provider.calls(), 1);
    assert_eq!(echo.waits(1).await, Ok(()), "there is room again");
}

#[tokio::test]
async fn a_call_that_is_dropped_within_a_layer_is_cancelled() {
    let layers = ServiceBuilder::new().timeout(Duration::from_secs(60)).into_inner();
    let (_server, provider, echo) = with(Layered::new(layers)).await;
    let call = tokio::spawn(async move { echo.waits(60_000).await });
    until("the method runs", || provider.running.load(Ordering::SeqCst) == 1).await;
    call.abort();
    until("the method is cancelled", || provider.running.load(Ordering::SeqCst) == 0).await;
}

/// A layer that says who it is, and calls twice.
#[derive(Clone)]
struct Twice<S>(S);

impl<S> Service<LayerCall> for Twice<S>
where
    S: Service<LayerCall, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut call: LayerCall) -> Self::Future {
        let mut inner = self.0.clone();
        Box::pin(async move {
            call.set_metadata("by", "a layer");
            poll_fn(|cx| inner.poll_ready(cx)).await?;
            inner.call(call.clone()).await?;
            poll_fn(|cx| inner.poll_ready(cx)).await?;
            inner.call(call).await
        })
    }
}

struct TwiceLayer;

impl<S> Layer<S> for TwiceLayer {
    type Service = Twice<S>;

    fn layer(&self, inner: S) -> Twice<S> {
        Twice(inner)
    }
}

#[tokio::test]
async fn a_layer_can_set_metadata_and_call_again() {
    let (_server, provider, echo) = with(Layered::new(TwiceLayer)).await;
    assert_eq!(echo.echo("x".into()).await.as_deref(), Ok("x"));
    assert_eq!(provider.calls(), 2);
    assert_eq!(echo.by().await.unwrap().as_deref(), Some("a layer"));
}

/// A layer that stops waiting after a while, and calls again.
#[derive(Clone)]
struct Impatient<S>(S);

impl<S> Service<LayerCall> for Impatient<S>
where
    S: Service<LayerCall, Response = Reply> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = Reply;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = std::result::Result<Reply, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<std::result::Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, call: LayerCall) -> Self::Future {
        let mut inner = self.0.clone();
        Box::pin(async move {
            let first = tokio::time::timeout(Duration::from_millis(50), inner.call(call.clone()));
            if let Ok(outcome) = first.await {
                return outcome;
            }
            inner.call(call).await
        })
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_a_layer_gives_up_is_cancelled_and_does_not_delay_the_next() {
    let layer = tower::layer::layer_fn(Impatient);
    let (_server, provider, echo) = with(Layered::new(layer)).await;
    let begun = tokio::time::Instant::now();
    assert_eq!(echo.first_waits().await, Ok(2));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    until("the first is cancelled", || provider.running.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test]
async fn an_error_of_a_call_passes_the_layers_unchanged() {
    let layers = ServiceBuilder::new().timeout(Duration::from_secs(60)).into_inner();
    let (server, _, echo) = with(Layered::new(layers)).await;
    let error = echo.refuses().await.unwrap_err();
    assert!(error.is_invalid(), "{error:?}");
    assert_eq!(error.message(), "not this");
    server.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_client_is_a_service_of_calls() {
    let (server, provider) = pair().await;
    let client = Client::builder().connect(server.local_uri()).await.unwrap();
    let mut service = ServiceBuilder::new()
        .load_shed()
        .concurrency_limit(1)
        .timeout(Duration::from_millis(50))
        .service(client.clone());
    let method = |name| ECHO_DESCRIPTOR.method(name).unwrap();
    poll_fn(|cx| Service::<MethodCall<(String,)>>::poll_ready(&mut service, cx)).await.unwrap();
    let reply = service.call(MethodCall::new(method("echo"), ("x".to_owned(),))).await.unwrap();
    assert_eq!((reply.status(), reply.decode::<String>()), (Status::Ok, Ok("x".to_owned())));
    poll_fn(|cx| Service::<MethodCall<(u64,)>>::poll_ready(&mut service, cx)).await.unwrap();
    let error = service.call(MethodCall::new(method("waits"), (5_000_u64,))).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    until("the method is cancelled", || provider.running.load(Ordering::SeqCst) == 0).await;

    let mut client = client;
    let calls = provider.calls();
    client.call(MethodCall::new(method("note"), ())).await.unwrap();
    until("a oneway call arrives", || provider.calls() == calls + 1).await;
    let error = client.call(MethodCall::new(method("echo"), (7_u32,))).await.unwrap_err();
    assert!(error.is_decode(), "{error}");
    assert_eq!(error.method(), Some("Echo/echo"));
}
