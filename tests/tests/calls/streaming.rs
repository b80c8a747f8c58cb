//! Streams as arguments and as results, over sockets and in virtual time.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use rpc_runtime::{Client, Result, RpcError, Server, Streaming, rpc_service};

#[rpc_service]
pub trait Numbers {
    async fn up_to(&self, n: u64) -> Result<Streaming<u64>>;
    async fn sum(&self, numbers: Streaming<u64>) -> Result<u64>;
    async fn doubled(&self, numbers: Streaming<u64>) -> Result<Streaming<u64>>;
    async fn endless(&self) -> Result<Streaming<u64>>;
    async fn fails_at(&self, n: u64) -> Result<Streaming<u64>>;
    async fn ignores(&self, numbers: Streaming<u64>) -> Result<()>;
    async fn blobs(&self, count: u32, bytes: u32) -> Result<Streaming<Vec<u8>>>;
    async fn panics_at(&self, n: u64) -> Result<Streaming<u64>>;
    async fn add(&self, a: u64, b: u64) -> Result<u64>;
}

#[derive(Default)]
struct Plain {
    produced: Arc<AtomicU64>,
    open: Arc<AtomicU64>,
}

struct Open(Arc<AtomicU64>);
impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Numbers for Plain {
    async fn up_to(&self, n: u64) -> Result<Streaming<u64>> {
        Ok(Streaming::from_items(0..n))
    }
    async fn sum(&self, mut numbers: Streaming<u64>) -> Result<u64> {
        let mut sum = 0;
        while let Some(number) = numbers.next().await {
            sum += number?;
        }
        Ok(sum)
    }
    async fn doubled(&self, numbers: Streaming<u64>) -> Result<Streaming<u64>> {
        Ok(Streaming::from_stream(numbers.map(|number| Ok(number? * 2))))
    }
    async fn endless(&self) -> Result<Streaming<u64>> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open));
        let produced = Arc::clone(&self.produced);
        let items = (0..).inspect(move |_| {
            let _ = &open;
            produced.fetch_add(1, Ordering::SeqCst);
        });
        Ok(Streaming::from_items(items))
    }
    async fn fails_at(&self, n: u64) -> Result<Streaming<u64>> {
        let (sender, stream) = Streaming::channel(4);
        tokio::spawn(async move {
            for item in 0..n {
                sender.send(item).await.ok();
            }
            sender.fail(RpcError::internal("out of numbers")).await;
        });
        Ok(stream)
    }
    async fn ignores(&self, numbers: Streaming<u64>) -> Result<()> {
        drop(numbers);
        Ok(())
    }
    async fn blobs(&self, count: u32, bytes: u32) -> Result<Streaming<Vec<u8>>> {
        Ok(Streaming::from_items((0..count).map(move |n| vec![n as u8; bytes as usize])))
    }
    async fn panics_at(&self, n: u64) -> Result<Streaming<u64>> {
        Ok(Streaming::from_items((0..).inspect(move |item| assert!(*item < n, "on purpose"))))
    }
    async fn add(&self, a: u64, b: u64) -> Result<u64> {
        Ok(a + b)
    }
}

async fn pair(uri: &str) -> (Server, NumbersClient, Plain) {
    let plain = Plain::default();
    let shared = Plain { produced: Arc::clone(&plain.produced), open: Arc::clone(&plain.open) };
    let server = Server::builder().provide(NumbersServer::new(plain)).bind(uri).await.unwrap();
    let client = NumbersClient::connect(server.local_uri()).await.unwrap();
    (server, client, shared)
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("it hangs")
}

async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

async fn all(mut stream: Streaming<u64>) -> Result<Vec<u64>> {
    let mut items = Vec::new();
    while let Some(item) = within(stream.next()).await {
        items.push(item?);
    }
    Ok(items)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_arrive_whole_and_in_order_in_each_direction() {
    for uri in ["tcp://127.0.0.1:0", "memory:streaming-order"] {
        let (server, numbers, _) = pair(uri).await;
        for n in [0, 1, 10, 100_000] {
            assert_eq!(
                all(numbers.up_to(n).await.unwrap()).await.unwrap(),
                (0..n).collect::<Vec<_>>()
            );
            let sum = within(numbers.sum(Streaming::from_items(0..n))).await.unwrap();
            assert_eq!(sum, (0..n).sum::<u64>());
            let doubled = within(numbers.doubled(Streaming::from_items(0..n))).await.unwrap();
            assert_eq!(all(doubled).await.unwrap(), (0..n).map(|n| n * 2).collect::<Vec<_>>());
        }
        server.shutdown().await.unwrap();
    }
}

#[test]
fn a_caller_outside_of_any_runtime_can_send_a_stream() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_server, numbers, _) = runtime.block_on(pair("memory:streams-from-outside"));
    let sum = numbers.sum(Streaming::from_items(1..=4));
    assert_eq!(futures::executor::block_on(sum), Ok(10));
}

#[tokio::test]
async fn a_local_object_and_a_remote_stub_stream_alike() {
    async fn use_it(numbers: &impl Numbers) -> u64 {
        numbers.sum(numbers.up_to(5).await.unwrap()).await.unwrap()
    }
    let (_server, stub, plain) = pair("memory:alike").await;
    assert_eq!(use_it(&plain).await, 10);
    assert_eq!(within(use_it(&stub)).await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_receiver_slows_the_sender_down_and_nobody_else() {
    let (_server, numbers, plain) = pair("tcp://127.0.0.1:0").await;
    let mut endless = numbers.endless().await.unwrap();
    let mut before = 0;
    until(|| plain.produced.load(Ordering::SeqCst) > 1_000).await;
    // The sender comes to rest: what is under way is bounded.
    loop {
        within(numbers.add(1, 2)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
        let now = plain.produced.load(Ordering::SeqCst);
        if now == before {
            break;
        }
        before = now;
    }
    assert!(before < 20_000, "{before} items of 33 bytes and more are far over 256 KiB");
    for expected in 0..50_000 {
        assert_eq!(within(endless.next()).await.unwrap().unwrap(), expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dropping_the_receiving_end_stops_the_sender() {
    let (_server, numbers, plain) = pair("tcp://127.0.0.1:0").await;
    for taken in 0..20_usize {
        let mut endless = numbers.endless().await.unwrap();
        for _ in 0..taken * taken {
            within(endless.next()).await.unwrap().unwrap();
        }
    }
    until(|| plain.open.load(Ordering::SeqCst) == 0).await;
    // And the other way: a provider that drops its argument stops the caller's source.
    let open = Arc::new(AtomicU64::new(1));
    let guard = Open(Arc::clone(&open));
    let items = (0..).inspect(move |_| {
        let _ = &guard;
    });
    within(numbers.ignores(Streaming::from_items(items))).await.unwrap();
    until(|| open.load(Ordering::SeqCst) == 0).await;
    assert_eq!(within(numbers.add(1, 2)).await.unwrap(), 3);
}

#[tokio::test]
async fn a_failing_or_panicking_source_ends_the_stream_with_its_error() {
    let (_server, numbers, _) = pair("memory:failing").await;
    let mut stream = numbers.fails_at(3).await.unwrap();
    for expected in 0..3 {
        assert_eq!(within(stream.next()).await.unwrap().unwrap(), expected);
    }
    let error = within(stream.next()).await.unwrap().unwrap_err();
    assert!(error.is_internal() && error.message() == "out of numbers", "{error:?}");
    assert!(within(stream.next()).await.is_none());

    let error = all(numbers.panics_at(5).await.unwrap()).await.unwrap_err();
    assert!(error.is_internal() && error.to_string().contains("panicked"), "{error}");
    // The source of an argument fails: the method gets the error as an item.
    let failing =
        Streaming::from_stream(futures::stream::iter([Ok(1), Err(RpcError::internal("mine"))]));
    let error = within(numbers.sum(failing)).await.unwrap_err();
    assert_eq!(error.message(), "mine");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_ends_a_stream_with_an_error_and_not_as_if_complete() {
    let (server, numbers, plain) = pair("tcp://127.0.0.1:0").await;
    let mut endless = numbers.endless().await.unwrap();
    within(endless.next()).await.unwrap().unwrap();
    drop(server);
    let error = loop {
        if let Err(error) = within(endless.next()).await.expect("not an end") {
            break error;
        }
    };
    assert!(error.is_unavailable(), "{error}");
    until(|| plain.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_lets_streams_go_on_to_their_end() {
    let (server, numbers, _) = pair("tcp://127.0.0.1:0").await;
    let stream = numbers.up_to(200_000).await.unwrap();
    let reading = tokio::spawn(all(stream));
    server.shutdown().await.unwrap();
    assert_eq!(within(reading).await.unwrap().unwrap().len(), 200_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_of_any_size_and_many_streams_at_once_do_not_mix() {
    let (_server, numbers, _) = pair("tcp://127.0.0.1:0").await;
    let streams = [(1_000, 10), (40, 100_000), (3, 5 << 20), (5_000, 0), (300, 1_000)];
    let tasks = streams.map(|(count, bytes)| {
        let numbers = numbers.clone();
        tokio::spawn(async move {
            let mut blobs = numbers.blobs(count, bytes).await.unwrap();
            for n in 0..count {
                let blob = within(blobs.next()).await.unwrap().unwrap();
                assert_eq!(blob.len(), bytes as usize);
                assert!(blob.iter().all(|byte| *byte == n as u8));
            }
            assert!(within(blobs.next()).await.is_none());
        })
    });
    for task in tasks {
        within(task).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_streams_than_may_be_in_work_do_not_wait_for_each_other() {
    let plain = Plain::default();
    let builder = Server::builder().provide(NumbersServer::new(plain)).max_concurrent_requests(4);
    let server = builder.bind("tcp://127.0.0.1:0").await.unwrap();
    let numbers = NumbersClient::connect(server.local_uri()).await.unwrap();
    let calls: Vec<_> = (0..32)
        .map(|_| {
            let numbers = numbers.clone();
            tokio::spawn(async move { numbers.sum(Streaming::from_items(0..10_000)).await })
        })
        .collect();
    let mut done = 0;
    for call in calls {
        match within(call).await.unwrap() {
            Ok(sum) => {
                assert_eq!(sum, 49_995_000);
                done += 1;
            }
            Err(error) => {
                assert!(error.is_overloaded() && error.is_safe_to_retry(), "{error:?}");
                assert!(error.message().contains("`max_concurrent_requests`"), "{error}");
            }
        }
    }
    assert!(done >= 4, "{done} of 32 were done");
}

#[tokio::test]
async fn a_caller_that_goes_away_takes_its_streams_along() {
    let (_server, numbers, plain) = pair("memory:goes-away").await;
    // Dropped at any stage: before it is sent, before the answer, with the answer not taken.
    for polls in 0..6 {
        let mut call = Box::pin(numbers.endless());
        for _ in 0..polls {
            if futures::poll!(&mut call).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    until(|| plain.open.load(Ordering::SeqCst) == 0).await;
    let (sender, stream) = Streaming::channel(1);
    let mut call = Box::pin(numbers.sum(stream));
    assert!(futures::poll!(&mut call).is_pending());
    drop(call);
    until(|| futures::FutureExt::now_or_never(sender.send(1)).is_some_and(|sent| sent.is_err()))
        .await;
}

#[tokio::test]
async fn a_stream_outside_of_a_call_is_refused_and_so_is_a_second_one() {
    #[rpc_service]
    trait Two {
        async fn two(&self, a: Streaming<u8>, b: Streaming<u8>) -> Result<()>;
    }
    struct Never;
    impl Two for Never {
        async fn two(&self, _: Streaming<u8>, _: Streaming<u8>) -> Result<()> {
            Ok(())
        }
    }
    let server = Server::builder().provide(TwoServer::new(Never)).bind("memory:two").await.unwrap();
    let client = Client::builder().connect(server.local_uri()).await.unwrap();
    let stream = || Streaming::from_items([1]);
    let error = TwoClient::new(client).two(stream(), stream()).await.unwrap_err();
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(
        error.is_safe_to_retry() && cause.contains("one stream in each direction"),
        "{error:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn items_over_the_receivers_limit_end_that_stream_and_nothing_else() {
    let plain = Plain::default();
    let builder = Server::builder().provide(NumbersServer::new(plain)).max_concurrent_requests(2);
    let server = builder.bind("tcp://127.0.0.1:0").await.unwrap();
    let client = Client::builder().max_payload(1_024).connect(server.local_uri()).await.unwrap();
    let numbers = NumbersClient::new(client);
    for _ in 0..8 {
        let mut blobs = within(numbers.blobs(10, 4_096)).await.unwrap();
        let error = within(blobs.next()).await.unwrap().unwrap_err();
        assert!(error.is_too_large(), "{error}");
        assert!(within(blobs.next()).await.is_none());
        assert_eq!(within(numbers.add(1, 2)).await.unwrap(), 3);
    }
    server.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_stream_that_is_the_answer_to_a_call_long_given_up_is_stopped() {
    #[rpc_service]
    trait Late {
        async fn late(&self) -> Result<Streaming<u64>>;
        async fn quick(&self) -> Result<()>;
    }
    struct Slow(Plain);
    impl Late for Slow {
        async fn late(&self) -> Result<Streaming<u64>> {
            // Blocks the thread, so that the deadline cannot end it at the provider.
            std::thread::sleep(Duration::from_millis(150));
            self.0.endless().await
        }
        async fn quick(&self) -> Result<()> {
            Ok(())
        }
    }
    let plain = Plain::default();
    let open = Arc::clone(&plain.open);
    let builder =
        Server::builder().provide(LateServer::new(Slow(plain))).max_concurrent_requests(1);
    let server = builder.bind("tcp://127.0.0.1:0").await.unwrap();
    let late = LateClient::connect(server.local_uri()).await.unwrap();
    for _ in 0..3 {
        let error = late.with_timeout(Duration::from_millis(50)).late().await.unwrap_err();
        assert!(error.is_timeout() || error.is_overloaded(), "{error}");
    }
    within(async {
        while let Err(error) = late.quick().await {
            assert!(error.is_overloaded(), "{error}");
        }
    })
    .await;
    until(|| open.load(Ordering::SeqCst) == 0).await;
}
