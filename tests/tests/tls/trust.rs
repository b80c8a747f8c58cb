//! What a registry cannot make a client do: leave out TLS, or believe another provider than the one
//! that its settings expect.
#![allow(missing_docs)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rcgen::SanType;
use rpc_registry::{Instance, Lease, Registry};
use rpc_runtime::{Client, ClientBuilder, ClientTls, RpcError, Server, ServerTls};
use rpc_tests::authority::{Authority, params};
use rpc_tests::probe::{PROBE_DESCRIPTOR, Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::waiting::soon;
use tokio::io::AsyncReadExt;
use tokio::net::TcpListener;

async fn registry(name: &str) -> Arc<dyn Registry> {
    rpc_registry::connect(format!("memory://{name}")).await.unwrap()
}

/// Says in the registry that the service is there.
async fn announce(registry: &Arc<dyn Registry>, id: &str, uri: &str) -> Lease {
    let instance = Instance::new("e2e.Probe", uri).with_version("1.4.0").with_id(id);
    registry.register(instance).await.unwrap()
}

async fn serve(tls: ServerTls) -> Server {
    let server = Server::builder().provide(ProbeServer::new(Provider::new("tls"))).tls(tls);
    server.bind("tls://127.0.0.1:0").await.unwrap()
}

async fn discover(builder: ClientBuilder, registry: &Arc<dyn Registry>) -> ProbeClient {
    let client = builder.discover(Arc::clone(registry), &PROBE_DESCRIPTOR);
    ProbeClient::new(soon("discovering", client).await.unwrap())
}

async fn refused(builder: ClientBuilder, registry: &Arc<dyn Registry>) -> RpcError {
    let probe = discover(builder, registry).await;
    let error = soon("a call", probe.add(3, 4)).await.unwrap_err();
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error}");
    error
}

fn with(tls: ClientTls) -> ClientBuilder {
    Client::builder().tls(tls)
}

#[track_caller]
fn assert_says(error: &RpcError, what: &str) {
    assert!(error.message().contains(what), "no {what:?} in: {error}");
}

/// Somebody who listens in plain text, and what came to them.
async fn eavesdropper() -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("tcp://{}", listener.local_addr().unwrap());
    let came = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&came);
    tokio::spawn(async move {
        while let Ok((mut stranger, _)) = listener.accept().await {
            came.fetch_add(1, Ordering::SeqCst);
            let mut bytes = [0; 1024];
            while let Ok(n @ 1..) = stranger.read(&mut bytes).await {
                came.fetch_add(n, Ordering::SeqCst);
            }
        }
    });
    (uri, seen)
}

#[tokio::test]
async fn a_registry_cannot_make_a_client_with_tls_settings_send_a_byte_in_plain_text() {
    let authority = Authority::new("root");
    let registry = registry("no-plain-text").await;
    let (uri, seen) = eavesdropper().await;
    let _tcp = announce(&registry, "a", &uri).await;
    let _unix = announce(&registry, "b", "unix:///tmp/of-somebody-else").await;
    let tls = || authority.client().server_name("localhost").unwrap();
    let error = refused(with(tls()), &registry).await;
    assert_says(&error, "2 at addresses of tcp, unix are skipped");
    assert_says(&error, "allow_plaintext()");

    // Beside them a provider that can be trusted gets all calls.
    let server = serve(authority.server()).await;
    let _tls = announce(&registry, "c", server.local_uri()).await;
    // The list that is followed already may be without the new provider for a moment.
    let client = with(tls()).wait_for_ready(true);
    let probe = discover(client, &registry).await.as_ref().with_metadata("authorization", "x");
    let probe = ProbeClient::new(probe);
    for n in 0..20 {
        assert_eq!(soon("a call", probe.add(n, 1)).await, Ok(n + 1));
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0, "something came in plain text");

    // Who asks for it gets it.
    let probe = discover(with(tls()).allow_plaintext(), &registry).await;
    while seen.load(Ordering::SeqCst) == 0 {
        let _ = soon("a call", probe.add(3, 4)).await;
    }
}

#[tokio::test]
async fn a_provider_with_a_certificate_for_another_service_is_not_believed() {
    let authority = Authority::new("root");
    let registry = registry("another-identity").await;
    // Of the same authority, and for the host of its address: but it is not the accounts.
    let stranger = params("stranger", &["orders.internal", "127.0.0.1", "localhost"]);
    let stranger = serve(authority.issue(&stranger).server()).await;
    let _lease = announce(&registry, "a", stranger.local_uri()).await;
    let named = |name: &str| authority.client().server_name(name).unwrap();
    let error = refused(with(named("accounts.internal")), &registry).await;
    assert_says(&error, "is not for \"accounts.internal\", but for ");
    let error = refused(with(named("*.accounts.internal")), &registry).await;
    assert_says(&error, "is not for \"*.accounts.internal\", but for \"orders.internal\"");
    let error = refused(with(named("{service}.internal")), &registry).await;
    assert_says(&error, "is not for \"e2e.Probe.internal\"");
    let uri = authority.client().server_uri("spiffe://example/{service}").unwrap();
    let error = refused(with(uri), &registry).await;
    assert_says(&error, "is not for \"spiffe://example/e2e.Probe\", but for no such name at all");

    // Without an expectation there is no discovery, unless the registry is trusted.
    let client = with(authority.client()).discover(Arc::clone(&registry), &PROBE_DESCRIPTOR);
    let error = client.await.unwrap_err();
    assert!(error.is_invalid(), "{error}");
    assert_says(&error, "trust_registry_names()");
    let probe = discover(with(authority.client().trust_registry_names()), &registry).await;
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
}

#[tokio::test]
async fn a_provider_with_the_expected_identity_is_believed_wherever_it_is() {
    let authority = Authority::new("root");
    let registry = registry("expected-identity").await;
    let mut own = params("accounts", &["e2e.probe.internal", "a.accounts.internal"]);
    let id = "spiffe://example/e2e.Probe".try_into().unwrap();
    own.subject_alt_names.push(SanType::URI(id));
    let server = serve(authority.issue(&own).server()).await;
    let _lease = announce(&registry, "a", server.local_uri()).await;
    let named = |name: &str| authority.client().server_name(name).unwrap();
    let uri = |uri: &str| authority.client().server_uri(uri).unwrap();
    for tls in [
        named("{service}.internal"),
        named("a.accounts.internal"),
        named("*.accounts.internal"),
        uri("spiffe://example/{service}"),
        uri("spiffe://example/*"),
    ] {
        let shown = format!("{tls:?}");
        let probe = discover(with(tls), &registry).await;
        assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7), "{shown}");
    }
    // The address that a user names is expected as it is, and a pattern that needs a service is not.
    let error = with(named("{service}.internal")).connect(server.local_uri()).await.unwrap_err();
    assert!(error.is_invalid(), "{error}");
    // Names of others are not enough, whoever has issued them.
    let other = Authority::new("other");
    let tls = other.client().server_uri("spiffe://example/{service}").unwrap();
    assert_says(&refused(with(tls), &registry).await, "not issued by any of the configured roots");
    let mut two = params("two", &[]);
    for id in ["spiffe://example/e2e.Probe", "spiffe://example/another"] {
        two.subject_alt_names.push(SanType::URI(id.try_into().unwrap()));
    }
    let ambiguous = serve(authority.issue(&two).server()).await;
    let client = with(uri("spiffe://example/e2e.Probe")).connect(ambiguous.local_uri());
    assert_says(&soon("connecting", client).await.unwrap_err(), "is not for \"spiffe://");
}

#[tokio::test]
async fn schemes_that_are_set_are_the_only_ones_that_are_followed() {
    let registry = registry("schemes").await;
    let (uri, seen) = eavesdropper().await;
    let _tcp = announce(&registry, "a", &uri).await;
    let error = refused(Client::builder().schemes(["memory"]), &registry).await;
    assert_says(&error, "1 at addresses of tcp are skipped, because the client's `schemes`");
    let server = Server::builder().provide(ProbeServer::new(Provider::new("memory")));
    let server = server.bind("memory://followed").await.unwrap();
    let _memory = announce(&registry, "b", server.local_uri()).await;
    let client = Client::builder().schemes(["memory"]).wait_for_ready(true);
    let probe = discover(client, &registry).await;
    for _ in 0..10 {
        assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    }
    assert_eq!(seen.load(Ordering::SeqCst), 0);
}
