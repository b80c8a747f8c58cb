//! Interceptors of a client, end to end.
#![allow(missing_docs)]

use std::future::pending;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_runtime::{
    Call, Client, ClientBuilder, Context, Interceptor, Next, Reply, Result, RpcError, Server,
    Status, StreamEnd, Streaming, rpc_service,
};
use rpc_tests::waiting::{soon, until};
use serde::{Deserialize, Serialize, Serializer};

/// Counts how often it is serialized.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub struct Counted {
    text: String,
    #[serde(skip)]
    count: Arc<AtomicUsize>,
}

impl Serialize for Counted {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.text.serialize(serializer)
    }
}

#[rpc_service]
pub trait Echo {
    async fn echo(&self, text: String) -> Result<String>;
    async fn counted(&self, text: Counted) -> Result<String>;
    async fn metadata(&self, key: String) -> Result<Option<String>>;
    async fn remaining_ms(&self) -> Result<u128>;
    async fn waits(&self) -> Result<()>;
    async fn up_to(&self, n: u64) -> Result<Streaming<u64>>;
    async fn fails(&self) -> Result<Streaming<u64>>;
    async fn sum(&self, numbers: Streaming<u64>) -> Result<u64>;
    async fn contract_error(&self) -> Result<String, String2>;
    #[rpc(oneway)]
    async fn note(&self, text: String) -> Result<()>;
}

/// An error of a contract.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
pub enum String2 {
    Own(String),
    Rpc(RpcError),
}

impl From<RpcError> for String2 {
    fn from(error: RpcError) -> Self {
        Self::Rpc(error)
    }
}

/// A text, and the tenant in the metadata of its call.
type Note = (String, Option<String>);

/// What has happened at the provider.
#[derive(Clone, Default)]
struct Provider {
    calls: Arc<AtomicUsize>,
    dropped: Arc<AtomicUsize>,
    notes: Arc<Mutex<Vec<Note>>>,
}

struct Dropped(Arc<AtomicUsize>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Provider {
    fn called(&self) {
        self.calls.fetch_add(1, Ordering::SeqCst);
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }

    fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }
}

impl Echo for Provider {
    async fn echo(&self, text: String) -> Result<String> {
        self.called();
        Ok(text)
    }
    async fn counted(&self, text: Counted) -> Result<String> {
        self.called();
        Ok(text.text)
    }
    async fn metadata(&self, key: String) -> Result<Option<String>> {
        Ok(Context::current().metadata(&key).map(str::to_owned))
    }
    async fn remaining_ms(&self) -> Result<u128> {
        Ok(Context::current().remaining().unwrap().as_millis())
    }
    async fn waits(&self) -> Result<()> {
        let _dropped = Dropped(Arc::clone(&self.dropped));
        self.called();
        pending().await
    }
    async fn up_to(&self, n: u64) -> Result<Streaming<u64>> {
        Ok(Streaming::from_items(0..n))
    }
    async fn fails(&self) -> Result<Streaming<u64>> {
        let (items, stream) = Streaming::channel(1);
        tokio::spawn(items.fail(RpcError::internal("no more")));
        Ok(stream)
    }
    async fn sum(&self, mut numbers: Streaming<u64>) -> Result<u64> {
        self.called();
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok(sum)
    }
    async fn contract_error(&self) -> Result<String, String2> {
        Err(String2::Own("no".to_owned()))
    }
    async fn note(&self, text: String) -> Result<()> {
        let by = Context::current().metadata("by").map(str::to_owned);
        self.notes.lock().unwrap().push((text, by));
        Ok(())
    }
}

/// A server, its provider, and a client with these settings.
async fn pair(builder: ClientBuilder) -> (Server, Provider, EchoClient) {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let uri = format!("memory:interceptors-{}", NUMBER.fetch_add(1, Ordering::SeqCst));
    let provider = Provider::default();
    let server = Server::builder().provide(EchoServer::new(provider.clone()));
    let server = server.bind(&uri).await.unwrap();
    let client = builder.connect(server.local_uri()).await.unwrap();
    (server, provider, EchoClient::new(client))
}

async fn with(interceptor: impl Interceptor) -> (Server, Provider, EchoClient) {
    pair(Client::builder().interceptor(interceptor)).await
}

/// Sets metadata and says where it is.
struct Marks(&'static str, Sender<String>);

impl Interceptor for Marks {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        self.1.send(format!("{} before {}", self.0, call.method())).unwrap();
        call.set_metadata("by", self.0);
        let outcome = next.run(call).await;
        let status = outcome.as_ref().map_or_else(RpcError::status, Reply::status);
        self.1.send(format!("{} after {status}", self.0)).unwrap();
        outcome
    }
}

fn lines(log: &Receiver<String>) -> Vec<String> {
    log.try_iter().collect()
}

#[tokio::test]
async fn the_first_is_outermost_and_the_last_one_decides_what_is_sent() {
    let (told, log) = channel();
    let builder = Client::builder()
        .interceptor(Marks("first", told.clone()))
        .interceptor(Marks("second", told.clone()));
    let (_server, _, echo) = pair(builder).await;
    assert_eq!(echo.metadata("by".into()).await.unwrap().as_deref(), Some("second"));
    let expected = [
        "first before Echo/metadata",
        "second before Echo/metadata",
        "second after ok",
        "first after ok",
    ];
    assert_eq!(lines(&log), expected);
    // A clone has its own, and they go before those of the builder for nobody else.
    let third = echo.with_interceptor(Marks("third", told));
    assert_eq!(third.metadata("by".into()).await.unwrap().as_deref(), Some("third"));
    assert_eq!(lines(&log).len(), 6);
    assert_eq!(echo.metadata("by".into()).await.unwrap().as_deref(), Some("second"));
    assert_eq!(lines(&log).len(), 4);
    assert_eq!(third.contract_error().await, Err(String2::Own("no".to_owned())));
    assert_eq!(lines(&log)[3], "third after application error");
}

#[tokio::test]
async fn interceptors_see_what_is_sent_along_and_can_take_it_away() {
    struct Hides;
    impl Interceptor for Hides {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
            assert_eq!(call.metadata("tenant"), Some("acme"));
            assert_eq!(call.remove_metadata("secret").as_deref(), Some("s3cret"));
            assert!(call.peer().is_none() && call.remaining().is_some());
            let reply = next.run(call).await?;
            assert!(reply.peer().unwrap().starts_with("memory:"));
            Ok(reply)
        }
    }
    let (_server, _, echo) = with(Hides).await;
    let echo = echo.with_metadata("tenant", "acme").with_metadata("secret", "s3cret");
    assert_eq!(echo.metadata("tenant".into()).await.unwrap().as_deref(), Some("acme"));
    assert_eq!(echo.metadata("secret".into()).await.unwrap(), None);
}

#[tokio::test]
async fn a_refused_call_is_not_sent_and_is_safe_to_retry() {
    struct Refuses;
    impl Interceptor for Refuses {
        async fn intercept(&self, _: &mut Call<'_>, _: Next<'_>) -> Result<Reply> {
            Err(RpcError::new(Status::Overloaded, "not now"))
        }
    }
    let (_server, provider, echo) = with(Refuses).await;
    let error = echo.echo("x".into()).await.unwrap_err();
    assert!(error.is_overloaded() && error.is_safe_to_retry(), "{error:?}");
    assert_eq!((error.method(), provider.calls()), (Some("Echo/echo"), 0));
    // Nor is a connection made for it.
    let builder = Client::builder().lazy(true).interceptor(Refuses);
    let nobody = EchoClient::new(builder.connect("memory:interceptors-nobody").await.unwrap());
    assert!(nobody.echo("x".into()).await.unwrap_err().is_overloaded());
}

#[tokio::test(start_paused = true)]
async fn a_deadline_can_be_shortened_and_not_extended() {
    struct Within(Duration);
    impl Interceptor for Within {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
            call.set_deadline((tokio::time::Instant::now() + self.0).into_std());
            next.run(call).await
        }
    }
    let builder = Client::builder().timeout(Duration::from_secs(1));
    let short = builder.clone().interceptor(Within(Duration::from_millis(50)));
    let (_server, provider, echo) = pair(short).await;
    assert!(echo.remaining_ms().await.unwrap() <= 50);
    let begun = tokio::time::Instant::now();
    let error = echo.waits().await.unwrap_err();
    assert!(error.is_timeout() && begun.elapsed() < Duration::from_millis(100), "{error}");
    soon("the method is cancelled", until("cancelled", || provider.dropped() == 1)).await;
    let (_server, _, echo) = pair(builder.interceptor(Within(Duration::from_secs(60)))).await;
    assert!(echo.remaining_ms().await.unwrap() <= 1_000);
}

#[tokio::test(start_paused = true)]
async fn an_interceptor_that_waits_for_ever_does_not_hold_its_call_beyond_the_deadline() {
    struct Hangs {
        after: bool,
    }
    impl Interceptor for Hangs {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
            if self.after {
                next.run(call).await?;
            }
            pending().await
        }
    }
    for after in [false, true] {
        let builder = Client::builder().timeout(Duration::from_secs(1));
        let (_server, provider, echo) = pair(builder.interceptor(Hangs { after })).await;
        let begun = tokio::time::Instant::now();
        let error = echo.echo("x".into()).await.unwrap_err();
        assert!(error.is_timeout(), "{error}");
        assert_eq!(begun.elapsed().as_secs(), 1);
        assert_eq!(error.is_safe_to_retry(), !after, "{error:?}");
        assert_eq!(provider.calls(), usize::from(after));
    }
}

#[tokio::test]
async fn an_interceptor_can_answer_by_itself() {
    #[derive(Default)]
    struct Cached(Mutex<Option<Reply>>);
    impl Interceptor for Cached {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
            match call.method().name() {
                "counted" => return Reply::value("made here"),
                "contract_error" => {
                    return Reply::contract_error(&String2::Own("made here".to_owned()));
                }
                _ => {}
            }
            if let Some(reply) = self.0.lock().unwrap().as_ref().and_then(Reply::try_clone) {
                return Ok(reply);
            }
            let reply = next.run(call).await?;
            *self.0.lock().unwrap() = reply.try_clone();
            Ok(reply)
        }
    }
    let (_server, provider, echo) = with(Cached::default()).await;
    for text in ["one", "two"] {
        assert_eq!(echo.echo(text.into()).await.as_deref(), Ok("one"));
    }
    assert_eq!(provider.calls(), 1);
    let counted = Counted { text: "x".into(), count: Arc::default() };
    assert_eq!(echo.counted(counted.clone()).await.as_deref(), Ok("made here"));
    assert_eq!(counted.count.load(Ordering::SeqCst), 0, "it need not be encoded");
    assert_eq!(echo.contract_error().await, Err(String2::Own("made here".to_owned())));
    assert_eq!(provider.calls(), 1);
}

struct PassesOn;

impl Interceptor for PassesOn {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        next.run(call).await
    }
}

#[tokio::test]
async fn a_call_that_is_dropped_within_a_chain_is_cancelled_at_the_provider() {
    let (_server, provider, echo) =
        pair(Client::builder().interceptor(PassesOn).interceptor(PassesOn)).await;
    let call = tokio::spawn(async move { echo.waits().await });
    until("the method runs", || provider.calls() == 1).await;
    call.abort();
    until("the method is cancelled", || provider.dropped() == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_timeout_of_an_interceptor_cancels_and_the_call_may_have_run() {
    struct Impatient;
    impl Interceptor for Impatient {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
            tokio::time::timeout(Duration::from_millis(5), next.run(call))
                .await
                .unwrap_or_else(|_| Err(RpcError::unavailable("too slow")))
        }
    }
    let (_server, provider, echo) = with(Impatient).await;
    let error = echo.waits().await.unwrap_err();
    assert!(error.is_unavailable() && !error.is_safe_to_retry(), "{error:?}");
    soon("the method is cancelled", until("cancelled", || provider.dropped() == 1)).await;
}

#[tokio::test]
async fn the_end_of_a_stream_is_told_once_and_says_how_it_ended() {
    struct TellsEnd(Sender<StreamEnd>);
    impl Interceptor for TellsEnd {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
            let reply = next.run(call).await?;
            let told = self.0.clone();
            Ok(reply.on_end(move |end| told.send(end).unwrap()))
        }
    }
    let (told, ends) = channel();
    let (_server, _, echo) = with(TellsEnd(told)).await;
    let ended = || ends.try_iter().collect::<Vec<_>>();
    let mut stream = echo.up_to(2).await.unwrap();
    assert_eq!(ended(), [], "it goes on");
    while let Some(number) = stream.next().await {
        assert_eq!(ended(), [], "{number:?}");
    }
    assert!(stream.next().await.is_none());
    drop(stream);
    assert_eq!(ended(), [StreamEnd::Finished]);
    let mut stream = echo.fails().await.unwrap();
    let error = stream.next().await.unwrap().unwrap_err();
    drop(stream);
    assert_eq!(ended(), [StreamEnd::Failed(error)]);
    let mut stream = echo.up_to(2).await.unwrap();
    stream.next().await.unwrap().unwrap();
    drop(stream);
    assert_eq!(ended(), [StreamEnd::Cancelled]);
    echo.echo("x".into()).await.unwrap();
    assert_eq!(ended(), [StreamEnd::Finished], "there is no stream");
}

#[tokio::test]
async fn a_oneway_call_passes_the_chain() {
    let (told, log) = channel();
    let (_server, provider, echo) = with(Marks("one", told)).await;
    echo.note("x".into()).await.unwrap();
    until("the note arrives", || !provider.notes.lock().unwrap().is_empty()).await;
    let noted = ("x".to_owned(), Some("one".to_owned()));
    assert_eq!(*provider.notes.lock().unwrap(), [noted]);
    assert_eq!(lines(&log), ["one before Echo/note", "one after ok"]);
}

#[tokio::test]
async fn a_panic_is_the_internal_error_of_its_call_alone() {
    struct Panics;
    impl Interceptor for Panics {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
            match call.metadata("panic") {
                Some("before") => panic!("s3cret"),
                Some(_) => {
                    next.run(call).await?;
                    panic!("s3cret")
                }
                None => next.run(call).await,
            }
        }
    }
    let (_server, provider, echo) = with(Panics).await;
    for (when, calls) in [("before", 0), ("after", 1)] {
        let panics = echo.with_metadata("panic", when);
        let error = panics.echo("x".into()).await.unwrap_err();
        assert!(error.is_internal() && !error.to_string().contains("s3cret"), "{error}");
        assert_eq!(error.is_safe_to_retry(), when == "before");
        assert_eq!(provider.calls(), calls);
    }
    assert_eq!(echo.echo("x".into()).await.as_deref(), Ok("x"));
}

/// Goes on a second time with what it was told.
struct Twice;

impl Interceptor for Twice {
    async fn intercept(&self, call: &mut Call<'_>, mut next: Next<'_>) -> Result<Reply> {
        next.again().run(call).await?;
        call.set_metadata("by", "the second run");
        next.run(call).await
    }
}

#[tokio::test]
async fn the_rest_can_be_run_again_and_encodes_the_arguments_again() {
    let (_server, provider, echo) = with(Twice).await;
    let counted = Counted { text: "x".into(), count: Arc::default() };
    assert_eq!(echo.counted(counted.clone()).await.as_deref(), Ok("x"));
    assert_eq!((provider.calls(), counted.count.load(Ordering::SeqCst)), (2, 2));
    assert_eq!(echo.metadata("by".into()).await.unwrap().as_deref(), Some("the second run"));
}

#[tokio::test]
async fn arguments_with_a_stream_are_sent_once_and_the_call_says_that_it_may_have_run() {
    let (_server, provider, echo) = with(Twice).await;
    let error = echo.sum(Streaming::from_items(0..3)).await.unwrap_err();
    assert!(error.is_internal() && !error.is_safe_to_retry(), "{error:?}");
    assert_eq!(provider.calls(), 1);
}

#[tokio::test]
async fn without_again_the_arguments_are_freed_when_they_are_sent() {
    struct Freed(Arc<AtomicUsize>);
    impl Interceptor for Freed {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
            let reply = next.run(call).await?;
            // This, and the one of the test.
            assert_eq!(Arc::strong_count(&self.0), 2);
            Ok(reply)
        }
    }
    let count = Arc::new(AtomicUsize::new(0));
    let (_server, _, echo) = with(Freed(Arc::clone(&count))).await;
    let counted = Counted { text: "x".into(), count: Arc::clone(&count) };
    assert_eq!(echo.counted(counted).await.as_deref(), Ok("x"));
}

#[tokio::test]
async fn a_connection_that_was_lost_is_made_again_below_the_chain() {
    let (told, log) = channel();
    let (server, provider, echo) = with(Marks("one", told)).await;
    echo.echo("x".into()).await.unwrap();
    let uri = server.local_uri().to_owned();
    server.shutdown().await.unwrap();
    let again = Server::builder().provide(EchoServer::new(provider.clone()));
    let _again = again.bind(&uri).await.unwrap();
    assert_eq!(echo.echo("y".into()).await.as_deref(), Ok("y"));
    assert_eq!((provider.calls(), lines(&log).len()), (2, 4), "once through the chain for each");
}

#[tokio::test]
async fn calls_within_an_interceptor_are_calls_of_their_own() {
    /// Asks for a token first, with a client that has no interceptors.
    struct Token(EchoClient);
    impl Interceptor for Token {
        async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
            call.set_metadata("by", self.0.echo("token".into()).await?);
            next.run(call).await
        }
    }
    let (server, _, plain) = pair(Client::builder()).await;
    let builder = Client::builder().interceptor(Token(plain));
    let echo = EchoClient::new(builder.connect(server.local_uri()).await.unwrap());
    assert_eq!(echo.metadata("by".into()).await.unwrap().as_deref(), Some("token"));
}
