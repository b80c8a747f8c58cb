//! The program, run as its users run it.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use crate::common::{ids, instance, registry, registry_with, until_listed, until_seen, within};
use rpc_nameserver::NameServersSettings;
use rpc_registry::Registry;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

fn program(args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rpc-nameserver"));
    command.args(args).env_remove("RUST_LOG").stdin(Stdio::null()).kill_on_drop(true);
    command
}

async fn serve() -> (Child, String) {
    let mut command = program(&["--listen", "tcp://127.0.0.1:0", "--grace", "0s"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(lines.next_line()).await.unwrap().unwrap();
    (child, line.strip_prefix("name server at ").unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_of_two_processes_is_killed_and_all_goes_on() {
    let ((mut a, at_a), (_b, at_b)) = (serve().await, serve().await);
    let both = [at_a.as_str(), at_b.as_str()];
    let provider = registry(&both).await;
    let lease = provider.register(instance("a")).await.unwrap();
    let mut watches = Vec::new();
    for _ in 0..6 {
        let consumer = registry(&both).await;
        let mut watch = consumer.watch("svc").await.unwrap();
        until_seen(&mut watch, |it| it.len() == 1).await;
        watches.push((consumer, watch));
    }
    a.kill().await.unwrap();
    let _second = provider.register(instance("b")).await.unwrap();
    for (consumer, watch) in &mut watches {
        until_seen(watch, |it| it.is_current() && ids(it) == ["a", "b"]).await;
        until_listed(consumer, &["a", "b"]).await;
    }
    lease.revoke().await.unwrap();
    for (_, watch) in &mut watches {
        until_seen(watch, |it| ids(it) == ["b"]).await;
    }
}

#[cfg(unix)]
async fn signal(child: &Child, signal: &str) {
    let pid = child.id().unwrap().to_string();
    assert!(Command::new("kill").args([signal, &pid]).status().await.unwrap().success());
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_hangs_holds_nobody_up_and_is_told_all_when_it_goes_on() {
    let ((a, at_a), (_b, at_b)) = (serve().await, serve().await);
    let timeout = Duration::from_millis(1_500);
    let both = async || {
        let settings = NameServersSettings::new([&at_a, &at_b]).with_timeout(timeout);
        registry_with(settings).await
    };
    let provider = both().await;
    let _lease = provider.register(instance("a")).await.unwrap();
    signal(&a, "-STOP").await;
    let begun = Instant::now();
    let _second = provider.register(instance("b")).await.unwrap();
    assert!(begun.elapsed() < 4 * timeout, "{:?}", begun.elapsed());
    for _ in 0..6 {
        let begun = Instant::now();
        let consumer = both().await;
        assert_eq!(ids(&consumer.lookup("svc").await.unwrap()), ["a", "b"]);
        assert!(begun.elapsed() < 4 * timeout, "{:?}", begun.elapsed());
        // It stays with the one that has answered.
        let begun = Instant::now();
        consumer.lookup("svc").await.unwrap();
        assert!(begun.elapsed() < timeout, "{:?}", begun.elapsed());
    }
    signal(&a, "-CONT").await;
    until_listed(&registry(&[&at_a]).await, &["a", "b"]).await;
}

#[cfg(unix)]
#[tokio::test]
async fn it_ends_well_when_it_is_told_to_although_providers_and_consumers_are_connected() {
    for kind in ["-TERM", "-INT"] {
        let (mut child, place) = serve().await;
        let registry = registry(&[&place]).await;
        let _lease = registry.register(instance("a")).await.unwrap();
        let mut watch = registry.watch("svc").await.unwrap();
        until_seen(&mut watch, |it| it.len() == 1).await;
        signal(&child, kind).await;
        let begun = Instant::now();
        assert!(within(child.wait()).await.unwrap().success());
        assert!(begun.elapsed() < Duration::from_secs(5), "they are sent away, not waited for");
        until_seen(&mut watch, |it| !it.is_current()).await;
    }
}

#[tokio::test]
async fn wrong_arguments_are_said() {
    let run = async |args: &[&str]| -> Output { within(program(args).output()).await.unwrap() };
    for (args, mention) in [
        (&["--lisen", "x"][..], "unknown argument \"--lisen\""),
        (&["--listen"], "--listen needs a value"),
        (&["--grace", "1"], "--grace \"1\" is not a duration, such as 35s"),
        (&["--grace-ms", "0"], "--grace-ms is called --grace now"),
        (&["--listen", "127.0.0.1:1"], "did you mean tcp://127.0.0.1:1"),
        (&["--listen", "tcp://0.0.0.0:0"], "or say --insecure"),
        (&["--listen", "tcp://[::]:0"], "or say --insecure"),
        (&["--cert", "x"], "given together"),
        (&["--client-ca", "x"], "given together"),
        (&["--policy", "/nowhere"], "the policy /nowhere"),
    ] {
        let output = run(args).await;
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && error.contains(mention), "{error}");
    }
    let help = run(&["--help"]).await;
    assert!(help.status.success());
    assert!(String::from_utf8_lossy(&help.stdout).contains("--grace"));
    let (mut child, place) = serve().await;
    let taken = run(&["--listen", &place]).await;
    assert!(!taken.status.success());
    child.kill().await.unwrap();
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_reads_its_policy_again_when_it_is_told_to() {
    let policy = tempfile::NamedTempFile::new().unwrap();
    let path = policy.path().to_str().unwrap();
    let write = |services: &str| {
        let text = format!("[anonymous]\nregister = {services}\nread = [\"*\"]");
        std::fs::write(path, text).unwrap();
    };
    write("[]");
    let listen = ["--listen", "tcp://127.0.0.1:0", "--grace", "0s", "--policy", path];
    let mut child = program(&listen).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = within(lines.next_line()).await.unwrap().unwrap();
    let registry = registry(&[line.strip_prefix("name server at ").unwrap()]).await;
    let error = registry.register(instance("a")).await.map(drop).unwrap_err();
    assert!(error.is_permission_denied(), "{error}");
    write("[\"svc\"]");
    signal(&child, "-HUP").await;
    let _lease = within(async {
        loop {
            match registry.register(instance("a")).await {
                Ok(lease) => break lease,
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    })
    .await;
    write("[]");
    signal(&child, "-HUP").await;
    until_listed(&registry, &[]).await;
}
