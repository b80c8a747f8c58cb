//! A provider in a process of its own that is killed and started again, stopped and continued,
//! under load: every call ends, and none with what is not its own.
//!
//! The client finds the provider in the file registry. A killed provider's entry goes and its
//! successor's comes within the interval of the registry's watch, 200 ms, and a new entry is
//! connected to at once: so the client is back within a second however long the outage was. Without
//! a registry that would be as its back-off has it.
#![cfg(unix)]
#![allow(missing_docs)]

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use rpc_runtime::{Result, RpcError, Server, rpc_service};
use rpc_tests::process::{self, Process, SAYS};
use rpc_tests::waiting::{soon, within};
use tokio::task::JoinSet;

const FOLDER: &str = "RPC_TESTS_FOLDER";
const BIND: &str = "RPC_TESTS_BIND";

const MS: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
/// What each call may take.
const TIMEOUT: Duration = Duration::from_millis(800);
/// How late a call may find out on a busy machine.
const SLACK: Duration = Duration::from_millis(700);

#[rpc_service(name = "e2e.Ledger")]
trait Ledger {
    /// Writes the number down and returns it.
    async fn record(&self, number: u64) -> Result<u64>;
}

/// Writes to a file that outlives it.
struct Book(File);

impl Ledger for Book {
    async fn record(&self, number: u64) -> Result<u64> {
        // One write each, so that lines of two processes do not mix.
        let written = (&self.0).write_all(format!("{number}\n").as_bytes());
        written.map_err(|error| RpcError::internal(error.to_string()))?;
        // Others are answered at once and overtake it.
        if number.is_multiple_of(3) {
            tokio::time::sleep(5 * MS).await;
        }
        Ok(number)
    }
}

/// The role of a child that serves.
pub(crate) const PROVIDER: &str = "ledger";

/// What the child does.
pub(crate) fn provide() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let folder = process::setting(FOLDER);
        let book = Path::new(&folder).join("book");
        let book = OpenOptions::new().create(true).append(true).open(book).unwrap();
        let server = Server::builder()
            .provide(LedgerServer::new(Book(book)))
            .registry(rpc_registry::connect(registry(Path::new(&folder))).await.unwrap())
            .bind(process::setting(BIND))
            .await
            .unwrap();
        println!("{SAYS} {}", server.local_uri());
        std::future::pending::<()>().await;
    });
}

fn registry(folder: &Path) -> String {
    format!("file://{}/registry", folder.display())
}

fn start(folder: &Path, bind: &str) -> (Process, String) {
    let folder = folder.to_str().unwrap();
    let mut process = Process::start(PROVIDER, &[(FOLDER, folder), (BIND, bind)]);
    let uri = process.says();
    (process, uri)
}

/// What became of a call.
struct Ended {
    number: u64,
    started: Instant,
    took: Duration,
    result: Result<u64>,
}

/// A thousand calls each second until then, and what became of them.
async fn load(ledger: LedgerClient, until: Instant) -> Vec<Ended> {
    let mut calls = JoinSet::new();
    let mut ended = Vec::new();
    let mut tick = tokio::time::interval(10 * MS);
    let mut number = 0;
    while Instant::now() < until {
        tick.tick().await;
        for _ in 0..10 {
            number += 1;
            let (ledger, number) = (ledger.clone(), number);
            calls.spawn(async move {
                let started = Instant::now();
                let result = ledger.record(number).await;
                Ended { number, started, took: started.elapsed(), result }
            });
        }
        while let Some(call) = calls.try_join_next() {
            ended.push(call.unwrap());
        }
    }
    while let Some(call) = soon("the calls' end", calls.join_next()).await {
        ended.push(call.unwrap());
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_dies_or_stops_and_comes_back_loses_and_mixes_up_no_call() {
    const ROUNDS: u32 = 3;
    const ROUND: Duration = Duration::from_secs(10);
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path();
    let (mut provider, uri) = start(folder, "tcp://127.0.0.1:0");
    let registry = rpc_registry::connect(registry(folder)).await.unwrap();
    let ledger = LedgerClient::discover(registry).await.unwrap().with_timeout(TIMEOUT);
    assert_eq!(ledger.record(u64::MAX).await, Ok(u64::MAX));

    let begun = Instant::now();
    let load = tokio::spawn(load(ledger, begun + ROUNDS * ROUND));
    let mut back = Vec::new();
    for round in 0..ROUNDS {
        let at =
            |offset: Duration| tokio::time::sleep_until((begun + ROUND * round + offset).into());
        at(2 * SECOND).await;
        provider.kill();
        provider.ended().await;
        at(3 * SECOND).await;
        provider = start(folder, &uri).0;
        back.push(Instant::now());
        at(6 * SECOND).await;
        provider.signal("-STOP");
        at(8 * SECOND).await;
        provider.signal("-CONT");
        back.push(Instant::now());
    }
    let ended = within(2 * ROUND, "the load", load).await.unwrap();

    let calls = u64::try_from(ended.len()).unwrap();
    assert!(calls > 1_000 * ROUNDS as u64 * ROUND.as_secs() * 9 / 10, "{calls} calls");
    let mut answered = HashSet::new();
    for Ended { number, took, result, .. } in &ended {
        assert!(*took < TIMEOUT + SLACK, "call {number} took {took:?}: {result:?}");
        match result {
            Ok(answer) => assert!(answer == number && answered.insert(*number), "{number}"),
            Err(error) => {
                assert!(error.is_timeout() || error.is_unavailable(), "{number}: {error:?}")
            }
        }
    }
    for (n, back) in back.into_iter().enumerate() {
        let served = |call: &&Ended| call.result.is_ok() && call.started >= back;
        let first = ended.iter().filter(served).map(|call| call.started + call.took).min();
        let took = first.expect("a call after it came back") - back;
        assert!(took < SECOND, "return {n}: the first call was answered {took:?} after it");
    }
    // What the providers saw: nothing twice, and all that they have answered.
    let book = std::fs::read_to_string(folder.join("book")).unwrap();
    let mut recorded = HashSet::new();
    for line in book.lines() {
        assert!(recorded.insert(line.parse::<u64>().unwrap()), "{line} was run twice");
    }
    assert!(answered.is_subset(&recorded), "an answer without a call");
    assert!(answered.len() > ended.len() / 2, "{} of {} answered", answered.len(), ended.len());
}
