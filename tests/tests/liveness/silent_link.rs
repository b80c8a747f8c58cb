//! A link on which packets vanish: nobody is told, no reset comes.
//!
//! The test runs itself again in a network namespace of its own and takes the loopback device down
//! there. Where that is not permitted, it says so and does nothing.
#![allow(missing_docs)]
#![cfg(target_os = "linux")]

use std::process::Command;
use std::time::{Duration, Instant};

use rpc_runtime::{Client, Heartbeat, Server};
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::waiting::{soon, within};

const NAME: &str =
    "silent_link::a_link_that_goes_silent_is_found_within_the_timeout_and_fails_its_calls";
const INSIDE: &str = "RPC_TESTS_IN_NAMESPACE";
const INTERVAL: Duration = Duration::from_millis(300);
const TIMEOUT: Duration = Duration::from_millis(900);

fn run(program: &str, arguments: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(arguments).output();
    let output = output.map_err(|error| format!("{program} cannot be run: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim())),
    }
}

#[test]
fn a_link_that_goes_silent_is_found_within_the_timeout_and_fails_its_calls() {
    if std::env::var_os(INSIDE).is_some() {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        return runtime.block_on(inside());
    }
    let possible = run("unshare", &["-rn", "ip", "link", "set", "lo", "up"]);
    if let Err(reason) = possible {
        println!("skipped: no network namespace can be made here: {reason}");
        return;
    }
    let inside = Command::new("unshare")
        .arg("-rn")
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", NAME, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&inside.stdout);
    let complained = String::from_utf8_lossy(&inside.stderr);
    assert!(inside.status.success() && said.contains("1 passed"), "{said}\n{complained}");
}

async fn inside() {
    run("ip", &["link", "set", "lo", "up"]).unwrap();
    let heartbeat = Heartbeat::default().interval(INTERVAL).timeout(TIMEOUT);
    let server = Server::builder()
        .provide(ProbeServer::new(Provider::new("far")))
        .heartbeat(heartbeat)
        .bind("tcp://127.0.0.1:0")
        .await
        .unwrap();
    let client = Client::builder()
        .heartbeat(heartbeat)
        .timeout(Duration::from_secs(60))
        .connect(server.local_uri())
        .await
        .unwrap();
    let probe = ProbeClient::new(client);
    assert_eq!(soon("the first answer", probe.add(1, 2)).await, Ok(3));
    let waiting = tokio::spawn({
        let probe = probe.clone();
        async move { (probe.wait().await, Instant::now()) }
    });
    // Longer than the timeout: heartbeats keep a healthy link.
    tokio::time::sleep(2 * TIMEOUT).await;
    assert!(!waiting.is_finished());

    run("ip", &["link", "set", "lo", "down"]).unwrap();
    let silent_since = Instant::now();
    let (outcome, found_at) =
        within(TIMEOUT + Duration::from_secs(5), "the end of the call", waiting).await.unwrap();
    let error = outcome.unwrap_err();
    assert!(error.is_unavailable() && !error.is_safe_to_retry(), "{error}");
    assert!(error.message().contains("nothing was read"), "{error}");
    let took = found_at.duration_since(silent_since);
    // The last sign of life may have come right before.
    assert!(took < TIMEOUT + Duration::from_millis(400), "found after {took:?}");

    run("ip", &["link", "set", "lo", "up"]).unwrap();
    let patient = probe.with_timeout(Duration::from_secs(10));
    let back = async {
        loop {
            match patient.add(2, 3).await {
                Ok(sum) => return sum,
                Err(error) => assert!(error.is_safe_to_retry(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    assert_eq!(within(Duration::from_secs(20), "the link to be back", back).await, 5);
}
