//! Users' handlers in the pipelines of live connections: timers, panics, read control.
#![allow(missing_docs)]

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rpc_runtime::pipeline::{Change, ChannelContext, ChannelHandler, Flow, Handled, Watermarks};
use rpc_runtime::protocol::{Frame, HEADER_LEN, Kind};
use rpc_runtime::{ChannelHandle, Client, Server};
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider, serve};
use rpc_tests::waiting::{soon, until};
use rpc_tests::wire::{self, RawPeer};

const SECOND: Duration = Duration::from_secs(1);

fn channel(probe: &ProbeClient) -> ChannelHandle {
    AsRef::<Client>::as_ref(probe).channels().remove(0)
}

async fn stub(server: &Server) -> ProbeClient {
    ProbeClient::connect(server.local_uri()).await.unwrap().with_timeout(5 * SECOND)
}

/// Ticks a few times, at the interval it is told.
struct Ticker {
    ticks: Arc<AtomicUsize>,
    next: Option<Instant>,
    left: usize,
}

impl ChannelHandler for Ticker {
    fn handler_added(&mut self, ctx: &mut ChannelContext<'_>) {
        self.next = Some(ctx.now() + SECOND / 100);
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }
    fn handle_timeout(&mut self, ctx: &mut ChannelContext<'_>) -> Handled {
        self.ticks.fetch_add(1, Ordering::SeqCst);
        self.left -= 1;
        self.next = (self.left > 0).then_some(ctx.now() + SECOND / 100);
        Ok(Flow::Next)
    }
}

#[tokio::test]
async fn a_timer_of_a_handler_added_to_an_idle_connection_runs() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await;
    probe.add(1, 2).await.unwrap();
    let ticks = Arc::<AtomicUsize>::default();
    let ticker = Ticker { ticks: Arc::clone(&ticks), next: None, left: 3 };
    channel(&probe).change(Change::add_last("ticker", ticker)).unwrap();
    until("it ticks", || ticks.load(Ordering::SeqCst) == 3).await;
}

/// Is always due, and never done.
struct Overdue(Arc<AtomicUsize>, Option<Instant>);

impl ChannelHandler for Overdue {
    fn handler_added(&mut self, ctx: &mut ChannelContext<'_>) {
        self.1 = Some(ctx.now());
    }
    fn poll_timeout(&self) -> Option<Instant> {
        self.1
    }
    fn handle_timeout(&mut self, _: &mut ChannelContext<'_>) -> Handled {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(Flow::Next)
    }
}

#[tokio::test]
async fn a_timer_that_stays_due_does_not_take_a_whole_core() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await;
    let runs = Arc::<AtomicUsize>::default();
    let overdue = Overdue(Arc::clone(&runs), None);
    channel(&probe).change(Change::add_last("overdue", overdue)).unwrap();
    let started = Instant::now();
    until("it runs", || runs.load(Ordering::SeqCst) > 20).await;
    let took = started.elapsed();
    assert!(took > SECOND / 20, "more than 20 runs in {took:?}");
    assert_eq!(soon("a call", probe.add(1, 2)).await, Ok(3));
}

struct PanicsOnRequests;

impl ChannelHandler for PanicsOnRequests {
    fn write(&mut self, _: &mut ChannelContext<'_>, frame: &mut Frame<'_>) -> Handled {
        assert!(frame.header.kind != Kind::Request, "on purpose");
        Ok(Flow::Next)
    }
}

#[tokio::test]
async fn a_handler_that_panics_ends_its_connection_and_not_its_callers() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await;
    let other = probe.clone();
    let waiting = tokio::spawn(async move { other.wait().await });
    until("a call is in work", || seen.waiting() == 1).await;
    let handle = channel(&probe);
    handle.change(Change::add_last("panics", PanicsOnRequests)).unwrap();
    let error = soon("the call", probe.add(1, 2)).await.unwrap_err();
    assert!(error.is_internal() && error.to_string().contains("`panics` panicked"), "{error}");
    let error = soon("the call under way", waiting).await.unwrap().unwrap_err();
    assert!(error.to_string().contains("`panics` panicked"), "{error}");
    // The next connection is a new one.
    assert_eq!(soon("the next call", probe.add(1, 2)).await, Ok(3));
}

#[tokio::test]
async fn a_panic_in_setting_up_one_connection_does_not_end_the_accepting() {
    let count = Arc::<AtomicUsize>::default();
    let number = Arc::clone(&count);
    let builder = Server::builder().provide(ProbeServer::new(Provider::new("probe")));
    let builder = builder.pipeline(move || {
        assert!(number.fetch_add(1, Ordering::SeqCst) > 0, "on purpose, the first time");
        Vec::new()
    });
    let server = builder.bind("tcp://127.0.0.1:0").await.unwrap();
    let error = soon("connecting", ProbeClient::connect(server.local_uri())).await.unwrap_err();
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
    assert_eq!(count.load(Ordering::SeqCst), 1);
    assert_eq!(soon("a call", stub(&server).await.add(1, 2)).await, Ok(3));
}

struct Pause;

impl ChannelHandler for Pause {
    fn handler_added(&mut self, ctx: &mut ChannelContext<'_>) {
        ctx.set_auto_read(false);
    }
    fn handler_removed(&mut self, ctx: &mut ChannelContext<'_>) {
        ctx.set_auto_read(true);
    }
}

#[tokio::test]
async fn reading_that_a_handler_has_paused_goes_on_when_it_says_so() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let probe = stub(&server).await;
    let handle = channel(&probe);
    handle.change(Change::add_last("pause", Pause)).unwrap();
    // An answer that was on its way when reading stopped may still come through; the next does not.
    let short = probe.with_timeout(SECOND / 5);
    let _ = short.add(1, 2).await;
    assert!(short.add(1, 2).await.unwrap_err().is_timeout());
    handle.change(Change::remove("pause")).unwrap();
    assert_eq!(soon("a call", probe.add(1, 2)).await, Ok(3));
}

#[tokio::test]
async fn a_low_watermark_of_zero_means_once_all_is_written() {
    let watermarks = Watermarks { high: 1_000, low: 0 };
    let builder = Server::builder().provide(ProbeServer::new(Provider::new("probe")));
    let server = builder.watermarks(watermarks).bind("tcp://127.0.0.1:0").await.unwrap();
    let client =
        Client::builder().watermarks(watermarks).connect(server.local_uri()).await.unwrap();
    let probe = ProbeClient::new(client);
    for _ in 0..20 {
        let calls = (0..50).map(|n| probe.add(n, 1));
        for sum in soon("the calls", futures::future::join_all(calls)).await {
            sum.unwrap();
        }
    }
}

#[tokio::test]
async fn a_peer_that_goes_away_while_too_much_is_in_work_is_noticed() {
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let builder = Server::builder().provide(ProbeServer::new(provider)).max_concurrent_requests(2);
    let server = builder.bind("tcp://127.0.0.1:0").await.unwrap();
    let mut peer = RawPeer::connect(server.local_uri()).await;
    for id in 1..=10 {
        peer.send(&wire::request(id, "wait", &[0_u8; 0])).await;
    }
    until("more is in work than may be", || seen.waiting() > 2).await;
    drop(peer);
    until("what was in work is given up", || seen.waiting() == 0).await;
    until("the connection is gone", || server.channels().is_empty()).await;
}

/// Notes the size of each write.
struct Writes(Arc<Mutex<Vec<usize>>>);

impl ChannelHandler for Writes {
    fn write_complete(&mut self, _: &mut ChannelContext<'_>, bytes: usize) -> Handled {
        self.0.lock().unwrap().push(bytes);
        Ok(Flow::Next)
    }
}

/// How many frames the client's and the server's writes had, while 65 calls began at once.
async fn frames_per_write(flush_after: usize) -> (Vec<usize>, Vec<usize>) {
    const CALLS: i64 = 65;
    let [to_server, to_client] = [(); 2].map(|()| Arc::<Mutex<Vec<usize>>>::default());
    let server = Server::builder().provide(ProbeServer::new(Provider::new("probe")));
    let server = server.flush_after(flush_after);
    let client = Client::builder().flush_after(flush_after);
    let writes = Arc::clone(&to_client);
    let server = server.pipeline(move || vec![Change::add_last("w", Writes(Arc::clone(&writes)))]);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let writes = Arc::clone(&to_server);
    let client = client.pipeline(move || vec![Change::add_last("w", Writes(Arc::clone(&writes)))]);
    let probe = ProbeClient::new(client.connect(server.local_uri()).await.unwrap());
    // The provider takes small batches at first.
    for _ in 0..10 {
        soon("calls", futures::future::join_all((0..CALLS).map(|n| probe.add(n, 1)))).await;
    }
    let sizes = |writes: &Mutex<Vec<usize>>| std::mem::take(&mut *writes.lock().unwrap());
    drop((sizes(&to_server), sizes(&to_client)));
    for sum in soon("calls", futures::future::join_all((0..CALLS).map(|n| probe.add(n, 1)))).await {
        sum.unwrap();
    }
    let [request, answer] = [2, 1].map(|body| HEADER_LEN + body);
    let frames = |writes: &Mutex<Vec<usize>>, frame| {
        // Small numbers are of one byte, the others of two.
        sizes(writes).into_iter().map(|bytes| bytes / frame).collect()
    };
    (frames(&to_server, request + 1), frames(&to_client, answer))
}

#[tokio::test]
async fn how_many_frames_leave_together_can_be_set() {
    // The first finds nobody to wait for.
    let (requests, answers) = frames_per_write(16).await;
    assert_eq!(requests, [1, 16, 16, 16, 16], "{answers:?}");
    assert!(answers.len() >= 3 && answers.iter().all(|frames| *frames < 32), "{answers:?}");
    let (requests, _) = frames_per_write(usize::MAX).await;
    assert_eq!(requests, [1, 64]);
    let (requests, answers) = frames_per_write(1).await;
    assert_eq!((requests.len(), answers.len()), (65, 65));
}
