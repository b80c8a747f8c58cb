//! How much memory calls take, and connections between calls.
//!
//! Allocations are counted per thread. The provider runs on a thread of its own and the caller on
//! another, each with a runtime of one thread, so that what one of them takes is told from what the
//! other does.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use allocation_counter::{AllocationInfo, measure};
use rpc_runtime::{Blob, Call, Encoding, Interceptor, Next, Reply, Result, Server, rpc_service};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinSet;

#[rpc_service]
pub trait Echo {
    async fn number(&self, number: u64) -> Result<u64>;
    async fn text(&self, text: String) -> Result<String>;
    async fn blob(&self, blob: Blob) -> Result<Blob>;
}

struct Provider;

impl Echo for Provider {
    async fn number(&self, number: u64) -> Result<u64> {
        Ok(number)
    }
    async fn text(&self, text: String) -> Result<String> {
        Ok(text)
    }
    async fn blob(&self, blob: Blob) -> Result<Blob> {
        Ok(blob)
    }
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// What was allocated at either end.
struct Counts {
    client: AllocationInfo,
    server: AllocationInfo,
}

/// A provider on a thread of its own, which counts what that thread allocates.
struct Counted {
    uri: String,
    /// The provider waits for this to begin to count, to stop, and so on.
    next: Arc<Notify>,
    begun: Receiver<()>,
    counts: Receiver<AllocationInfo>,
    thread: JoinHandle<()>,
}

impl Counted {
    fn start() -> Self {
        let next = Arc::new(Notify::new());
        let (bound, uri) = channel();
        let (begin, begun) = channel();
        let (counted, counts) = channel();
        let told = Arc::clone(&next);
        let thread = std::thread::spawn(move || serve(&told, &bound, &begin, &counted));
        Self { uri: uri.recv().unwrap(), next, begun, counts, thread }
    }

    /// What `work` allocates here, and the provider meanwhile.
    fn count(&self, work: impl FnOnce()) -> Counts {
        self.next.notify_one();
        self.begun.recv().unwrap();
        let client = measure(work);
        self.next.notify_one();
        Counts { client, server: self.counts.recv().unwrap() }
    }

    fn stop(self) {
        // Nobody hears the next count, and that ends it.
        let Self { next, begun, counts, thread, .. } = self;
        drop((begun, counts));
        next.notify_one();
        thread.join().unwrap();
    }
}

fn serve(
    told: &Notify,
    bound: &Sender<String>,
    begin: &Sender<()>,
    counted: &Sender<AllocationInfo>,
) {
    let runtime = runtime();
    let server = Server::builder().provide(EchoServer::new(Provider));
    let server = runtime.block_on(server.bind("tcp://127.0.0.1:0")).unwrap();
    bound.send(server.local_uri().to_owned()).unwrap();
    loop {
        // The connections are served only while the runtime is entered, so nothing escapes the
        // count between the two.
        runtime.block_on(told.notified());
        if begin.send(()).is_err() {
            return;
        }
        let until_told = async {
            told.notified().await;
            rest().await;
        };
        counted.send(measure(|| runtime.block_on(until_told))).unwrap();
    }
}

#[test]
fn a_small_call_allocates_nothing_at_the_client_and_no_more_than_twice_at_the_server() {
    const CALLS: u64 = 100;
    const ROUNDS: usize = 20;

    let provider = Counted::start();
    let runtime = runtime();
    let client = runtime.block_on(EchoClient::connect(&provider.uri)).unwrap();
    let calls = || {
        for number in 0..CALLS {
            assert_eq!(runtime.block_on(client.number(number)), Ok(number));
        }
    };
    calls();
    // A method that lost its processor looks as if it held its thread, and its next calls get
    // tasks. So the best round counts: a call that always needs more has no good one.
    let rounds: Vec<Counts> = (0..ROUNDS).map(|_| provider.count(calls)).collect();
    let best = |end: fn(&Counts) -> u64| rounds.iter().map(end).min().unwrap();
    let at_client = best(|counts| counts.client.count_total);
    let at_server = best(|counts| counts.server.count_total);
    assert_eq!(at_client, 0, "allocations in {CALLS} calls at the client");
    assert!(at_server <= 2 * CALLS, "{at_server} allocations in {CALLS} calls at the server");
    drop(client);
    provider.stop();
}

struct PassesOn;

impl Interceptor for PassesOn {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        next.run(call).await
    }
}

/// Allocations of a call at the client.
fn allocations_of_a_call(runtime: &Runtime, client: &EchoClient) -> u64 {
    const CALLS: u64 = 100;
    let calls = || {
        for number in 0..CALLS {
            assert_eq!(runtime.block_on(client.number(number)), Ok(number));
        }
    };
    calls();
    (0..5).map(|_| measure(calls).count_total).min().unwrap().div_ceil(CALLS)
}

#[test]
fn interceptors_of_a_client_allocate_one_future_each_and_one_for_sending() {
    let provider = Counted::start();
    // It serves while it counts.
    provider.count(|| {
        let runtime = runtime();
        let mut client = runtime.block_on(EchoClient::connect(&provider.uri)).unwrap();
        let without = allocations_of_a_call(&runtime, &client);
        for interceptors in 1..=3 {
            client = client.with_interceptor(PassesOn);
            let with = allocations_of_a_call(&runtime, &client);
            println!("{without} allocations without interceptors, {with} with {interceptors}");
            let expected = without + interceptors + 1;
            assert!(with <= expected, "{with} with {interceptors}, {without} without");
        }
    });
    provider.stop();
}

#[test]
fn the_future_of_a_call_has_no_room_for_what_few_calls_need() {
    let provider = Counted::start();
    provider.count(|| {
        let client = runtime().block_on(EchoClient::connect(&provider.uri)).unwrap();
        let bytes = size_of_val(&client.number(7));
        println!("{bytes} bytes");
        assert!(bytes <= 800, "{bytes} bytes");
    });
    provider.stop();
}

#[test]
fn a_large_blob_takes_the_buffer_that_it_is_read_into_at_each_end_and_no_copy() {
    const BYTES: usize = 1 << 20;
    const CALLS: u64 = 10;

    let provider = Counted::start();
    let runtime = runtime();
    let client = runtime.block_on(EchoClient::connect(&provider.uri)).unwrap();
    let blob = Blob::from(vec![7; BYTES]);
    for encoding in [Encoding::Named, Encoding::Compact] {
        let calls = || {
            let client = client.clone().with_encoding(encoding);
            for _ in 0..CALLS {
                // Not `assert_eq`: a megabyte is no message.
                assert!(runtime.block_on(client.blob(blob.clone())).unwrap() == blob);
            }
        };
        // From the second one on, the buffer is known to be as large as that.
        calls();
        let counts = provider.count(calls);
        for (end, info) in [("client", counts.client), ("server", counts.server)] {
            let each = info.bytes_total / CALLS;
            assert!(each < (BYTES + (64 << 10)) as u64, "{each} bytes for a call at the {end}");
        }
    }
    drop(client);
    provider.stop();
}

/// Opens connections that each make these calls at once and then rest. Returns how many bytes one
/// of them still has at either end, as (client, server).
fn bytes_at_rest(calls: usize, bytes: usize) -> (i64, i64) {
    const CONNECTIONS: usize = 50;

    let provider = Counted::start();
    let runtime = runtime();
    let mut clients = Vec::with_capacity(2 * CONNECTIONS);
    let mut connect_and_call = || {
        for _ in 0..CONNECTIONS {
            let client = runtime.block_on(EchoClient::connect(&provider.uri)).unwrap();
            runtime.block_on(call_at_once(&client, calls, bytes));
            clients.push(client);
        }
        runtime.block_on(rest());
    };
    // The first ones fill what connections share, and that is not theirs.
    connect_and_call();
    let counts = provider.count(connect_and_call);
    drop(clients);
    provider.stop();
    let each = |end: AllocationInfo| end.bytes_current / CONNECTIONS as i64;
    (each(counts.client), each(counts.server))
}

/// Lets the connections of this runtime rest for some seconds, which pass at once.
async fn rest() {
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(5)).await;
    tokio::time::resume();
}

async fn call_at_once(client: &EchoClient, calls: usize, bytes: usize) {
    let mut answers = JoinSet::new();
    for _ in 0..calls {
        let client = client.clone();
        answers.spawn(async move { client.text("x".repeat(bytes)).await });
    }
    while let Some(answer) = answers.join_next().await {
        assert_eq!(answer.unwrap().unwrap().len(), bytes);
    }
}

#[test]
fn a_connection_at_rest_takes_at_most_four_and_a_half_kib_at_the_server_and_six_at_the_client() {
    for (calls, bytes) in [(0, 0), (1, 1), (1, 1 << 20), (4, 20_000), (64, 500)] {
        // By the way that the calls meet, connections may come to share one more buffer meanwhile.
        let (one, other) = (bytes_at_rest(calls, bytes), bytes_at_rest(calls, bytes));
        let (client, server) = (one.0.min(other.0), one.1.min(other.1));
        assert!(client <= 6 << 10, "{client} bytes at the client after {calls} calls of {bytes}");
        assert!(server <= 9 << 9, "{server} bytes at the server after {calls} calls of {bytes}");
    }
}
