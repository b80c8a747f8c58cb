//! Providers and consumers in processes of their own, killed, stopped and restarted.
//!
//! The processes are this test program itself, told by the environment to run a role.
#![cfg(unix)]
#![allow(missing_docs)]

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rpc_runtime::Server;
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::process::{self, Process, SAYS};
use rpc_tests::waiting::{soon, until};
use tokio::signal::unix::{SignalKind, signal};

const FOLDER: &str = "RPC_TESTS_FOLDER";
const BIND: &str = "RPC_TESTS_BIND";
const NAME: &str = "RPC_TESTS_NAME";

const SECOND: Duration = Duration::from_secs(1);

/// What the child processes do.
pub(crate) fn play(role: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let folder = process::setting(FOLDER);
    runtime.block_on(async {
        match role {
            "provider" => provide(&folder).await,
            "consumer" => consume(&folder).await,
            "patient" => end_with_patience().await,
            other => panic!("no role {other}"),
        }
    });
}

/// Serves until it is told to terminate.
async fn provide(folder: &str) {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    let server = Server::builder()
        .provide(ProbeServer::new(Provider::new(process::setting(NAME))))
        .registry(rpc_registry::connect(format!("file://{folder}")).await.unwrap())
        .bind(process::setting(BIND))
        .await
        .unwrap();
    println!("{SAYS} {}", server.local_uri());
    server.serve_until(terminate.recv()).await.unwrap();
}

/// Finds a provider by name and calls it.
async fn consume(folder: &str) {
    let registry = rpc_registry::connect(format!("file://{folder}")).await.unwrap();
    let probe = ProbeClient::discover(registry).await.unwrap();
    let name = probe.who().await.unwrap();
    let sum = probe.add(40, 2).await.unwrap();
    println!("{SAYS} {name} says {sum}");
}

/// Serves until it is told to terminate, and says how it ended.
async fn end_with_patience() {
    let mut terminate = signal(SignalKind::terminate()).unwrap();
    // So that it never ends the process by itself.
    let _interrupt = signal(SignalKind::interrupt()).unwrap();
    let server = Server::builder()
        .provide(ProbeServer::new(Provider::new("patient")))
        .drain_timeout(60 * SECOND)
        .bind("tcp://127.0.0.1:0")
        .await
        .unwrap();
    println!("{SAYS} {}", server.local_uri());
    let first = async {
        terminate.recv().await;
        println!("{SAYS} told");
    };
    let error = server.serve_until(first).await.unwrap_err();
    assert!(error.is_cancelled(), "{error:?}");
    println!("{SAYS} {error}");
}

fn start(role: &str, folder: &Path, settings: &[(&str, &str)]) -> Process {
    let folder = (FOLDER, folder.to_str().unwrap());
    Process::start(role, &[&[folder], settings].concat())
}

/// A provider that serves, and its URI.
fn start_provider(name: &str, folder: &Path, bind: &str) -> (Process, String) {
    let mut process = start("provider", folder, &[(NAME, name), (BIND, bind)]);
    let uri = process.says();
    (process, uri)
}

async fn discover(folder: &Path) -> ProbeClient {
    let registry = rpc_registry::connect(format!("file://{}", folder.display())).await.unwrap();
    ProbeClient::discover(registry).await.unwrap().with_timeout(30 * SECOND)
}

/// Waits until this provider answers a call.
async fn until_called(probe: &ProbeClient, name: &str) {
    soon("the provider gets calls", async {
        while probe.who().await.as_deref() != Ok(name) {
            tokio::time::sleep(SECOND / 200).await;
        }
    })
    .await;
}

const ANY_PORT: &str = "tcp://127.0.0.1:0";

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_finds_a_provider_of_another_process_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let (_provider, _) = start_provider("far away", dir.path(), ANY_PORT);
    let mut consumer = start("consumer", dir.path(), &[]);
    assert_eq!(consumer.says(), "far away says 42");
    assert!(consumer.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_provider_is_killed_its_callers_hear_at_once_and_the_next_calls_go_elsewhere() {
    const CALLS: usize = 200;
    let dir = tempfile::tempdir().unwrap();
    let (mut doomed, uri) = start_provider("doomed", dir.path(), ANY_PORT);
    let probe = discover(dir.path()).await;
    let calls: Vec<_> = (0..CALLS)
        .map(|_| {
            let probe = probe.clone();
            tokio::spawn(async move {
                let result = probe.wait().await;
                (result, Instant::now())
            })
        })
        .collect();
    soon("all calls are in work", async {
        while probe.waiting().await.unwrap() < CALLS {
            tokio::time::sleep(SECOND / 1000).await;
        }
    })
    .await;
    let (_other, _) = start_provider("other", dir.path(), ANY_PORT);
    until_called(&probe, "other").await;

    doomed.kill();
    let killed = Instant::now();
    let mut ends = Vec::new();
    for call in calls {
        let (result, at) = soon("a caller's end", call).await.unwrap();
        let error = result.unwrap_err();
        assert!(error.is_unavailable() && !error.is_safe_to_retry(), "{error:?}");
        assert!(error.to_string().contains(&uri), "{error}");
        ends.push(at.saturating_duration_since(killed));
    }
    let (first, last) = (*ends.iter().min().unwrap(), *ends.iter().max().unwrap());
    assert!(
        first < SECOND && last - first <= SECOND / 10,
        "after the kill the first caller heard in {first:?}, the last in {last:?}"
    );
    for _ in 0..50 {
        assert_eq!(soon("the next call", probe.who()).await.as_deref(), Ok("other"));
    }
    assert!(!doomed.ended().await.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_back_when_its_provider_is_restarted_on_the_same_port() {
    let dir = tempfile::tempdir().unwrap();
    let (mut provider, uri) = start_provider("first", dir.path(), ANY_PORT);
    let by_uri = ProbeClient::connect(&uri).await.unwrap();
    let by_name = discover(dir.path()).await;
    for (round, name) in ["second", "third", "fourth"].into_iter().enumerate() {
        assert!(by_uri.who().await.is_ok() && by_name.who().await.is_ok());
        if round == 1 {
            provider.signal("-TERM");
        } else {
            provider.kill();
        }
        provider.ended().await;
        for probe in [&by_uri, &by_name] {
            let error = soon("a call to nobody", probe.who()).await.unwrap_err();
            assert!(error.is_unavailable(), "{error:?}");
        }
        let (restarted, again) = start_provider(name, dir.path(), &uri);
        assert_eq!(again, uri);
        provider = restarted;
        until_called(&by_uri, name).await;
        until_called(&by_name, name).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_that_is_terminated_answers_what_is_in_work_and_new_calls_go_elsewhere() {
    const CALLS: usize = 100;
    let dir = tempfile::tempdir().unwrap();
    let (mut leaving, _) = start_provider("leaving", dir.path(), ANY_PORT);
    let probe = discover(dir.path()).await;
    assert_eq!(probe.who().await.as_deref(), Ok("leaving"));
    let in_work: Vec<_> = (0..CALLS)
        .map(|_| {
            let probe = probe.clone();
            tokio::spawn(async move { probe.sleep(1_500).await })
        })
        .collect();
    soon("all calls are in work", async {
        while probe.waiting().await.unwrap() < CALLS {
            tokio::time::sleep(SECOND / 1000).await;
        }
    })
    .await;
    let (_staying, _) = start_provider("staying", dir.path(), ANY_PORT);
    until_called(&probe, "staying").await;

    // Others go on calling all along, and none of their calls fails.
    let (stop, calls) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
    let callers: Vec<_> = (0..4)
        .map(|_| {
            let (probe, stop, calls) = (probe.clone(), Arc::clone(&stop), Arc::clone(&calls));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    probe.who().await.unwrap();
                    calls.fetch_add(1, Ordering::Relaxed);
                    tokio::time::sleep(SECOND / 1000).await;
                }
            })
        })
        .collect();
    until("they call", || calls.load(Ordering::Relaxed) > 20).await;
    leaving.signal("-TERM");
    for call in in_work {
        assert_eq!(soon("a call in work", call).await.unwrap(), Ok(1_500));
    }
    assert!(leaving.ended().await.success(), "the provider did not end in order");
    let so_far = calls.load(Ordering::Relaxed);
    until("they go on calling", || calls.load(Ordering::Relaxed) > so_far + 20).await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        soon("the caller's end", caller).await.expect("no call fails");
    }
    for _ in 0..20 {
        assert_eq!(probe.who().await.as_deref(), Ok("staying"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_a_server_at_once_and_it_says_what_was_cut_off() {
    for second in ["-TERM", "-INT"] {
        let folder = tempfile::tempdir().unwrap();
        let mut process = start("patient", folder.path(), &[]);
        let probe = ProbeClient::connect(process.says()).await.unwrap().with_timeout(60 * SECOND);
        let calls: Vec<_> = (0..3)
            .map(|_| {
                let probe = probe.clone();
                tokio::spawn(async move { probe.wait().await })
            })
            .collect();
        soon("they are in work", async { while probe.waiting().await.unwrap() < 3 {} }).await;
        process.signal("-TERM");
        assert_eq!(process.says(), "told");
        tokio::time::sleep(SECOND / 5).await;
        assert!(!process.has_ended(), "the first signal is a request");
        assert!(!calls.iter().any(|call| call.is_finished()), "the calls go on");
        let started = Instant::now();
        process.signal(second);
        let said = process.says();
        assert!(process.ended().await.success());
        assert!(started.elapsed() < 10 * SECOND, "{:?}", started.elapsed());
        assert!(said.contains("requests cut off: 3, connections: 1"), "{said}");
        for call in calls {
            let error = soon("a call that was cut off", call).await.unwrap().unwrap_err();
            assert!(error.is_unavailable() && !error.is_safe_to_retry(), "{error:?}");
        }
    }
}
