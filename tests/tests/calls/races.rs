//! Interleavings that went wrong once, or might: each made to happen, or to happen often.
#![allow(missing_docs)]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use rpc_registry::Instance;
use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled};
use rpc_runtime::protocol::{Flags, Frame, Header, Kind};
use rpc_runtime::{Client, Result, Server, Streaming, rpc_service};
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider, serve};
use rpc_tests::waiting::{soon, until, within};
use rpc_tests::wire::{self, RawPeer, RawServer};
use tokio::net::TcpSocket;

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);

/// A client with room for so many calls at a time.
async fn narrow(uri: &str, max_in_flight: usize) -> ProbeClient {
    let client = Client::builder().max_in_flight(max_in_flight).max_payload(1_000);
    ProbeClient::new(client.connect(uri).await.unwrap()).with_timeout(30 * SECOND)
}

/// Polls a future once; it must not be ready.
async fn poll_once<F: Future + Unpin>(future: &mut F) {
    std::future::poll_fn(|cx| {
        assert!(Pin::new(&mut *future).poll(cx).is_pending(), "ready at once");
        Poll::Ready(())
    })
    .await;
}

#[tokio::test]
async fn the_turn_of_a_queued_call_that_cannot_be_sent_goes_to_the_next() {
    let (server, _) = serve("memory:turn-not-taken").await;
    let probe = narrow(server.local_uri(), 1).await;
    let mut first = Box::pin(probe.sleep(200));
    poll_once(&mut first).await;
    // Over this end's limit, which shows when its frame is written.
    let mut too_large = Box::pin(probe.echo("x".repeat(2_000)));
    poll_once(&mut too_large).await;
    let mut next = Box::pin(probe.add(1, 2));
    poll_once(&mut next).await;
    let all = futures::future::join3(first, too_large, next);
    let (first, too_large, next) = soon("all three", all).await;
    assert_eq!((first, next), (Ok(200), Ok(3)));
    assert!(too_large.unwrap_err().is_too_large());
}

#[tokio::test]
async fn the_turn_of_a_call_that_is_not_polled_is_over_at_its_deadline() {
    let (server, _) = serve("memory:turn-left-alone").await;
    let probe = narrow(server.local_uri(), 1).await;
    let mut first = Box::pin(probe.sleep(50));
    poll_once(&mut first).await;
    let impatient = probe.with_timeout(300 * MS);
    let mut left_alone = Box::pin(impatient.add(1, 2));
    poll_once(&mut left_alone).await;
    assert_eq!(soon("the first", first).await, Ok(50));
    assert_eq!(within(2 * SECOND, "the next", probe.add(3, 4)).await, Ok(7));
    let error = soon("the one left alone", left_alone).await.unwrap_err();
    assert!(error.is_timeout() && error.is_safe_to_retry(), "{error}");
}

#[rpc_service]
trait Streams {
    #[rpc(blocking)]
    async fn endless_after(&self, milliseconds: u64) -> Result<Streaming<u64>>;
    async fn count(&self, items: Streaming<u64>) -> Result<u64>;
    async fn ignore(&self, items: Streaming<u64>) -> Result<()>;
    async fn add(&self, a: u64, b: u64) -> Result<u64>;
}

#[derive(Clone, Default)]
struct Provided {
    begun: Arc<AtomicUsize>,
    open: Arc<AtomicUsize>,
}

struct Open(Arc<AtomicUsize>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Streams for Provided {
    async fn endless_after(&self, milliseconds: u64) -> Result<Streaming<u64>> {
        self.open.fetch_add(1, Ordering::SeqCst);
        let open = Open(Arc::clone(&self.open));
        self.begun.fetch_add(1, Ordering::SeqCst);
        std::thread::sleep(Duration::from_millis(milliseconds));
        Ok(Streaming::from_items((0..).inspect(move |_| {
            let _ = &open;
        })))
    }
    async fn count(&self, mut items: Streaming<u64>) -> Result<u64> {
        let mut count = 0;
        while let Some(item) = items.next().await {
            item?;
            count += 1;
        }
        Ok(count)
    }
    async fn ignore(&self, _: Streaming<u64>) -> Result<()> {
        Ok(())
    }
    async fn add(&self, a: u64, b: u64) -> Result<u64> {
        Ok(a + b)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_call_that_blocks_does_not_go_on_to_send_its_stream() {
    let provided = Provided::default();
    let server = Server::builder().provide(StreamsServer::new(provided.clone()));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let streams = StreamsClient::connect(server.local_uri()).await.unwrap();
    let call = tokio::spawn({
        let streams = streams.clone();
        async move { streams.endless_after(200).await.map(drop) }
    });
    until("the method blocks", || provided.begun.load(Ordering::SeqCst) == 1).await;
    call.abort();
    until("the source is dropped", || provided.open.load(Ordering::SeqCst) == 0).await;
    let started = Instant::now();
    soon("shutdown", server.shutdown()).await.unwrap();
    assert!(started.elapsed() < 5 * SECOND, "{:?}", started.elapsed());
    drop(streams);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_argument_that_is_dropped_at_once_stops_its_source() {
    let server = Server::builder().provide(StreamsServer::new(Provided::default()));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let streams = StreamsClient::connect(server.local_uri()).await.unwrap();
    let open = Arc::<AtomicUsize>::default();
    for _ in 0..3_000 {
        open.fetch_add(1, Ordering::SeqCst);
        let guard = Open(Arc::clone(&open));
        let items = (0..).inspect(move |_| {
            let _ = &guard;
        });
        soon("a call", streams.ignore(Streaming::from_items(items))).await.unwrap();
    }
    until("all sources are dropped", || open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_source_that_blocks_does_not_hold_up_the_frames_of_others() {
    let server = Server::builder().provide(StreamsServer::new(Provided::default()));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let streams = StreamsClient::connect(server.local_uri()).await.unwrap();
    let blocks = Arc::<AtomicBool>::default();
    let items = (0..5).inspect({
        let blocks = Arc::clone(&blocks);
        move |_| {
            blocks.store(true, Ordering::SeqCst);
            std::thread::sleep(500 * MS);
        }
    });
    let upload = tokio::spawn({
        let streams = streams.clone();
        async move { streams.count(Streaming::from_items(items)).await }
    });
    until("the source blocks", || blocks.load(Ordering::SeqCst)).await;
    let mut slowest = Duration::ZERO;
    while !upload.is_finished() {
        let started = Instant::now();
        assert_eq!(soon("a call", streams.add(1, 2)).await, Ok(3));
        slowest = slowest.max(started.elapsed());
        // Nobody else's look at the connection is to help.
        tokio::time::sleep(60 * MS).await;
    }
    assert_eq!(upload.await.unwrap(), Ok(5));
    assert!(slowest < 300 * MS, "a call took {slowest:?}");
}

#[tokio::test]
async fn requests_that_wait_behind_a_full_house_are_served_before_a_shutdown_ends() {
    let server = Server::builder().provide(ProbeServer::new(Provider::new("probe")));
    let server = server.max_concurrent_requests(1).bind("tcp://127.0.0.1:0").await.unwrap();
    let mut peer = RawPeer::connect(server.local_uri()).await;
    let requests: Vec<u8> = (1..=3).flat_map(|id| wire::request(id, "sleep", &[1_200])).collect();
    peer.send(&requests).await;
    tokio::time::sleep(100 * MS).await;
    let shutdown = tokio::spawn(server.shutdown());
    assert_eq!(soon("the word of it", peer.next()).await.unwrap().header.kind, Kind::GoAway);
    for id in 1..=3 {
        assert_eq!(peer.answer(id).await.value::<u64>(), 1_200);
    }
    drop(peer);
    soon("shutdown", shutdown).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_slow_reader_has_not_taken_yet_survives_the_end_of_a_shutdown() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let address = server.local_uri().strip_prefix("tcp://").unwrap().parse().unwrap();
    let mut peer = RawPeer::new(socket.connect(address).await.unwrap());
    peer.send(&wire::request(1, "make", &[100_000])).await;
    tokio::time::sleep(100 * MS).await;
    let shutdown = tokio::spawn(server.shutdown());
    // The provider waits for this long for further requests, and is then done as far as it knows.
    tokio::time::sleep(SECOND + 200 * MS).await;
    peer.try_send(&wire::bare(Kind::Ping, 2)).await;
    tokio::time::sleep(20 * MS).await;
    assert_eq!(peer.answer(1).await.value::<String>().len(), 100_000);
    drop(peer);
    soon("shutdown", shutdown).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_dropped_server_keeps_no_connection_that_it_was_just_accepting() {
    for round in 0..200 {
        let (server, _) = serve("tcp://127.0.0.1:0").await;
        let address = server.local_uri().strip_prefix("tcp://").unwrap().to_owned();
        let peers: Vec<_> =
            (0..8).map(|_| tokio::spawn(tokio::net::TcpStream::connect(address.clone()))).collect();
        for _ in 0..round % 20 {
            tokio::task::yield_now().await;
        }
        drop(server);
        for peer in peers {
            if let Ok(stream) = soon("connecting", peer).await.unwrap() {
                let mut peer = RawPeer::new(stream);
                // The system may have forgotten the connection before it was accepted, without a
                // word: that shows when something is sent. It is to be the end and no answer.
                peer.try_send(&wire::request(1, "add", &(1, 2))).await;
                soon("the end of the connection", peer.drain()).await;
            }
        }
    }
}

/// Counts what its timer, set when it is added or when it writes, has done.
struct Timer {
    due: Option<Instant>,
    fired: Arc<AtomicUsize>,
}

impl ChannelHandler for Timer {
    fn write(&mut self, ctx: &mut ChannelContext<'_>, _: &mut Frame<'_>) -> Handled {
        self.due.get_or_insert(ctx.now() + 100 * MS);
        Ok(Flow::Next)
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.due
    }
    fn handle_timeout(&mut self, _: &mut ChannelContext<'_>) -> Handled {
        self.due = None;
        self.fired.fetch_add(1, Ordering::SeqCst);
        Ok(Flow::Next)
    }
}

#[tokio::test(start_paused = true)]
async fn a_timer_that_comes_into_being_on_a_quiet_connection_fires_in_time() {
    let (server, _) = serve("memory:timers").await;
    let client = Client::builder().connect(server.local_uri()).await.unwrap();
    let probe = ProbeClient::new(client.clone());
    assert_eq!(probe.add(1, 2).await, Ok(3));
    let fired = Arc::<AtomicUsize>::default();
    let due = Some(tokio::time::Instant::now().into_std() + 100 * MS);
    let timer = Timer { due, fired: Arc::clone(&fired) };
    client.channels()[0].change(Change::add_last("timer", timer)).unwrap();
    tokio::time::sleep(110 * MS).await;
    assert_eq!(fired.load(Ordering::SeqCst), 1, "the timer that it was added with");
    // Its frame arms the timer; the answer takes longer.
    let call = tokio::spawn(async move { probe.with_timeout(SECOND).sleep(500).await });
    tokio::time::sleep(110 * MS).await;
    assert_eq!(fired.load(Ordering::SeqCst), 2, "the timer that a write has set");
    call.await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_does_not_answer_holds_up_no_call_that_others_can_take() {
    // Its backlog is full, so that further attempts to connect get no answer.
    let full = TcpSocket::new_v4().unwrap();
    full.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = full.listen(1).unwrap();
    let deaf = full.local_addr().unwrap();
    let mut fillers = Vec::new();
    while let Ok(Ok(filler)) =
        tokio::time::timeout(200 * MS, tokio::net::TcpStream::connect(deaf)).await
    {
        fillers.push(filler);
    }
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let registry = rpc_registry::connect("memory:deaf-provider").await.unwrap();
    let mut leases = Vec::new();
    for uri in [&format!("tcp://{deaf}"), server.local_uri()] {
        let instance = Instance::new("e2e.Probe", uri).with_version("1.4.0");
        leases.push(registry.register(instance).await.unwrap());
    }
    let probe = ProbeClient::discover(registry).await.unwrap().with_timeout(2 * SECOND);
    for n in 0..10 {
        let started = Instant::now();
        assert_eq!(soon("a call", probe.add(n, 1)).await, Ok(n + 1));
        assert!(started.elapsed() < SECOND, "call {n} took {:?}", started.elapsed());
    }
}

#[tokio::test]
async fn a_late_answer_with_a_stream_is_refused_so_that_its_sender_stops() {
    let (heard, mut cancelled) = tokio::sync::mpsc::channel(1);
    let server = RawServer::start(move |mut peer| {
        let heard = heard.clone();
        async move {
            let Some(request) = peer.requested().await else { return };
            tokio::time::sleep(200 * MS).await;
            let id = request.header.id;
            let flags = Flags::default().with(Flags::STREAM);
            let header = Header { id, flags, ..Header::new(Kind::Response) };
            peer.send(&wire::frame(header, &wire::arguments(&()))).await;
            while let Some(frame) = peer.any_frame().await {
                if frame.header.kind == Kind::Cancel && frame.header.id == id {
                    heard.send(()).await.unwrap();
                }
            }
        }
    })
    .await;
    let streams = StreamsClient::connect(server.uri()).await.unwrap();
    let error = streams.with_timeout(50 * MS).endless_after(0).await.map(drop).unwrap_err();
    assert!(error.is_timeout(), "{error}");
    soon("the cancel", cancelled.recv()).await.unwrap();
}

#[test]
fn a_call_ends_even_if_the_runtime_of_its_client_ended_before_the_connection_was_driven() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(2).enable_all().build().unwrap()
    };
    let serving = runtime();
    let (server, _) = serving.block_on(serve("tcp://127.0.0.1:0"));
    let calling = runtime();
    for _ in 0..50 {
        let connecting = runtime();
        let probe = connecting.block_on(ProbeClient::connect(server.local_uri())).unwrap();
        connecting.shutdown_background();
        // Its connection has no task any more, and none can be made in a runtime that has ended.
        calling.block_on(async {
            let _ = soon("the call", probe.with_timeout(SECOND).add(1, 2)).await;
        });
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_address_is_free_once_shutdown_is_done() {
    for _ in 0..5_000 {
        let (server, _) = serve("memory:free-again").await;
        soon("shutdown", server.shutdown()).await.unwrap();
    }
}
