//! What users get wrong: each mistake is one clear error, in bounded time, and nothing else breaks.
#![allow(missing_docs)]

use std::future::Future;
use std::time::{Duration, Instant};

use rpc_runtime::{Client, Result, RpcError, Server, rpc_service};
use rpc_tests::probe::{
    Nested, PROBE_DESCRIPTOR, Probe, ProbeClient, ProbeServer, Provider, serve,
};
use rpc_tests::waiting::soon;

const SECOND: Duration = Duration::from_secs(1);

/// The same service as the probe by name and version, with one method more.
#[rpc_service(name = "e2e.Probe", version = "1.9.0")]
pub trait NewerProbe {
    async fn add(&self, a: i64, b: i64) -> Result<i64>;
    async fn multiply(&self, a: i64, b: i64) -> Result<i64>;
}

/// The same service in a version that does not fit.
#[rpc_service(name = "e2e.Probe", version = "2.0.0")]
pub trait NextProbe {
    async fn add(&self, a: i64, b: i64) -> Result<i64>;
}

/// The same service in another group.
#[rpc_service(name = "e2e.Probe", version = "1.4.0", group = "blue")]
pub trait BlueProbe {
    async fn add(&self, a: i64, b: i64) -> Result<i64>;
}

/// A service that nobody provides.
#[rpc_service(name = "e2e.Absent")]
pub trait Absent {
    async fn anything(&self) -> Result<()>;
}

/// The same service, whose argument became another type.
#[rpc_service(name = "e2e.Probe", version = "1.5.0")]
pub trait ChangedProbe {
    async fn add(&self, a: String, b: i64) -> Result<i64>;
    async fn who(&self) -> Result<u64>;
}

/// The error of something that must fail, and quickly.
async fn refused<T>(what: &str, attempt: impl Future<Output = Result<T>>) -> RpcError {
    let started = Instant::now();
    let Err(error) = soon(what, attempt).await else { panic!("{what}: succeeded") };
    assert!(started.elapsed() < 4 * SECOND, "{what} took {:?}", started.elapsed());
    error
}

fn says(error: &RpcError, words: &[&str]) {
    let text = error.to_string();
    for word in words {
        assert!(text.contains(word), "{word:?} is not in: {text}");
    }
}

fn provider() -> ProbeServer<Provider> {
    ProbeServer::new(Provider::new("probe"))
}

// ---- addresses -------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_uri_is_shown_with_what_is_wrong_and_what_would_be_right() {
    for bad in [
        "",
        "localhost",
        "127.0.0.1:9000",
        "tcp:",
        "tcp://",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:",
        "tcp://:9000",
        "tcp://127.0.0.1:port",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:-1",
        "TCP://127.0.0.1:9000",
        "tcp://127.0.0.1:9000 ",
        " tcp://127.0.0.1:9000",
        "tcp://127.0.0.1:90\n00",
    ] {
        let connecting = refused(bad, ProbeClient::connect(bad)).await;
        let binding = refused(bad, Server::builder().provide(provider()).bind(bad)).await;
        for error in [connecting, binding] {
            assert!(error.is_invalid(), "{bad:?}: {error:?}");
            // An error is one line, whatever it shows.
            says(&error, &[&bad.replace('\n', "\\n"), "tcp://"]);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_scheme_is_answered_with_the_known_ones() {
    for bad in ["http://127.0.0.1:9000", "tpc://127.0.0.1:9000", "file:///tmp/x"] {
        let scheme = bad.split(':').next().unwrap();
        let connecting = refused(bad, ProbeClient::connect(bad)).await;
        let binding = refused(bad, Server::builder().provide(provider()).bind(bad)).await;
        for error in [connecting, binding] {
            assert!(error.is_invalid(), "{error:?}");
            says(&error, &[&format!("`{scheme}`"), "tcp://", "memory:"]);
        }
        // Registries have other schemes, and another error type.
        if scheme != "file" {
            let Err(error) = rpc_registry::connect(bad).await else { panic!("{bad}") };
            assert!(error.to_string().contains(scheme), "{error}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_does_not_exist_is_unavailable() {
    let uri = "tcp://no-such-host.invalid:9000";
    let error = refused("an unknown host", ProbeClient::connect(uri)).await;
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
    says(&error, &[uri, "cannot connect"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named_and_its_owner_is_not_disturbed() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let uri = server.local_uri().to_owned();
    let error = refused("binding", Server::builder().provide(provider()).bind(&uri)).await;
    assert!(error.is_unavailable(), "{error:?}");
    says(&error, &[&uri, "in use"]);
    assert_eq!(ProbeClient::connect(&uri).await.unwrap().add(1, 2).await, Ok(3));

    let (_memory, _) = serve("memory:bad-input-in-use").await;
    let error = refused("binding", Server::builder().bind("memory:bad-input-in-use")).await;
    assert!(error.is_unavailable(), "{error:?}");
    says(&error, &["memory:bad-input-in-use", "in use"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn where_nobody_listens_connecting_fails_at_once_and_may_be_tried_again() {
    let vacant = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        format!("tcp://{}", listener.local_addr().unwrap())
    };
    for uri in [vacant.as_str(), "memory:bad-input-nobody"] {
        let started = Instant::now();
        let error = refused("connecting", ProbeClient::connect(uri)).await;
        assert!(started.elapsed() < 2 * SECOND, "{:?}", started.elapsed());
        assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
        says(&error, &[uri, "cannot connect"]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_that_swallows_everything_is_given_up_within_the_connect_timeout() {
    // A listener whose queue is full: the kernel drops further attempts without an answer.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let full = socket.listen(1).unwrap();
    let address = full.local_addr().unwrap();
    let mut waiting = Vec::new();
    loop {
        let attempt = tokio::net::TcpStream::connect(address);
        match tokio::time::timeout(SECOND / 5, attempt).await {
            Ok(stream) => waiting.push(stream.unwrap()),
            Err(_) => break,
        }
    }
    let builder = Client::builder().connect_timeout(SECOND / 2);
    let error = refused("connecting", builder.connect(format!("tcp://{address}"))).await;
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
    says(&error, &["500ms", &address.to_string()]);
}

// ---- registries ------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_folder_that_cannot_be_made_is_named() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let folder = format!("{}/below", file.path().display());
    let attempt = async {
        let registry =
            rpc_registry::connect(format!("file://{folder}")).await.map_err(|error| {
                assert!(error.to_string().contains(&folder), "{error}");
                RpcError::unavailable(error.to_string())
            })?;
        Server::builder().provide(provider()).registry(registry).bind("tcp://127.0.0.1:0").await
    };
    let error = refused("announcing", attempt).await;
    assert!(error.is_unavailable(), "{error:?}");
    says(&error, &[&folder]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_whose_announcement_fails_does_not_stay_up_unannounced() {
    let dir = tempfile::tempdir().unwrap();
    let registry = rpc_registry::connect(format!("file://{}", dir.path().display())).await.unwrap();
    drop(dir.close());
    std::fs::write(registry.uri().to_string().trim_start_matches("file://"), "a file").unwrap();
    let (vacant, path) = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        (format!("tcp://{}", listener.local_addr().unwrap()), registry.uri().to_string())
    };
    let server = Server::builder().provide(provider()).registry(registry).bind(&vacant);
    let error = refused("binding", server).await;
    std::fs::remove_file(path.trim_start_matches("file://")).unwrap();
    assert!(error.is_unavailable(), "{error:?}");
    says(&error, &["e2e.Probe", &path]);
    soon("the port is free again", async {
        while Server::builder().bind(&vacant).await.is_err() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_addresses_of_the_machine_cannot_be_announced_without_saying_which() {
    for (name, uri) in [("v4", "tcp://0.0.0.0:0"), ("v6", "tcp://[::]:0")] {
        let registry = rpc_registry::connect(format!("memory:bad-input-{name}")).await.unwrap();
        let server = || Server::builder().provide(provider()).registry(registry.clone());
        let attempt = server().bind(uri);
        let error = match soon("binding", attempt).await {
            Ok(server) => panic!("announced {}", server.local_uri()),
            // A machine without IPv6 can't get that far.
            Err(error) if name == "v6" && error.is_unavailable() => continue,
            Err(error) => error,
        };
        assert!(error.is_invalid(), "{error:?}");
        says(&error, &["advertise"]);
        assert!(registry.lookup("e2e.Probe").await.unwrap().is_empty());

        let named = server().advertise("tcp://provider.example:9000").bind(uri).await.unwrap();
        let found = registry.lookup("e2e.Probe").await.unwrap();
        assert_eq!(found[0].uri(), "tcp://provider.example:9000");
        drop(named);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_nobody_has_registered_is_unavailable_until_somebody_does() {
    let registry = rpc_registry::connect("memory:bad-input-nobody").await.unwrap();
    let probe = ProbeClient::discover(registry.clone()).await.unwrap();
    let error = refused("the call", probe.add(1, 2)).await;
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error:?}");
    says(&error, &["e2e.Probe", "memory:bad-input-nobody"]);

    let server = Server::builder().provide(provider()).registry(registry);
    let _server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    soon("the provider is found", async {
        while probe.add(1, 2).await != Ok(3) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

// ---- contracts that do not go together -------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_service_is_answered_with_the_ones_that_there_are() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let absent = AbsentClient::connect(server.local_uri()).await.unwrap();
    let error = refused("the call", absent.anything()).await;
    assert!(error.is_not_found() && error.is_safe_to_retry(), "{error:?}");
    says(&error, &["e2e.Absent/anything", "e2e.Probe", server.local_uri()]);
    assert_eq!(seen.started(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_method_of_a_known_service_is_named_and_the_others_work() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let newer = NewerProbeClient::connect(server.local_uri()).await.unwrap();
    let error = refused("the call", newer.multiply(6, 7)).await;
    assert!(error.is_not_found() && error.is_safe_to_retry(), "{error:?}");
    says(&error, &["e2e.Probe/multiply", "no method `multiply`", server.local_uri()]);
    assert_eq!(newer.add(1, 2).await, Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_does_not_fit_is_reported_with_both_versions() {
    let registry = rpc_registry::connect("memory:bad-input-versions").await.unwrap();
    let server = Server::builder().provide(provider()).registry(registry.clone());
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let theirs = PROBE_DESCRIPTOR.key().version();

    let by_uri = NextProbeClient::connect(server.local_uri()).await.unwrap();
    let error = refused("the call by URI", by_uri.add(1, 2)).await;
    assert!(error.is_not_found() && error.is_safe_to_retry(), "{error:?}");
    says(&error, &["version mismatch", "2.0.0", theirs, server.local_uri()]);

    let by_name = NextProbeClient::discover(registry.clone()).await.unwrap();
    let error = refused("the call by name", by_name.add(1, 2)).await;
    assert!(error.is_not_found() && error.is_safe_to_retry(), "{error:?}");
    says(&error, &["version mismatch", "2.0.0", theirs, "memory:bad-input-versions"]);

    let blue = BlueProbeClient::discover(registry).await.unwrap();
    let error = refused("the call to another group", blue.add(1, 2)).await;
    says(&error, &["blue", theirs]);
    let blue = BlueProbeClient::connect(server.local_uri()).await.unwrap();
    let error = refused("the call to another group", blue.add(1, 2)).await;
    assert!(error.is_not_found(), "{error:?}");
    says(&error, &["blue", theirs]);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_major_versions_share_a_listener_and_each_client_finds_its_own() {
    struct Next;
    impl NextProbe for Next {
        async fn add(&self, a: i64, b: i64) -> Result<i64> {
            Ok(100 + a + b)
        }
    }
    let server = Server::builder().provide(provider()).provide(NextProbeServer::new(Next));
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let old = ProbeClient::connect(server.local_uri()).await.unwrap();
    let new = NextProbeClient::connect(server.local_uri()).await.unwrap();
    assert_eq!((old.add(1, 2).await, new.add(1, 2).await), (Ok(3), Ok(103)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_signature_is_a_decode_error_that_names_what_changed() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let changed = ChangedProbeClient::connect(server.local_uri()).await.unwrap();
    let error = refused("the call", changed.add("one".into(), 2)).await;
    assert!(error.is_decode() && error.is_safe_to_retry(), "{error:?}");
    says(&error, &["e2e.Probe/add", "argument `a: i64`"]);
    assert_eq!(seen.started(), 0);
    let error = refused("the call", changed.who()).await;
    assert!(error.is_decode() && !error.is_safe_to_retry(), "{error:?}");
    says(&error, &["e2e.Probe/who", "the answer does not decode"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_service_provided_twice_is_refused_before_anything_is_bound() {
    let registry = rpc_registry::connect("memory:bad-input-twice").await.unwrap();
    let server = Server::builder().provide(provider()).provide(provider());
    let error = refused("binding", server.registry(registry.clone()).bind("memory:twice")).await;
    assert!(error.is_invalid(), "{error:?}");
    says(&error, &["e2e.Probe", "twice"]);
    assert!(registry.lookup("e2e.Probe").await.unwrap().is_empty());
    let error = refused("connecting", ProbeClient::connect("memory:twice")).await;
    assert!(error.is_unavailable(), "{error:?}");
}

// ---- sizes -----------------------------------------------------------------------------------

/// A server and a client with these payload limits.
async fn limited(server: usize, client: usize) -> (Server, ProbeClient) {
    let server = Server::builder().provide(provider()).max_payload(server);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let client = Client::builder().max_payload(client).connect(server.local_uri()).await.unwrap();
    (server, ProbeClient::new(client))
}

const DEFAULT: usize = 8 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn arguments_over_the_limit_of_either_side_fail_their_call_only() {
    for (server_limit, client_limit) in [(DEFAULT, DEFAULT), (1_000, DEFAULT), (DEFAULT, 1_000)] {
        let limit = server_limit.min(client_limit);
        let (server, probe) = limited(server_limit, client_limit).await;
        // The first of them may leave before the server has told its limit.
        for _ in 0..3 {
            let text = "x".repeat(limit + 1);
            let (long, short) =
                soon("both calls", async { tokio::join!(probe.echo(text), probe.add(1, 2)) }).await;
            let error = long.unwrap_err();
            assert!(error.is_too_large() && error.is_safe_to_retry(), "{error:?}");
            // The array and the string have headers of their own: 3 bytes here, 6 there.
            let size = limit + 1 + if limit > 65_535 { 6 } else { 4 };
            says(&error, &["e2e.Probe/echo", server.local_uri()]);
            says(&error, &[&format!("{limit} bytes"), &format!("{size} bytes")]);
            assert_eq!(short, Ok(3));
        }
        let most = "x".repeat(limit - 100);
        assert_eq!(
            soon("the next call", probe.echo(most.clone())).await.unwrap().len(),
            most.len()
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_over_the_limit_of_either_side_fails_its_call_only() {
    for (server_limit, client_limit) in [(DEFAULT, DEFAULT), (1_000, DEFAULT), (DEFAULT, 1_000)] {
        let limit = server_limit.min(client_limit);
        let (server, probe) = limited(server_limit, client_limit).await;
        for _ in 0..3 {
            let (long, short) =
                soon("both calls", async { tokio::join!(probe.make(limit + 1), probe.add(1, 2)) })
                    .await;
            let error = long.unwrap_err();
            assert!(error.is_too_large(), "{error:?}");
            assert!(!error.is_safe_to_retry(), "the method did run: {error:?}");
            let size = limit + 1 + if limit > 65_535 { 5 } else { 3 };
            says(&error, &["e2e.Probe/make", server.local_uri()]);
            says(&error, &[&format!("{limit} bytes"), &format!("{size} bytes")]);
            assert_eq!(short, Ok(3));
        }
        let most = limit - 100;
        assert_eq!(soon("the next call", probe.make(most)).await.unwrap().len(), most);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_over_its_limit_fails_the_call_before_it_is_sent() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    let one = probe.with_metadata("tenant", "x".repeat(17 << 10));
    let many = (0..2_000)
        .fold(probe.clone(), |probe, n| probe.with_metadata(format!("key-{n}"), "a value"));
    for stub in [one, many] {
        let error = refused("the call", stub.add(1, 2)).await;
        assert!(error.is_too_large() && error.is_safe_to_retry(), "{error:?}");
        says(&error, &["metadata", "16384 bytes", "e2e.Probe/add"]);
    }
    assert_eq!(seen.started(), 0);
    assert_eq!(probe.with_metadata("tenant", "x".repeat(16_000)).add(1, 2).await, Ok(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn arguments_nested_without_end_are_an_error_and_no_overflow_of_the_stack() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    let nested = |depth| {
        (0..depth).fold(Nested::default(), |inner, _| Nested { inner: Some(Box::new(inner)) })
    };
    assert_eq!(probe.depth(nested(20)).await, Ok(20));
    let error = refused("the call", probe.depth(nested(500))).await;
    assert!(error.is_decode(), "{error:?}");
    says(&error, &["e2e.Probe/depth", "argument `value: Nested`", "depth"]);
    assert_eq!(probe.add(1, 2).await, Ok(3));
}

// ---- times -----------------------------------------------------------------------------------

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_of_zero_is_over_before_anything_is_sent() {
    let (server, seen) = serve("tcp://127.0.0.1:0").await;
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    let error = refused("the call", probe.with_timeout(Duration::ZERO).add(1, 2)).await;
    assert!(error.is_timeout() && error.is_safe_to_retry(), "{error:?}");
    says(&error, &["e2e.Probe/add", "before the request could be sent"]);
    let error = refused("the note", probe.with_timeout(Duration::ZERO).note("late".into())).await;
    assert!(error.is_timeout(), "{error:?}");
    assert_eq!(probe.add(1, 2).await, Ok(3));
    assert_eq!((seen.started(), seen.notes()), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_without_end_counts_as_the_longest_there_is() {
    let (server, _) = serve("tcp://127.0.0.1:0").await;
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    for timeout in [Duration::MAX, Duration::from_secs(u64::MAX), 10_000_000 * SECOND] {
        let probe = probe.with_timeout(timeout);
        assert_eq!(probe.sleep(20).await, Ok(20));
        let left = probe.remaining().await.unwrap().unwrap();
        let longest = u64::from(u32::MAX);
        assert!((longest - 60_000..=longest).contains(&left), "{left} ms");
    }
    let client = Client::builder()
        .timeout(Duration::MAX)
        .connect_timeout(Duration::MAX)
        .connect(server.local_uri())
        .await
        .unwrap();
    assert_eq!(ProbeClient::new(client).sleep(20).await, Ok(20));

    let idle = Server::builder().provide(provider()).drain_timeout(Duration::MAX);
    let idle = idle.bind("tcp://127.0.0.1:0").await.unwrap();
    soon("shutdown", idle.shutdown()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_of_zero_do_not_stop_everything() {
    let server = Server::builder().provide(provider()).max_concurrent_requests(0);
    let server = server.bind("tcp://127.0.0.1:0").await.unwrap();
    let client = Client::builder().max_in_flight(0).connect(server.local_uri()).await.unwrap();
    let probe = ProbeClient::new(client);
    assert_eq!(soon("the call", probe.add(1, 2)).await, Ok(3));
    assert_eq!(soon("the call", probe.sleep(1)).await, Ok(1));
}
