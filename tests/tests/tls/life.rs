//! Connections do not outlive what their peers have proved, and not the age that a server sets.
#![allow(missing_docs)]

use std::fs;
use std::time::Duration;

use metrics::set_default_local_recorder;
use metrics_util::debugging::DebuggingRecorder;
use rcgen::SerialNumber;
use rpc_runtime::{Client, ClientTls, RpcError, Server, ServerTls};
use rpc_tests::authority::{Authority, DAY, Pem, from_now, params};
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::waiting::{soon, until};

async fn serve(tls: ServerTls) -> Server {
    let server = Server::builder().provide(ProbeServer::new(Provider::new("tls"))).tls(tls);
    server.drain_timeout(Duration::from_millis(200)).bind("tls://127.0.0.1:0").await.unwrap()
}

async fn connect(tls: ClientTls, server: &Server) -> Result<ProbeClient, RpcError> {
    let client = Client::builder().tls(tls).drain_timeout(Duration::from_millis(200));
    let client = soon("connecting", client.connect(server.local_uri())).await?;
    Ok(ProbeClient::new(client))
}

/// A certificate with this serial number.
fn numbered(authority: &Authority, serial: u64) -> Pem {
    let mut params = params("numbered", &["127.0.0.1"]);
    params.serial_number = Some(SerialNumber::from(serial));
    authority.issue(&params)
}

/// Whether a connection was counted that ends in order for this reason.
fn retired(recorder: &DebuggingRecorder, name: &str, reason: &str) -> bool {
    recorder.snapshotter().snapshot().into_vec().iter().any(|(key, ..)| {
        let is_reason = |label: &metrics::Label| (label.key(), label.value()) == ("reason", reason);
        key.key().name() == name && key.key().labels().any(is_reason)
    })
}

#[track_caller]
fn assert_says(error: &RpcError, what: &str) {
    assert!(error.message().contains(what), "no {what:?} in: {error}");
}

#[tokio::test]
async fn a_revoked_client_does_not_stay_connected_after_a_reload() {
    let folder = tempfile::tempdir().unwrap();
    let crl = folder.path().join("clients.crl");
    let authority = Authority::new("root");
    fs::write(&crl, authority.crl(&[7], DAY)).unwrap();
    let tls = authority.server().client_roots_pem(authority.roots().as_bytes()).unwrap();
    let tls = tls.client_crls_pem_file(&crl).unwrap();
    let server = serve(tls.clone()).await;
    let (bad, good) = (numbered(&authority, 8), numbered(&authority, 9));
    let error = connect(numbered(&authority, 7).of(authority.client()), &server).await;
    assert_says(
        &error.err().unwrap(),
        "the peer refused this end's certificate: CertificateRevoked",
    );
    let bad_client = connect(bad.of(authority.client()), &server).await.unwrap();
    let good_client = connect(good.of(authority.client()), &server).await.unwrap();
    assert_eq!(soon("a call", bad_client.add(3, 4)).await, Ok(7));
    // It would stay for as long as it likes.
    let waiting = tokio::spawn({
        let client = bad_client.clone();
        async move { client.wait().await }
    });
    until("it waits", || server.channels().len() == 2).await;
    assert_eq!(soon("a call", bad_client.add(3, 4)).await, Ok(7));

    fs::write(&crl, authority.crl(&[7, 8], DAY)).unwrap();
    tls.reload().unwrap();
    until("it is cut off", || server.channels().len() == 1).await;
    assert_says(&soon("the call", waiting).await.unwrap().unwrap_err(), "is revoked");
    let error = soon("a call", bad_client.add(3, 4)).await.unwrap_err();
    assert_says(&error, "CertificateRevoked");
    assert_eq!(soon("a call", good_client.add(3, 4)).await, Ok(7));
    assert_eq!(good_client.as_ref().connections()[0].reconnects, 0, "it was not concerned");
}

#[tokio::test]
async fn a_client_of_an_issuer_that_is_no_longer_trusted_does_not_stay_connected() {
    let folder = tempfile::tempdir().unwrap();
    let roots = folder.path().join("roots.pem");
    let (old, new) = (Authority::new("old"), Authority::new("new"));
    fs::write(&roots, old.roots() + &new.roots()).unwrap();
    let tls = old.server().client_roots_pem_file(&roots).unwrap();
    let server = serve(tls.clone()).await;
    let of_old = connect(numbered(&old, 1).of(old.client()), &server).await.unwrap();
    let of_new = connect(numbered(&new, 1).of(old.client()), &server).await.unwrap();
    fs::write(&roots, "no roots").unwrap();
    assert_says(&tls.reload().unwrap_err(), "roots.pem");
    assert_eq!(soon("a call", of_old.add(3, 4)).await, Ok(7));
    fs::write(&roots, new.roots()).unwrap();
    tls.reload().unwrap();
    until("it is told to go", || server.channels().len() == 1).await;
    let error = soon("a call", of_old.add(3, 4)).await.unwrap_err();
    assert_says(&error, "its issuer is unknown");
    assert_eq!(soon("a call", of_new.add(3, 4)).await, Ok(7));
}

#[tokio::test]
async fn a_server_that_is_no_longer_trusted_gets_no_more_calls() {
    let recorder = DebuggingRecorder::new();
    let _recorded = set_default_local_recorder(&recorder);
    let folder = tempfile::tempdir().unwrap();
    let (roots, crl) = (folder.path().join("roots.pem"), folder.path().join("servers.crl"));
    let authority = Authority::new("root");
    fs::write(&roots, authority.roots()).unwrap();
    fs::write(&crl, authority.crl(&[], DAY)).unwrap();
    let tls = ClientTls::roots_pem_file(&roots).unwrap().crls_pem_file(&crl).unwrap();
    let server = serve(numbered(&authority, 5).server()).await;
    let probe = connect(tls.clone(), &server).await.unwrap();
    let long = tokio::spawn({
        let probe = probe.clone();
        async move { probe.sleep(100).await }
    });
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    fs::write(&crl, authority.crl(&[5], DAY)).unwrap();
    tls.reload().unwrap();
    until("it is given up", || probe.as_ref().channels().is_empty()).await;
    assert!(retired(&recorder, "rpc_client_connections_retired_total", "distrust"));
    assert_says(&soon("a call", probe.add(3, 4)).await.unwrap_err(), "is revoked");
    assert_eq!(soon("the call", long).await.unwrap(), Ok(100), "it was under way");

    // Lists that say nothing of an issuer, or say it no longer, do not stand for trust.
    fs::write(&crl, Authority::new("other").crl(&[], DAY)).unwrap();
    tls.reload().unwrap();
    assert_says(
        &connect(tls.clone(), &server).await.err().unwrap(),
        "that of an issuer is missing",
    );
    fs::write(&crl, authority.crl(&[], -DAY)).unwrap();
    tls.reload().unwrap();
    assert_says(&connect(tls.clone(), &server).await.err().unwrap(), "must be renewed");
    fs::write(&crl, authority.crl(&[], DAY)).unwrap();
    tls.reload().unwrap();
    assert!(connect(tls.clone(), &server).await.is_ok());
    fs::write(&roots, Authority::new("other").roots()).unwrap();
    tls.reload().unwrap();
    assert!(connect(tls, &server).await.is_err());
}

#[tokio::test]
async fn a_connection_ends_with_the_certificate_of_its_peer() {
    let authority = Authority::new("root");
    let tls = authority.server().client_roots_pem(authority.roots().as_bytes()).unwrap();
    let server = serve(tls).await;
    let mut short = params("short-lived", &["127.0.0.1"]);
    short.not_after = from_now(2);
    let short = authority.issue(&short);
    let client = connect(short.of(authority.client()), &server).await.unwrap();
    assert_eq!(soon("a call", client.add(3, 4)).await, Ok(7));
    until("it is told to go", || server.channels().is_empty()).await;
    assert_says(&soon("a call", client.add(3, 4)).await.unwrap_err(), "it has expired");
}

#[tokio::test]
async fn revocation_lists_that_are_of_no_use_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("some.crl");
    let authority = Authority::new("root");
    let error = authority.server().client_crls_pem(authority.crl(&[], DAY).as_bytes());
    assert_says(&error.unwrap_err(), "need roots for clients");
    let damaged = authority.crl(&[], DAY).replace("\nMI", "\n!!");
    for (text, why) in [
        ("", "no revocation list"),
        (&authority.roots(), "no revocation list"),
        (&damaged, "damaged"),
    ] {
        fs::write(&path, text).unwrap();
        let error = authority.client().crls_pem_file(&path).unwrap_err();
        assert!(error.is_invalid(), "{error}");
        assert_says(&error, "some.crl");
        assert_says(&error, why);
    }
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(start_paused = true)]
async fn a_connection_is_replaced_at_its_age_without_losing_a_call() {
    let recorder = DebuggingRecorder::new();
    let _recorded = set_default_local_recorder(&recorder);
    let server = Server::builder().provide(ProbeServer::new(Provider::new("aged")));
    let server = server.max_connection_age(HOUR).bind("memory://aged").await.unwrap();
    let probe = ProbeClient::connect("memory://aged").await.unwrap().with_timeout(HOUR * 10);
    let long = tokio::spawn({
        let probe = probe.clone();
        async move { probe.sleep(3 * 3_600_000).await }
    });
    assert_eq!(probe.add(3, 4).await, Ok(7));
    let first = probe.as_ref().connections();
    tokio::time::sleep(HOUR * 8 / 10).await;
    assert_eq!(probe.add(3, 4).await, Ok(7));
    assert_eq!(probe.as_ref().connections()[0].reconnects, first[0].reconnects);
    tokio::time::sleep(HOUR * 4 / 10).await;
    assert_eq!(probe.add(3, 4).await, Ok(7));
    assert_eq!(probe.as_ref().connections()[0].reconnects, 1);
    assert!(retired(&recorder, "rpc_server_connections_retired_total", "age"));
    assert_eq!(server.channels().len(), 2, "the long call is still under way on the old one");
    assert_eq!(long.await.unwrap(), Ok(3 * 3_600_000));
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(server.channels().is_empty(), "they end once nothing is under way");
    assert_eq!(probe.add(3, 4).await, Ok(7));
}
