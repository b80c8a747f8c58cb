//! Deadlines, in virtual time: the clock stands still until every task waits, then jumps.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_runtime::{Client, Context, Result, RpcError, Server, rpc_service};
use tokio::time::Instant;

#[rpc_service]
pub trait Sleeper {
    async fn sleep(&self, milliseconds: u64) -> Result<()>;
    #[rpc(timeout = "300ms")]
    async fn sleep_at_most_300ms(&self, milliseconds: u64) -> Result<()>;
    /// How many milliseconds the caller still waits.
    async fn remaining(&self) -> Result<Option<u64>>;
    /// Calls `remaining` of the provider at `uri`, after a while.
    async fn remaining_at(&self, uri: String, after: u64) -> Result<Option<u64>>;
}

#[derive(Default)]
struct Bed {
    given_up: Arc<AtomicUsize>,
}

struct CountDrop<'a>(&'a AtomicUsize);
impl Drop for CountDrop<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

impl Sleeper for Bed {
    async fn sleep(&self, milliseconds: u64) -> Result<()> {
        let given_up = CountDrop(&self.given_up);
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        std::mem::forget(given_up);
        Ok(())
    }
    async fn sleep_at_most_300ms(&self, milliseconds: u64) -> Result<()> {
        self.sleep(milliseconds).await
    }
    async fn remaining(&self) -> Result<Option<u64>> {
        Ok(Context::current().remaining().map(|left| left.as_millis() as u64))
    }
    async fn remaining_at(&self, uri: String, after: u64) -> Result<Option<u64>> {
        tokio::time::sleep(Duration::from_millis(after)).await;
        SleeperClient::connect(uri).await?.remaining().await
    }
}

async fn pair(uri: &str) -> (Server, SleeperClient, Arc<AtomicUsize>) {
    let bed = Bed::default();
    let given_up = Arc::clone(&bed.given_up);
    let server = Server::builder().provide(SleeperServer::new(bed)).bind(uri).await.unwrap();
    (server, SleeperClient::connect(uri).await.unwrap(), given_up)
}

const MS: fn(u64) -> Duration = Duration::from_millis;

/// How late a deadline may fire: one tick of the scan, and the timer's rounding to a millisecond.
const TICK: Duration = Duration::from_millis(6);

async fn fails_after(call: impl Future<Output = Result<()>>, expected: Duration) -> RpcError {
    let started = Instant::now();
    let error = call.await.unwrap_err();
    let took = started.elapsed();
    assert!(error.is_timeout(), "{error:?}");
    assert!((expected..=expected + TICK).contains(&took), "{took:?} instead of {expected:?}");
    error
}

#[tokio::test(start_paused = true)]
async fn each_call_ends_at_its_own_deadline_whatever_the_others_have() {
    let (_server, bed, _) = pair("memory:own-deadlines").await;
    let calls: Vec<_> = [50, 7_000, 20, 300, 1_000]
        .into_iter()
        .map(|ms| {
            let bed = bed.with_timeout(MS(ms));
            tokio::spawn(async move { fails_after(bed.sleep(3_600_000), MS(ms)).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn timeouts_of_call_contract_and_client_go_in_this_order() {
    let (server, bed, _) = pair("memory:precedence").await;
    fails_after(bed.sleep(60_000), MS(10_000)).await;
    fails_after(bed.sleep_at_most_300ms(60_000), MS(300)).await;
    fails_after(bed.with_timeout(MS(70)).sleep_at_most_300ms(60_000), MS(70)).await;
    let client = Client::builder().timeout(MS(1_500)).connect(server.local_uri()).await.unwrap();
    fails_after(SleeperClient::new(client).sleep(60_000), MS(1_500)).await;
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_the_work_at_the_provider_too() {
    let (_server, bed, given_up) = pair("memory:both-ends").await;
    fails_after(bed.with_timeout(MS(200)).sleep(60_000), MS(200)).await;
    tokio::time::sleep(MS(20)).await;
    assert_eq!(given_up.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_ends_the_work_at_the_provider() {
    let (_server, bed, given_up) = pair("memory:dropped").await;
    let dropped = tokio::time::timeout(MS(100), bed.sleep(60_000)).await;
    assert!(dropped.is_err());
    tokio::time::sleep(MS(20)).await;
    assert_eq!(given_up.load(Ordering::SeqCst), 1);
}

#[tokio::test(start_paused = true)]
async fn a_nested_call_has_what_is_left_of_the_outer_deadline() {
    let (_a, outer, _) = pair("memory:outer").await;
    let (_b, _inner, _) = pair("memory:inner").await;
    let left = outer
        .with_timeout(MS(1_000))
        .remaining_at("memory:inner".into(), 400)
        .await
        .unwrap()
        .unwrap();
    assert!((580..=601).contains(&left), "{left} ms left");
    let error =
        outer.with_timeout(MS(300)).remaining_at("memory:inner".into(), 400).await.unwrap_err();
    assert!(error.is_timeout());
}

#[tokio::test(start_paused = true)]
async fn a_timeout_longer_than_the_wire_can_say_is_clamped_and_not_an_error() {
    let (_server, bed, _) = pair("memory:clamped").await;
    let left = bed.with_timeout(Duration::MAX).remaining().await.unwrap().unwrap();
    assert!(left > 49 * 24 * 3_600_000 && left <= u64::from(u32::MAX), "{left}");
}

#[tokio::test(start_paused = true)]
async fn no_time_left_is_an_error_before_anything_is_sent() {
    let (_server, bed, _) = pair("memory:zero").await;
    let error = bed.with_timeout(Duration::ZERO).sleep(0).await.unwrap_err();
    assert!(error.is_timeout() && error.is_safe_to_retry(), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_says_on_which_side_of_the_wire_the_call_was() {
    let (server, bed, _) = pair("memory:sides").await;
    let sent = bed.with_timeout(MS(100)).sleep(60_000).await.unwrap_err();
    assert!(
        sent.to_string().contains("sent and not answered") && !sent.is_safe_to_retry(),
        "{sent}"
    );

    let narrow = Client::builder().max_in_flight(1).connect(server.local_uri()).await.unwrap();
    let narrow = SleeperClient::new(narrow);
    let first = tokio::spawn({
        let narrow = narrow.clone();
        async move { narrow.sleep(5_000).await }
    });
    tokio::time::sleep(MS(10)).await;
    let waiting = narrow.with_timeout(MS(100)).sleep(0).await.unwrap_err();
    assert!(
        waiting.to_string().contains("could be sent") && waiting.is_safe_to_retry(),
        "{waiting}"
    );
    first.await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn calls_over_the_limit_wait_for_their_turn() {
    let (server, _, _) = pair("memory:turns").await;
    let client = Client::builder().max_in_flight(2).connect(server.local_uri()).await.unwrap();
    let bed = SleeperClient::new(client);
    let started = Instant::now();
    let calls: Vec<_> = (0..6)
        .map(|_| {
            let bed = bed.clone();
            tokio::spawn(async move { bed.sleep(1_000).await })
        })
        .collect();
    for call in calls {
        call.await.unwrap().unwrap();
    }
    let took = started.elapsed();
    assert!((MS(3_000)..MS(3_100)).contains(&took), "{took:?}: 6 calls of 1 s, two at a time");
}

#[tokio::test(start_paused = true)]
async fn a_drain_finishes_what_is_in_work_and_cuts_off_what_is_over_the_budget() {
    for (milliseconds, answered) in [(5_000, true), (60_000, false)] {
        let (server, bed, _) = pair(&format!("memory:drain-{milliseconds}")).await;
        let call =
            tokio::spawn(async move { bed.with_timeout(MS(120_000)).sleep(milliseconds).await });
        tokio::time::sleep(MS(10)).await;
        let started = Instant::now();
        server.shutdown().await.unwrap();
        let took = started.elapsed();
        let result = call.await.unwrap();
        if answered {
            result.unwrap();
            assert!(took < MS(5_100), "{took:?}");
        } else {
            assert!(result.unwrap_err().is_unavailable());
            assert!((MS(9_990)..MS(10_100)).contains(&took), "{took:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_is_not_polled_does_not_hold_up_the_frames_of_others() {
    let (_server, bed, _) = pair("memory:not-polled").await;
    let waiting = tokio::spawn({
        let bed = bed.clone();
        async move { bed.sleep(500).await }
    });
    tokio::time::sleep(MS(10)).await;
    // Not alone, so it promises to flush when it is polled again; which does not happen.
    let mut held = Box::pin(bed.sleep(0));
    assert!(futures::poll!(&mut held).is_pending());
    let started = Instant::now();
    bed.with_timeout(MS(400)).sleep(0).await.unwrap();
    assert!(started.elapsed() < MS(50), "{:?}", started.elapsed());
    waiting.await.unwrap().unwrap();
    held.await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_call_that_waits_for_its_turn_ends_when_the_provider_says_goodbye() {
    let (server, _, _) = pair("memory:goodbye").await;
    let client = Client::builder().max_in_flight(1).connect(server.local_uri()).await.unwrap();
    let bed = SleeperClient::new(client);
    let sent = tokio::spawn({
        let bed = bed.clone();
        async move { bed.sleep(3_000).await }
    });
    tokio::time::sleep(MS(10)).await;
    let queued = tokio::spawn({
        let bed = bed.clone();
        async move { bed.sleep(0).await }
    });
    tokio::time::sleep(MS(10)).await;
    let started = Instant::now();
    let stopping = tokio::spawn(server.shutdown());
    let error = queued.await.unwrap().unwrap_err();
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
    assert!(started.elapsed() < MS(1_000), "{:?}", started.elapsed());
    sent.await.unwrap().unwrap();
    stopping.await.unwrap().unwrap();
}
