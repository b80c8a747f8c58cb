//! What interceptors of a server promise to those who write them.
#![allow(missing_docs)]

use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rpc_runtime::{
    Call, Client, Context, Interceptor, Interceptors, Next, Reply, Result, RpcError, Server,
    ServerBuilder, Status, StreamEnd, Streaming, rpc_service,
};
use rpc_tests::waiting::{soon, until};
use rpc_tests::wire::{RawPeer, arguments, frame};
use serde::{Deserialize, Deserializer, Serialize};

/// Counts how often it is decoded.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counted(u32);

static DECODED: AtomicUsize = AtomicUsize::new(0);

impl<'de> Deserialize<'de> for Counted {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = u32::deserialize(deserializer)?;
        // Other values are those of other tests, and of traced shapes.
        if value == 4_242 {
            DECODED.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Self(value))
    }
}

#[rpc_service]
pub trait Work {
    /// Who calls, with the metadata that the method sees under `tenant`.
    async fn who(&self) -> Result<String>;
    async fn counted(&self, value: Counted) -> Result<u32>;
    async fn length(&self, text: String) -> Result<usize>;
    #[rpc(spawn)]
    async fn spawned(&self, text: String) -> Result<usize>;
    #[rpc(blocking)]
    async fn blocking(&self, text: String) -> Result<(usize, String)>;
    /// Waits for ever.
    async fn wait(&self) -> Result<()>;
    async fn panics(&self) -> Result<()>;
    async fn fails(&self) -> Result<()>;
    async fn up_to(&self, n: u32) -> Result<Streaming<u32>>;
    async fn sum(&self, numbers: Streaming<u32>) -> Result<u32>;
    #[rpc(oneway)]
    async fn note(&self, text: String) -> Result<()>;
}

#[rpc_service]
pub trait Admin {
    async fn restart(&self) -> Result<()>;
}

#[derive(Default)]
struct Worker {
    running: Arc<AtomicUsize>,
    notes: Arc<Mutex<Vec<String>>>,
}

struct User(String);

/// Counts itself while it is there.
struct Running(Arc<AtomicUsize>);

impl Running {
    fn begin(count: &Arc<AtomicUsize>) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(count))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Work for Worker {
    async fn who(&self) -> Result<String> {
        let context = Context::current();
        let user = context.extension::<User>().map_or("nobody".to_owned(), |user| user.0.clone());
        Ok(format!("{user} of {}", context.metadata("tenant").unwrap_or("none")))
    }
    async fn counted(&self, value: Counted) -> Result<u32> {
        Ok(value.0)
    }
    async fn length(&self, text: String) -> Result<usize> {
        Context::set_reply_metadata("from", "method");
        Ok(text.len())
    }
    async fn spawned(&self, text: String) -> Result<usize> {
        Context::set_reply_metadata("from", "method");
        tokio::task::yield_now().await;
        Ok(text.len())
    }
    async fn blocking(&self, text: String) -> Result<(usize, String)> {
        Context::set_reply_metadata("from", "method");
        std::thread::sleep(Duration::from_millis(1));
        let thread = std::thread::current();
        Ok((text.len(), thread.name().unwrap_or_default().to_owned()))
    }
    async fn wait(&self) -> Result<()> {
        let _running = Running::begin(&self.running);
        std::future::pending().await
    }
    async fn panics(&self) -> Result<()> {
        panic!("on purpose")
    }
    async fn fails(&self) -> Result<()> {
        Err(RpcError::internal("the contract's"))
    }
    async fn up_to(&self, n: u32) -> Result<Streaming<u32>> {
        Ok(Streaming::from_items(1..=n))
    }
    async fn sum(&self, mut numbers: Streaming<u32>) -> Result<u32> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok(sum)
    }
    async fn note(&self, text: String) -> Result<()> {
        self.notes.lock().unwrap().push(text);
        Ok(())
    }
}

impl Admin for Worker {
    async fn restart(&self) -> Result<()> {
        Ok(())
    }
}

type Log = Arc<Mutex<Vec<String>>>;

fn take(log: &Log) -> Vec<String> {
    std::mem::take(&mut log.lock().unwrap())
}

/// Says what it sees.
struct Logs(&'static str, Log);

impl Interceptor for Logs {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        let Self(name, log) = self;
        log.lock().unwrap().push(format!(
            "{name} {} from {:?}",
            call.method(),
            call.peer().is_some()
        ));
        let outcome = next.run(call).await;
        let said = match &outcome {
            Ok(reply) => format!("{name} {}", reply.status()),
            Err(error) => format!("{name} {}", error.status()),
        };
        log.lock().unwrap().push(said);
        outcome
    }
}

struct RequireBearer(&'static str);

impl Interceptor for RequireBearer {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        match call.metadata("authorization").and_then(|value| value.strip_prefix("Bearer ")) {
            Some(token) if token == self.0 => {
                call.extensions_mut().insert(User("ada".into()));
                next.run(call).await.map(|reply| reply.with_metadata("served-by", "node-7"))
            }
            _ => Err(RpcError::unauthenticated("a bearer token is needed")
                .with_metadata("challenge", "Bearer")),
        }
    }
}

type Outcome<'a> = Pin<Box<dyn Future<Output = Result<Reply>> + Send + 'a>>;

/// What a closure does.
struct Does<F>(F);

impl<F> Does<F>
where
    F: for<'a> Fn(&'a mut Call<'_>, Next<'a>) -> Outcome<'a> + Send + Sync + 'static,
{
    fn new(does: F) -> Self {
        Self(does)
    }
}

impl<F> Interceptor for Does<F>
where
    F: for<'a> Fn(&'a mut Call<'_>, Next<'a>) -> Outcome<'a> + Send + Sync + 'static,
{
    async fn intercept(&self, call: &mut Call<'_>, mut next: Next<'_>) -> Result<Reply> {
        (self.0)(call, next.again()).await
    }
}

macro_rules! does {
    (|$call:ident, $next:ident| $body:expr) => {
        Does::new(|$call, $next| Box::pin(async move { $body }))
    };
}

async fn serve(build: impl FnOnce(ServerBuilder) -> ServerBuilder) -> (Server, Client) {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let name = format!("memory:intercepted-{}", NAMES.fetch_add(1, Ordering::Relaxed));
    let server = build(Server::builder()).bind(&name).await.unwrap();
    let client = Client::builder().connect(&name).await.unwrap();
    (server, client)
}

/// Keeps the metadata of the last reply or error, at the client.
#[derive(Clone, Default)]
struct Seen(Arc<Mutex<Vec<(String, String)>>>);

impl Interceptor for Seen {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        let outcome = next.run(call).await;
        let mut seen = self.0.lock().unwrap();
        seen.clear();
        match &outcome {
            Ok(reply) => {
                let all = reply.all_metadata();
                seen.extend(all.map(|(key, value)| (key.to_owned(), value.to_owned())));
            }
            Err(error) => {
                let challenge = error.metadata("challenge").map(str::to_owned);
                seen.extend(challenge.map(|value| ("challenge".to_owned(), value)));
            }
        }
        drop(seen);
        outcome
    }
}

impl Seen {
    fn take(&self) -> Vec<(String, String)> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect()
}

#[tokio::test]
async fn a_refused_call_is_not_decoded_and_is_known_not_to_have_run() {
    let (server, client) = serve(|server| {
        server.provide(WorkServer::new(Worker::default())).interceptor(RequireBearer("s3cret"))
    })
    .await;
    let stranger = WorkClient::new(client.clone());
    for text in ["short".to_owned(), "x".repeat(100_000)] {
        for outcome in [
            stranger.length(text.clone()).await.map(drop),
            stranger.spawned(text.clone()).await.map(drop),
            stranger.blocking(text.clone()).await.map(drop),
        ] {
            let error = outcome.unwrap_err();
            assert!(error.is_unauthenticated() && error.is_safe_to_retry(), "{error:?}");
            assert_eq!(error.metadata("challenge"), Some("Bearer"));
        }
    }
    assert!(stranger.counted(Counted(4_242)).await.unwrap_err().is_unauthenticated());
    // It is not told in what way the arguments are wrong either.
    let numbers = Streaming::from_items([1, 2]);
    assert!(stranger.sum(numbers).await.unwrap_err().is_unauthenticated());
    assert_eq!(DECODED.load(Ordering::SeqCst), 0);
    let known = stranger.with_metadata("authorization", "Bearer s3cret");
    assert_eq!(known.counted(Counted(4_242)).await, Ok(4_242));
    assert_eq!(DECODED.load(Ordering::SeqCst), 1);
    assert_eq!(known.sum(Streaming::from_items([1, 2])).await, Ok(3));
    drop(client);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn what_an_interceptor_attaches_and_sets_reaches_the_method_and_the_reply_the_caller() {
    let seen = Seen::default();
    let (server, _) = serve(|server| {
        let tenant = does!(|call, next| {
            call.set_metadata("tenant", "acme");
            call.remove_metadata("authorization");
            next.run(call).await
        });
        server
            .provide(WorkServer::new(Worker::default()))
            .interceptor(RequireBearer("s3cret"))
            .interceptor(tenant)
    })
    .await;
    let uri = server.local_uri().to_owned();
    let client = Client::builder().interceptor(seen.clone()).connect(uri).await.unwrap();
    let work = WorkClient::new(client).with_metadata("authorization", "Bearer s3cret");
    assert_eq!(work.who().await.unwrap(), "ada of acme");
    assert_eq!(seen.take(), pairs(&[("served-by", "node-7")]));
    let both = pairs(&[("from", "method"), ("served-by", "node-7")]);
    assert_eq!(work.length("text".into()).await, Ok(4));
    assert_eq!(seen.take(), both);
    assert_eq!(work.spawned("text".into()).await, Ok(4));
    assert_eq!(seen.take(), both);
    let (length, thread) = work.blocking("text".into()).await.unwrap();
    assert!(length == 4 && thread.starts_with("rpc-block"), "{thread}");
    assert_eq!(seen.take(), both);
    let large = "x".repeat(200_000);
    assert_eq!(work.length(large.clone()).await, Ok(200_000));
    assert_eq!(seen.take(), both);
    assert_eq!(work.blocking(large).await.unwrap().0, 200_000);
    assert_eq!(seen.take(), both);
    let refused = work.with_metadata("authorization", "Bearer wrong").who().await;
    assert!(refused.unwrap_err().is_unauthenticated());
    assert_eq!(seen.take(), pairs(&[("challenge", "Bearer")]));
    drop(work);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn those_of_the_server_are_around_those_of_a_service_which_are_for_it_alone() {
    let log = Log::default();
    let (server, client) = serve(|server| {
        let logs = |name| Logs(name, Arc::clone(&log));
        server
            .provide(WorkServer::new(Worker::default()))
            .provide_with(AdminServer::new(Worker::default()), [logs("own")])
            .interceptor(logs("first"))
            .interceptor(logs("second"))
    })
    .await;
    AdminClient::new(client.clone()).restart().await.unwrap();
    let call = "Admin/restart from true";
    assert_eq!(
        take(&log),
        [
            format!("first {call}"),
            format!("second {call}"),
            format!("own {call}"),
            "own ok".to_owned(),
            "second ok".to_owned(),
            "first ok".to_owned(),
        ]
    );
    let work = WorkClient::new(client.clone());
    work.who().await.unwrap();
    assert_eq!(take(&log).len(), 4);
    // What came of the method is seen: its own error, and its panic.
    let error = work.fails().await.unwrap_err();
    assert_eq!(error.message(), "the contract's");
    assert_eq!(take(&log)[2..], ["second application error", "first application error"]);
    let error = work.panics().await.unwrap_err();
    assert!(error.is_internal() && !error.is_safe_to_retry(), "{error:?}");
    assert_eq!(error.message(), "the provider's method panicked");
    assert_eq!(take(&log)[2..], ["second internal", "first internal"]);
    drop((work, client));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn interceptors_of_several_types_are_one_list() {
    let log = Log::default();
    let own = Interceptors::new().with(Logs("log", Arc::clone(&log))).with(RequireBearer("x"));
    let (server, client) =
        serve(|server| server.provide_with(WorkServer::new(Worker::default()), own)).await;
    assert!(WorkClient::new(client.clone()).who().await.unwrap_err().is_unauthenticated());
    assert_eq!(take(&log), ["log Work/who from true", "log unauthenticated"]);
    drop(client);
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_panic_in_an_interceptor_fails_its_call_alone() {
    let (server, client) = serve(|server| {
        let panics = does!(|call, next| {
            let when = call.metadata("panic").map(str::to_owned);
            assert!(when.as_deref() != Some("before"), "on purpose");
            let reply = next.run(call).await;
            assert!(when.as_deref() != Some("after"), "on purpose");
            reply
        });
        server.provide(WorkServer::new(Worker::default())).interceptor(panics)
    })
    .await;
    let work = WorkClient::new(client.clone());
    for when in ["before", "after"] {
        let work = work.with_metadata("panic", when);
        for outcome in [work.length(String::new()).await, work.spawned(String::new()).await] {
            let error = outcome.unwrap_err();
            assert!(error.is_internal(), "{error:?}");
            assert_eq!(error.message(), "an interceptor of the provider panicked");
        }
    }
    assert_eq!(work.length("text".into()).await, Ok(4));
    drop((work, client));
    server.shutdown().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_deadline_that_an_interceptor_shortens_ends_the_method_and_the_callers_ends_the_chain() {
    let worker = Worker::default();
    let running = Arc::clone(&worker.running);
    let (server, client) = serve(|server| {
        let shortens = does!(|call, next| {
            if call.metadata("shorten").is_some() {
                let soon = tokio::time::Instant::now() + Duration::from_secs(1);
                call.set_deadline(soon.into_std());
            }
            let outcome = next.run(call).await;
            outcome.inspect_err(|error| assert!(error.is_timeout(), "{error}"))
        });
        server.provide(WorkServer::new(worker)).interceptor(shortens)
    })
    .await;
    let work = WorkClient::new(client.clone()).with_timeout(Duration::from_secs(5));
    let begun = tokio::time::Instant::now();
    let error = work.with_metadata("shorten", "yes").wait().await.unwrap_err();
    assert!(error.is_timeout() && error.message().contains("an interceptor"), "{error}");
    assert_eq!(begun.elapsed().as_secs(), 1);
    assert_eq!(running.load(Ordering::SeqCst), 0);
    let error = work.wait().await.unwrap_err();
    assert!(error.is_timeout(), "{error}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(running.load(Ordering::SeqCst), 0, "the method has ended with the chain");
    drop((work, client));
    server.shutdown().await.unwrap();
}

/// Waits before it goes on, and counts itself.
struct Slow {
    there: Arc<AtomicUsize>,
    wait: Duration,
}

impl Interceptor for Slow {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        let _there = Running::begin(&self.there);
        tokio::time::sleep(self.wait).await;
        next.run(call).await
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_dropped_ends_its_interceptors_and_its_method() {
    for wait in [Duration::ZERO, Duration::from_secs(3)] {
        let worker = Worker::default();
        let running = Arc::clone(&worker.running);
        let there = Arc::new(AtomicUsize::new(0));
        let slow = Slow { there: Arc::clone(&there), wait };
        let (server, client) =
            serve(|server| server.provide(WorkServer::new(worker)).interceptor(slow)).await;
        let work = WorkClient::new(client.clone());
        for second in 1..=5 {
            let patience = Duration::from_secs(second);
            let given_up = tokio::time::timeout(patience, work.wait()).await;
            assert!(given_up.is_err());
            tokio::time::sleep(Duration::from_millis(100)).await;
            assert_eq!(there.load(Ordering::SeqCst), 0);
            assert_eq!(running.load(Ordering::SeqCst), 0);
        }
        // What waits in an interceptor goes on in a task; it is answered in the end.
        assert_eq!(work.length("text".into()).await, Ok(4));
        drop((work, client));
        server.shutdown().await.unwrap();
    }
}

#[tokio::test]
async fn an_interceptor_answers_by_itself_and_a_method_runs_once() {
    let (server, client) = serve(|server| {
        let odd = does!(|call, next| {
            match call.metadata("do") {
                Some("answer") => Ok(Reply::value(&77_usize)?.with_metadata("from", "cache")),
                Some("refuse") => {
                    Reply::contract_error(&RpcError::internal("as the contract says"))
                }
                Some("twice") => {
                    let mut next = next;
                    next.again().run(call).await?;
                    next.run(call).await
                }
                Some("wrong") => Reply::value("not a number"),
                _ => next.run(call).await,
            }
        });
        server.provide(WorkServer::new(Worker::default())).interceptor(odd)
    })
    .await;
    let work = WorkClient::new(client.clone());
    let doing = |what: &str| work.with_metadata("do", what);
    assert_eq!(doing("answer").length("text".into()).await, Ok(77));
    let error = doing("refuse").length("text".into()).await.unwrap_err();
    assert_eq!(error.message(), "as the contract says");
    assert!(doing("wrong").length("text".into()).await.unwrap_err().is_decode());
    let error = doing("twice").length("text".into()).await.unwrap_err();
    assert!(error.is_internal() && !error.is_safe_to_retry(), "{error:?}");
    drop((work, client));
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn interceptors_are_told_how_a_stream_ends() {
    let ends = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&ends);
    let (server, client) = serve(|server| {
        let tells = Tells(told);
        server.provide(WorkServer::new(Worker::default())).interceptor(tells)
    })
    .await;
    let work = WorkClient::new(client.clone());
    let mut numbers = work.up_to(3).await.unwrap();
    while numbers.next().await.is_some() {}
    until("the end", || ends.lock().unwrap().len() == 1).await;
    let mut many = work.up_to(10_000_000).await.unwrap();
    assert_eq!(many.next().await.unwrap(), Ok(1));
    assert_eq!(ends.lock().unwrap().len(), 1, "it goes on");
    drop(many);
    until("the end", || ends.lock().unwrap().len() == 2).await;
    assert_eq!(work.length("text".into()).await, Ok(4));
    let ends = ends.lock().unwrap().clone();
    assert_eq!(ends[0], ("Work/up_to".to_owned(), StreamEnd::Finished));
    assert!(!matches!(ends[1].1, StreamEnd::Finished), "{:?}", ends[1]);
    assert_eq!(ends[2], ("Work/length".to_owned(), StreamEnd::Finished));
    drop((work, client));
    server.shutdown().await.unwrap();
}

struct Tells(Arc<Mutex<Vec<(String, StreamEnd)>>>);

impl Interceptor for Tells {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        let (ends, method) = (Arc::clone(&self.0), call.method().to_string());
        let reply = next.run(call).await?;
        Ok(reply.on_end(move |end| ends.lock().unwrap().push((method, end))))
    }
}

#[tokio::test]
async fn oneways_pass_the_interceptors_and_a_refused_one_runs_nothing() {
    let worker = Worker::default();
    let notes = Arc::clone(&worker.notes);
    let (server, client) = serve(|server| {
        server.provide(WorkServer::new(worker)).interceptor(RequireBearer("s3cret"))
    })
    .await;
    let work = WorkClient::new(client.clone());
    work.note("refused".into()).await.unwrap();
    let known = work.with_metadata("authorization", "Bearer s3cret");
    known.note("taken".into()).await.unwrap();
    until("the note", || !notes.lock().unwrap().is_empty()).await;
    assert_eq!(*notes.lock().unwrap(), ["taken"]);
    drop((work, known, client));
    server.shutdown().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn arguments_that_do_not_decode_are_an_error_that_interceptors_see() {
    let log = Log::default();
    let server = Server::builder()
        .provide(WorkServer::new(Worker::default()))
        .interceptor(Logs("log", Arc::clone(&log)))
        .bind("tcp://127.0.0.1:0")
        .await
        .unwrap();
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let id =
        WORK_DESCRIPTOR.methods().iter().find(|method| method.name() == "length").unwrap().id();
    let header = rpc_runtime::protocol::Header {
        id: 7,
        method: id,
        deadline_ms: 10_000,
        ..rpc_runtime::protocol::Header::new(rpc_runtime::protocol::Kind::Request)
    };
    peer.send(&frame(header, &arguments(&(7,)))).await;
    let answer = peer.answer(7).await;
    assert!(answer.error().is_decode() && answer.is_unexecuted(), "{answer:?}");
    assert_eq!(take(&log), ["log Work/length from true", "log decode"]);
    peer.send(&frame(header, &arguments(&("text",)))).await;
    let answer = peer.answer(7).await;
    assert_eq!((Status::from_wire(answer.header.status), answer.value::<usize>()), (Status::Ok, 4));
    drop(peer);
    soon("the end", server.shutdown()).await.unwrap();
}
