//! Servers and clients that know each other by certificates.
#![allow(missing_docs)]

use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rcgen::{DnType, SanType, date_time_ymd};
use rpc_runtime::{
    Blob, Client, ClientTls, Context, Result, RpcError, Server, ServerTls, rpc_service,
};
use rpc_tests::authority::{Authority, params};
use rpc_tests::probe::{PROBE_DESCRIPTOR, Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::random::Random;
use rpc_tests::waiting::{soon, until};
use rpc_tests::wire::RawServer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

async fn serve(tls: ServerTls) -> Server {
    let builder = Server::builder().provide(ProbeServer::new(Provider::new("tls"))).tls(tls);
    builder.bind("tls://127.0.0.1:0").await.unwrap()
}

async fn connect(tls: ClientTls, uri: &str) -> Result<ProbeClient> {
    let client = soon("connecting", Client::builder().tls(tls).connect(uri)).await?;
    Ok(ProbeClient::new(client))
}

/// Why there is no connection.
async fn refused(tls: ClientTls, uri: &str) -> RpcError {
    let error = connect(tls, uri).await.map(drop).expect_err("it was not refused");
    assert!(error.is_unavailable() && error.is_safe_to_retry(), "{error}");
    error
}

#[track_caller]
fn assert_says(error: &RpcError, what: &str) {
    assert!(error.message().contains(what), "no {what:?} in: {error}");
}

/// Passes bytes on in both directions, through sockets with the smallest buffers there are.
struct Relay {
    address: SocketAddr,
    cut: Arc<AtomicBool>,
    flip: Arc<AtomicBool>,
}

impl Relay {
    async fn start(server: &Server) -> Self {
        let target: SocketAddr =
            server.local_uri().strip_prefix("tls://").unwrap().parse().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(8192).unwrap();
        socket.set_send_buffer_size(8192).unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(16).unwrap();
        let relay = Self {
            address: listener.local_addr().unwrap(),
            cut: Arc::default(),
            flip: Arc::default(),
        };
        let (cut, flip) = (Arc::clone(&relay.cut), Arc::clone(&relay.flip));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let socket = TcpSocket::new_v4().unwrap();
                socket.set_recv_buffer_size(8192).unwrap();
                socket.set_send_buffer_size(8192).unwrap();
                let Ok(server) = socket.connect(target).await else { return };
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                let (cut, flip) = (Arc::clone(&cut), Arc::clone(&flip));
                tokio::spawn(pass(from_client, to_server, Arc::default(), Arc::default()));
                tokio::spawn(pass(from_server, to_client, cut, flip));
            }
        });
        relay
    }

    fn uri(&self) -> String {
        format!("tls://{}", self.address)
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    cut: Arc<AtomicBool>,
    flip: Arc<AtomicBool>,
) {
    let mut bytes = [0; 4096];
    while let Ok(read) = from.read(&mut bytes).await {
        if read == 0 || cut.load(Ordering::SeqCst) {
            return;
        }
        if flip.swap(false, Ordering::SeqCst) {
            bytes[read - 1] ^= 1;
        }
        if to.write_all(&bytes[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_payloads_go_both_ways_at_once_through_small_buffers() {
    let authority = Authority::new("root");
    let server = serve(authority.server()).await;
    let relay = Relay::start(&server).await;
    for uri in [relay.uri(), server.local_uri().to_owned()] {
        let probe = connect(authority.client(), &uri).await.unwrap();
        let calls = (0..24_u8).map(|n| {
            let probe = probe.clone();
            let size = [1, 100, 16_383, 16_384, 70_000, 600_000][usize::from(n) % 6];
            tokio::spawn(async move {
                let text = char::from(b'a' + n).to_string().repeat(size);
                assert_eq!(probe.echo(text.clone()).await.unwrap(), text);
                let blob = Blob::from(vec![n; size]);
                let (before, back, behind) =
                    probe.blob("before".into(), blob.clone(), "behind".into()).await.unwrap();
                assert_eq!((&*before, &back, &*behind), ("before", &blob, "behind"));
            })
        });
        for call in calls.collect::<Vec<_>>() {
            rpc_tests::waiting::within(Duration::from_secs(30), "the calls", call).await.unwrap();
        }
    }
    soon("shutting down", server.shutdown()).await.unwrap();
}

#[rpc_service]
trait Whose {
    /// Subject, DNS names, URIs and size of the caller's certificate.
    async fn certificate(&self) -> Result<Option<(String, Vec<String>, Vec<String>, usize)>>;
}

struct Told;

impl Whose for Told {
    async fn certificate(&self) -> Result<Option<(String, Vec<String>, Vec<String>, usize)>> {
        Ok(Context::current().peer_certificate().map(|certificate| {
            (
                certificate.subject().to_owned(),
                certificate.dns_names().to_vec(),
                certificate.uris().to_vec(),
                certificate.der().len(),
            )
        }))
    }
}

#[tokio::test]
async fn both_ends_know_each_other_by_their_certificates() {
    let authority = Authority::new("root");
    let mut caller = params("orders, Inc.", &["orders.example"]);
    caller.distinguished_name.push(DnType::OrganizationName, "Example");
    let spiffe = "spiffe://example/orders";
    caller.subject_alt_names.push(SanType::URI(spiffe.try_into().unwrap()));
    let caller = authority.issue(&caller);
    let tls = authority.server().client_roots_pem(authority.roots().as_bytes()).unwrap();
    let server = Server::builder().provide(WhoseServer::new(Told)).tls(tls);
    let server = server.bind("tls://127.0.0.1:0").await.unwrap();
    let client = Client::builder().tls(caller.of(authority.client()));
    let client = soon("connecting", client.connect(server.local_uri())).await.unwrap();
    let whose = WhoseClient::new(client.clone());
    let (subject, dns_names, uris, size) = whose.certificate().await.unwrap().unwrap();
    assert!(subject.contains(r"CN=orders\, Inc.") && subject.contains("O=Example"), "{subject}");
    assert_eq!(
        (&*dns_names, &*uris),
        (&["orders.example".to_owned()][..], &[spiffe.to_owned()][..])
    );
    assert!(size > 100, "{size}");
    let channel = client.channels().remove(0);
    assert_eq!(channel.peer_certificate().unwrap().dns_names(), ["localhost"]);
    assert!(server.channels().remove(0).peer().starts_with("tls://127.0.0.1:"));

    // A server that does not ask is told nothing.
    let server = Server::builder().provide(WhoseServer::new(Told)).tls(authority.server());
    let server = server.bind("tls://127.0.0.1:0").await.unwrap();
    let client = Client::builder().tls(caller.of(authority.client()));
    let client = soon("connecting", client.connect(server.local_uri())).await.unwrap();
    assert_eq!(WhoseClient::new(client).certificate().await, Ok(None));
}

#[tokio::test]
async fn a_client_without_the_right_certificate_is_told_so() {
    let (authority, other) = (Authority::new("root"), Authority::new("other"));
    let tls = authority.server().client_roots_pem(authority.roots().as_bytes()).unwrap();
    let server = serve(tls).await;
    let uri = server.local_uri();
    // More than once: the reason must not be lost to a reset.
    for _ in 0..10 {
        let error = refused(authority.client(), uri).await;
        assert_says(&error, "the peer requires a certificate, but none was sent");
        let wrong = other.issue(&params("somebody", &[]));
        let error = refused(wrong.of(authority.client()), uri).await;
        assert_says(&error, "the peer refused this end's certificate");
    }
    let mut expired = params("somebody", &[]);
    expired.not_after = date_time_ymd(2020, 1, 1);
    let expired = authority.issue(&expired);
    let error = refused(expired.of(authority.client()), uri).await;
    assert_says(&error, "it has expired");
    let right = authority.issue(&params("somebody", &[]));
    let probe = connect(right.of(authority.client()), uri).await.unwrap();
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
}

#[tokio::test]
async fn a_server_without_the_right_certificate_is_not_believed() {
    let (authority, other) = (Authority::new("root"), Authority::new("other"));
    let server = serve(authority.server()).await;
    let error = refused(other.client(), server.local_uri()).await;
    assert_says(&error, "not issued by any of the configured roots");
    let named = authority.client().server_name("orders.example").unwrap();
    let error = refused(named, server.local_uri()).await;
    assert_says(&error, "is not for \"orders.example\", but for ");
    // The name that was set goes before the host of the URI.
    let named = authority.client().server_name("localhost").unwrap();
    assert!(connect(named, server.local_uri()).await.is_ok());

    let elsewhere = authority.issue(&params("server", &["orders.example"])).server();
    let server = serve(elsewhere).await;
    let error = refused(authority.client(), server.local_uri()).await;
    assert_says(&error, "is not for \"127.0.0.1\"");

    for (from, until, why) in [(1990, 2020, "has expired"), (4000, 4090, "is not yet valid")] {
        let mut dated = params("server", &["127.0.0.1"]);
        (dated.not_before, dated.not_after) =
            (date_time_ymd(from, 1, 1), date_time_ymd(until, 1, 1));
        let server = serve(authority.issue(&dated).server()).await;
        assert_says(&refused(authority.client(), server.local_uri()).await, why);
    }
}

#[tokio::test]
async fn addresses_of_tls_are_refused_without_settings_for_it() {
    let uri = "tls://127.0.0.1:9";
    let error = ProbeClient::connect(uri).await.err().unwrap();
    assert!(error.is_invalid(), "{error}");
    assert_says(&error, "needs roots");
    let error = Server::builder().bind("tls://127.0.0.1:0").await.err().unwrap();
    assert!(error.is_invalid(), "{error}");
    assert_says(&error, "needs a certificate");
    let tls = Authority::new("root").client();
    let error = Client::builder().tls(tls).connect("tls://127.0.0.1").await.err().unwrap();
    assert_says(&error, "write tls://host:port");
}

#[test]
fn files_that_are_of_no_use_are_named_and_no_key_is_shown() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new("root");
    let (one, two) = (authority.issue(&params("one", &[])), authority.issue(&params("two", &[])));
    fs::write(path("one.pem"), &one.certificate).unwrap();
    fs::write(path("one.key"), &one.key).unwrap();
    fs::write(path("two.key"), &two.key).unwrap();
    fs::write(path("empty"), "").unwrap();
    let damaged = one.certificate.replace("MII", "!!!");
    fs::write(path("damaged"), damaged).unwrap();
    let load =
        |certificate: &str, key: &str| ServerTls::from_pem_files(path(certificate), path(key));
    for (certificate, key, named, why) in [
        ("missing", "one.key", "missing", "cannot read"),
        ("one.pem", "missing", "missing", "cannot read"),
        ("empty", "one.key", "empty", "no certificate"),
        ("one.pem", "empty", "empty", "no private key"),
        ("damaged", "one.key", "damaged", "damaged"),
        ("one.pem", "two.key", "two.key", "is not the key of"),
    ] {
        let error = load(certificate, key).unwrap_err();
        assert!(error.is_invalid(), "{error}");
        assert_says(&error, path(named).to_str().unwrap());
        assert_says(&error, why);
        assert!(!error.to_string().contains("BEGIN"), "{error}");
    }
    let error = ClientTls::roots_pem_file(path("empty")).unwrap_err();
    assert_says(&error, path("empty").to_str().unwrap());
    let shown = format!("{:?}", load("one.pem", "one.key").unwrap());
    assert!(shown.contains("one.pem") && !shown.contains("BEGIN"), "{shown}");
    let secret = one.key.lines().nth(1).unwrap();
    let in_memory = one.of(authority.client());
    assert!(!format!("{in_memory:?} {:?}", one.server()).contains(secret));
    assert_says(&one.server().reload().unwrap_err(), "nothing to reload");
}

#[tokio::test]
async fn certificates_are_replaced_under_load_without_losing_a_call() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("server.pem"), folder.path().join("server.key"));
    let authority = Authority::new("root");
    let write = |name: &str| {
        let pem = authority.issue(&params(name, &["127.0.0.1"]));
        fs::write(&certificate, pem.certificate).unwrap();
        fs::write(&key, pem.key).unwrap();
    };
    write("first");
    let tls = ServerTls::from_pem_files(&certificate, &key).unwrap();
    let server = serve(tls.clone()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let probe = connect(authority.client(), server.local_uri()).await.unwrap();
    let load = tokio::spawn({
        let stop = Arc::clone(&stop);
        async move {
            let mut calls = 0;
            while !stop.load(Ordering::SeqCst) {
                assert_eq!(probe.add(calls, 1).await, Ok(calls + 1));
                calls += 1;
            }
            calls
        }
    });
    let subject = async || {
        let client = Client::builder().tls(authority.client()).connect(server.local_uri());
        let client = soon("connecting", client).await.unwrap();
        assert_eq!(ProbeClient::new(client.clone()).add(3, 4).await, Ok(7));
        client.channels().remove(0).peer_certificate().unwrap().subject().to_owned()
    };
    assert!(subject().await.contains("CN=first"));
    for n in 0..10 {
        let name = format!("renewed {n}");
        write(&name);
        tls.reload().unwrap();
        assert!(subject().await.contains(&name));
    }
    fs::write(&key, "no key").unwrap();
    let error = tls.reload().unwrap_err();
    assert_says(&error, key.to_str().unwrap());
    assert!(subject().await.contains("renewed 9"), "the old one is not in use any more");
    stop.store(true, Ordering::SeqCst);
    assert!(soon("the load", load).await.unwrap() > 10);
}

#[tokio::test]
async fn a_client_proves_itself_with_its_renewed_certificate() {
    let folder = tempfile::tempdir().unwrap();
    let (certificate, key) = (folder.path().join("client.pem"), folder.path().join("client.key"));
    let authority = Authority::new("root");
    let write = |name: &str| {
        let pem = authority.issue(&params(name, &[]));
        fs::write(&certificate, pem.certificate).unwrap();
        fs::write(&key, pem.key).unwrap();
    };
    let server = authority.server().client_roots_pem(authority.roots().as_bytes()).unwrap();
    let server = Server::builder().provide(WhoseServer::new(Told)).tls(server);
    let server = server.bind("tls://127.0.0.1:0").await.unwrap();
    write("first");
    let tls = authority.client().identity_pem_files(&certificate, &key).unwrap();
    for name in ["first", "second"] {
        write(name);
        tls.reload().unwrap();
        let client = Client::builder().tls(tls.clone()).connect(server.local_uri());
        let whose = WhoseClient::new(soon("connecting", client).await.unwrap());
        let (subject, ..) = whose.certificate().await.unwrap().unwrap();
        assert!(subject.contains(name), "{subject}");
    }
}

#[tokio::test]
async fn an_end_that_speaks_no_tls_is_told_which_scheme_is_missing() {
    let authority = Authority::new("root");
    let server = serve(authority.server()).await;
    let plain = server.local_uri().replace("tls:", "tcp:");
    for _ in 0..10 {
        let connecting = ProbeClient::connect(&plain);
        let error = soon("a plain client", connecting).await.err().unwrap();
        assert_says(&error, "must begin with tls://");
    }
    let plain = Server::builder().bind("tcp://127.0.0.1:0").await.unwrap();
    for _ in 0..10 {
        let uri = plain.local_uri().replace("tcp:", "tls:");
        assert_says(&refused(authority.client(), &uri).await, "does it use plain tcp://?");
    }
    let silent = RawServer::start_rude(async |mut peer| peer.drain().await).await;
    let client = Client::builder().tls(authority.client());
    let client = client.connect_timeout(Duration::from_millis(50));
    let error = client.connect(silent.uri().replace("tcp:", "tls:")).await.err().unwrap();
    assert!(error.is_unavailable(), "{error}");
    assert_says(&error, "within 50ms");
}

#[tokio::test]
async fn handshakes_that_go_on_and_on_hold_up_nobody() {
    let authority = Authority::new("root");
    let server = serve(authority.server()).await;
    let address = server.local_uri().strip_prefix("tls://").unwrap().to_owned();
    let mut slow = Vec::new();
    for n in 0..100_usize {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        // The front of a ClientHello of 512 bytes, as far as some of them get.
        let hello = [0x16, 3, 1, 2, 0, 1, 0, 1, 0xfc, 3, 3];
        stream.write_all(&hello[..n % hello.len()]).await.unwrap();
        slow.push(stream);
    }
    let probe = connect(authority.client(), server.local_uri()).await.unwrap();
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    // Nor do they hold up the end.
    soon("shutting down", server.shutdown()).await.unwrap();
}

/// A record of TLS 1.2's looks, of this type, and what it says its length is.
fn record(kind: u8, bytes: &[u8], length: usize) -> Vec<u8> {
    let length = u16::try_from(length).unwrap().to_be_bytes();
    [&[kind, 3, 3], &length[..], bytes].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_make_no_sense_end_the_handshake_and_reach_nobody() {
    let authority = Authority::new("root");
    let server = serve(authority.server()).await;
    let address = server.local_uri().strip_prefix("tls://").unwrap().to_owned();
    let bystander = connect(authority.client(), server.local_uri()).await.unwrap();
    let hostile = [
        // Larger than a record may be.
        record(0x16, &[0; 20_000], 0xffff),
        // A message of 16 MiB in a handshake.
        record(0x16, &[1, 0xff, 0xff, 0xff], 4),
        // Data, an alert, new keys and a renegotiation before there are any.
        record(0x17, &[7; 100], 100),
        record(0x15, &[1, 100], 2),
        record(0x16, &[24, 0, 0, 1, 1], 5),
        record(0x16, &[0, 0, 0, 0], 4),
        // Records with nothing in them, without end.
        record(0x16, &[], 0).repeat(10_000),
        record(0x14, &[1], 1).repeat(10_000),
        // What does not speak TLS at all.
        rpc_tests::wire::hello(),
    ];
    for bytes in hostile {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let _ = soon("sending", stream.write_all(&bytes)).await;
        let _ = stream.shutdown().await;
        let mut answer = Vec::new();
        let _ = soon("the end", stream.read_to_end(&mut answer)).await;
        assert!(answer.len() < 100, "it was told {} bytes", answer.len());
        assert_eq!(soon("a call", bystander.add(3, 4)).await, Ok(7));
    }
    assert_eq!(server.channels().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_handshake_that_is_never_finished_is_ended() {
    let server = serve(Authority::new("root").server()).await;
    let address = server.local_uri().strip_prefix("tls://").unwrap().to_owned();
    let mut stream = TcpStream::connect(&address).await.unwrap();
    let started = tokio::time::Instant::now();
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes).await;
    assert!(matches!(read, Ok(0) | Err(_)), "{bytes:?}");
    assert!(started.elapsed() >= Duration::from_secs(10), "{:?}", started.elapsed());
}

#[tokio::test]
async fn hostile_bytes_in_the_handshake_end_their_own_connection_only() {
    let authority = Authority::new("root");
    let server = serve(authority.server()).await;
    let address = server.local_uri().strip_prefix("tls://").unwrap().to_owned();
    let probe = connect(authority.client(), server.local_uri()).await.unwrap();
    let mut random = Random::new(7);
    for n in 0..200_usize {
        let mut bytes = random.bytes(2_000);
        // Half of them begin as a record of a handshake, of the largest size.
        if n % 2 == 0 {
            bytes.splice(..0, [0x16, 3, 1, 0x40, 0, 1, 0, 0x3f, 0xfc, 3, 3]);
        }
        let mut stream = TcpStream::connect(&address).await.unwrap();
        let _ = stream.write_all(&bytes).await;
    }
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    let probe = connect(authority.client(), server.local_uri()).await.unwrap();
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
}

#[tokio::test]
async fn a_connection_that_is_cut_or_changed_on_the_way_is_lost_and_made_again() {
    let authority = Authority::new("root");
    let server = serve(authority.server()).await;
    let relay = Relay::start(&server).await;
    let probe = connect(authority.client(), &relay.uri()).await.unwrap();
    for (fault, why) in [(&relay.cut, "may have been cut off"), (&relay.flip, "altered in transit")]
    {
        assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
        fault.store(true, Ordering::SeqCst);
        let error = soon("a call", probe.add(3, 4)).await.unwrap_err();
        assert!(error.is_unavailable(), "{error}");
        assert_says(&error, why);
        fault.store(false, Ordering::SeqCst);
    }
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
}

#[tokio::test]
async fn a_server_that_shuts_down_closes_as_tls_asks_for() {
    let authority = Authority::new("root");
    let server = serve(authority.server()).await;
    let probe = connect(authority.client(), server.local_uri()).await.unwrap();
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    let last = tokio::spawn({
        let probe = probe.clone();
        async move { probe.make(2 << 20).await.map(|text| text.len()) }
    });
    tokio::task::yield_now().await;
    until("it has begun", || !server.channels().is_empty()).await;
    soon("shutting down", server.shutdown()).await.unwrap();
    // In flight or never sent; never cut off.
    match soon("the last call", last).await.unwrap() {
        Ok(bytes) => assert_eq!(bytes, 2 << 20),
        Err(error) => assert!(error.is_safe_to_retry(), "{error}"),
    }
}

#[tokio::test]
async fn providers_on_tls_are_found_through_a_registry() {
    let authority = Authority::new("root");
    let registry = rpc_registry::connect("memory://tls-discovery").await.unwrap();
    let server = Server::builder().provide(ProbeServer::new(Provider::new("tls")));
    let server = server.tls(authority.server()).registry(registry.clone());
    let server = server.bind("tls://127.0.0.1:0").await.unwrap();
    // A registry does not say who its providers must be.
    let tls = authority.client().server_name("localhost").unwrap();
    let client = Client::builder().tls(tls).discover(registry, &PROBE_DESCRIPTOR);
    let probe = ProbeClient::new(soon("discovering", client).await.unwrap());
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    soon("shutting down", server.shutdown()).await.unwrap();
}

#[tokio::test]
async fn a_client_for_whom_there_is_no_room_hears_it_within_tls() {
    let authority = Authority::new("root");
    let server = Server::builder().provide(ProbeServer::new(Provider::new("tls")));
    let server = server.tls(authority.server()).max_connections(1);
    let server = server.bind("tls://127.0.0.1:0").await.unwrap();
    let probe = connect(authority.client(), server.local_uri()).await.unwrap();
    let error = connect(authority.client(), server.local_uri()).await.err().unwrap();
    assert_says(&error, "(`max_connections`)");
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn event_loops_serve_tls() {
    let authority = Authority::new("root");
    let server = Server::builder().provide(ProbeServer::new(Provider::new("tls")));
    let server = server.tls(authority.server()).event_loops(2);
    let server = server.bind("tls://127.0.0.1:0").await.unwrap();
    for _ in 0..8 {
        let probe = connect(authority.client(), server.local_uri()).await.unwrap();
        assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    }
    soon("shutting down", server.shutdown()).await.unwrap();
}

#[test]
fn a_handshake_that_fails_counts_as_a_refused_connection() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let seen = recorder.snapshotter();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let authority = Authority::new("ours");
        let server = serve(authority.server()).await;
        let address = server.local_uri().replace("tls://", "");
        let mut stranger = TcpStream::connect(address).await.unwrap();
        stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        stranger.shutdown().await.unwrap();
        let _ = stranger.read_to_end(&mut Vec::new()).await;
        server.shutdown().await.unwrap();
    });
    let refused = seen.snapshot().into_vec().into_iter().any(|(key, ..)| {
        let reason = key.key().labels().any(|label| label.value() == "handshake");
        key.key().name() == "rpc_server_connections_refused_total" && reason
    });
    assert!(refused);
}
