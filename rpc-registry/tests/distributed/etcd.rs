//! The registry in etcd, against real servers.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may fail")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::servers::etcd::Etcd;
use crate::servers::{ids, settled, until};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair,
};
use rpc_registry::etcd::EtcdBackEnd;
use rpc_registry::{
    Announcement, BackEnd, Claim, Feed, Instance, Registry, RegistryError, RegistryUri, Update,
    testing,
};
use tokio::time::timeout;

const SOON: Duration = Duration::from_secs(10);

fn instance(id: &str) -> Instance {
    Instance::new("com.shop.Orders", "tcp://127.0.0.1:9000").with_id(id)
}

fn back_end(etcd: &Etcd, rest: &str) -> EtcdBackEnd {
    EtcdBackEnd::new(&RegistryUri::parse(&etcd.uri("", rest)).unwrap()).unwrap()
}

async fn registry(etcd: &Etcd, rest: &str) -> Arc<dyn Registry> {
    rpc_registry::connect(etcd.uri("", rest)).await.unwrap()
}

async fn next(feed: &mut Box<dyn Feed>) -> Update {
    timeout(SOON, feed.next()).await.expect("an update in time").unwrap()
}

async fn listed(back_end: &EtcdBackEnd) -> Vec<Instance> {
    back_end.list("com.shop.Orders").await.unwrap()
}

async fn refused(uri: &str) -> RegistryError {
    let registry = rpc_registry::connect(uri).await.unwrap();
    let start = Instant::now();
    let error = registry.register(instance("a")).await.expect_err(uri);
    assert!(start.elapsed() < Duration::from_secs(4), "{error} after {:?}", start.elapsed());
    error
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rules_of_every_back_end_are_kept() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let uri = etcd.uri("", "/rpc?cache=off");
    testing::conformance(&move || rpc_registry::connect(uri.clone())).await;
}

#[tokio::test]
async fn what_is_registered_is_found_until_it_leaves() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let registry = registry(&etcd, "/rpc?cache=off").await;
    let mut watch = registry.watch("com.shop.Orders").await.unwrap();
    let lease = registry.register(instance("a/b")).await.unwrap();
    assert_eq!(ids(&registry.lookup("com.shop.Orders").await.unwrap()), ["a/b"]);
    assert_eq!(registry.services().await.unwrap(), ["com.shop.Orders"]);
    let taken = registry.register(instance("a/b")).await.unwrap_err();
    assert!(taken.is_already_exists(), "{taken}");
    settled(&mut watch, &["a/b"], SOON).await;
    let keys = etcd.control(&["get", "--prefix", "/", "--keys-only"]);
    assert_eq!(keys.trim(), "/rpc/com.shop.Orders/a%2Fb");
    lease.revoke().await.unwrap();
    assert!(registry.lookup("com.shop.Orders").await.unwrap().is_empty());
    assert!(registry.services().await.unwrap().is_empty());
    settled(&mut watch, &[], SOON).await;
    let lease = registry.register(instance("a/b")).await.unwrap();
    settled(&mut watch, &["a/b"], SOON).await;
    drop(lease);
    settled(&mut watch, &[], SOON).await;
}

#[tokio::test]
async fn who_leaves_in_order_is_told_from_who_lapses() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let back_end = back_end(&etcd, "?lease=2s");
    let announce = |id| back_end.announce(instance(id), Claim::New);
    let mut left = announce("left").await.unwrap();
    let removed = announce("removed").await.unwrap();
    let killed = announce("killed").await.unwrap();
    let mut feed = back_end.follow("com.shop.Orders").await.unwrap();
    assert_eq!(ids(&next(&mut feed).await.instances), ["killed", "left", "removed"]);
    left.session.withdraw().await.unwrap();
    let update = next(&mut feed).await;
    assert_eq!(
        (ids(&update.instances), update.departed),
        (vec!["killed", "removed"], vec!["left".to_owned()])
    );
    assert!(back_end.remove("com.shop.Orders", "removed").await.unwrap());
    assert!(!back_end.remove("com.shop.Orders", "removed").await.unwrap());
    let update = next(&mut feed).await;
    assert_eq!(ids(&update.instances), ["killed"]);
    assert!(update.departed.contains(&"removed".to_owned()));
    // What nobody renews any more is what a killed process leaves.
    drop(killed);
    let start = Instant::now();
    loop {
        let update = next(&mut feed).await;
        assert!(!update.departed.contains(&"killed".to_owned()));
        if update.instances.is_empty() {
            break;
        }
    }
    assert!(start.elapsed() < Duration::from_secs(6), "{:?}", start.elapsed());
    // Only now: it is kept alive although its entry is gone.
    drop(removed);
}

#[tokio::test]
async fn an_older_epoch_never_overwrites_nor_removes_a_newer_entry() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let back_end = back_end(&etcd, "?lease=2s");
    let first = back_end.announce(instance("a"), Claim::New).await.unwrap();
    let epoch = first.instance.epoch();
    for older in [epoch, epoch - 1] {
        let older = instance("a").with_epoch(older);
        let error = back_end.announce(older, Claim::Again).await.err().unwrap();
        assert!(error.is_already_exists(), "{error}");
    }
    let Announcement { session: mut first, .. } = first;
    let newer = instance("a").with_epoch(epoch + 1);
    let newer = back_end.announce(newer, Claim::Again).await.unwrap();
    first.withdraw().await.unwrap();
    first.abandon();
    drop(first);
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!(listed(&back_end).await, std::slice::from_ref(&newer.instance));

    // It lapses, and somebody else takes over the id.
    drop(newer.session);
    until("the lease ends", SOON, async || listed(&back_end).await.is_empty()).await;
    let successor = back_end.announce(instance("a"), Claim::New).await.unwrap();
    let after_many_attempts = instance("a").with_epoch(epoch + 100_000);
    let error = back_end.announce(after_many_attempts, Claim::Again).await.err().unwrap();
    assert!(error.is_already_exists(), "{error}");
    assert_eq!(listed(&back_end).await, [successor.instance]);
}

#[tokio::test]
async fn an_announcement_that_is_dropped_leaves_nothing() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let back_end = back_end(&etcd, "?lease=60s");
    for n in 0..20 {
        let announce = back_end.announce(instance("a"), Claim::New);
        let cut = timeout(Duration::from_micros(500 * n), announce).await;
        drop(cut.map(|made| made.unwrap().session.abandon()));
        until("nothing is left", SOON, async || listed(&back_end).await.is_empty()).await;
    }
    // Nor comes anything later.
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(listed(&back_end).await.is_empty());
}

#[tokio::test]
async fn a_watch_that_has_missed_compacted_changes_goes_on_with_what_is_there() {
    let Some(etcd) = Etcd::start(1).await else { return };
    let back_end = back_end(&etcd, "");
    let mut a = back_end.announce(instance("a"), Claim::New).await.unwrap();
    let mut feed = back_end.follow("com.shop.Orders").await.unwrap();
    assert_eq!(ids(&next(&mut feed).await.instances), ["a"]);
    a.session.withdraw().await.unwrap();
    let b = back_end.announce(instance("b"), Claim::New).await.unwrap();
    let value = etcd.control(&["get", "/rpc-registry/com.shop.Orders/b", "-w", "json"]);
    let value: serde_json::Value = serde_json::from_str(&value).unwrap();
    etcd.control(&["compact", &value["header"]["revision"].to_string()]);
    let update = next(&mut feed).await;
    assert_eq!(ids(&update.instances), ["b"]);
    assert_eq!((update.departed, update.after_fault), (vec!["a".to_owned()], false));
    drop(b);
}

#[tokio::test]
async fn wrong_credentials_are_refused_and_right_ones_survive_a_restart() {
    let Some(mut etcd) = Etcd::start(1).await else { return };
    etcd.control(&["user", "add", "root:secret"]);
    etcd.control(&["user", "add", "shop:a p@ss"]);
    etcd.control(&["role", "add", "shop"]);
    etcd.control(&["role", "grant-permission", "shop", "--prefix=true", "readwrite", "/shop/"]);
    etcd.control(&["user", "grant-role", "root", "root"]);
    etcd.control(&["user", "grant-role", "shop", "shop"]);
    // Credentials are there before they are asked for.
    let early =
        rpc_registry::connect(etcd.uri("shop:a%20p%40ss@", "/shop?lease=5s&cache=off")).await;
    let early = early.unwrap();
    let _lease = early.register(instance("early")).await.unwrap();
    etcd.control(&["auth", "enable"]);
    etcd.control.push("--user=root:secret".to_owned());
    assert_eq!(ids(&early.lookup("com.shop.Orders").await.unwrap()), ["early"]);

    for wrong in ["shop:wrong@", "nobody:x@", ""] {
        let error = refused(&etcd.uri(wrong, "/shop?cache=off")).await;
        assert!(error.is_permission_denied(), "{error}");
        assert!(!error.to_string().contains("wrong@"), "{error}");
    }
    let error = refused(&etcd.uri("shop:a%20p%40ss@", "/till?cache=off")).await;
    assert!(error.is_permission_denied() && error.to_string().contains("prefix"), "{error}");

    // Tokens end with the server that gave them.
    let mut watch = early.watch("com.shop.Orders").await.unwrap();
    settled(&mut watch, &["early"], SOON).await;
    etcd.stop_node(0);
    etcd.start_node(0);
    etcd.ready().await;
    let second = early.register(instance("second")).await.unwrap();
    settled(&mut watch, &["early", "second"], SOON).await;
    second.revoke().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_not_there_is_a_clear_error_in_time() {
    let [free] = crate::servers::free_ports();
    let error = refused(&format!("etcd://127.0.0.1:{free}/p?cache=off")).await;
    assert!(error.is_unavailable());
    for part in [&format!("127.0.0.1:{free}: "), "refused", "registry etcd://", "check that"] {
        assert!(error.to_string().contains(part), "{error} does not say {part:?}");
    }
    // One who takes the connection and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let silent = silent.local_addr().map(|at| (at, silent)).unwrap();
    let error = refused(&format!("etcd://{}?request_timeout=1000ms&cache=off", silent.0)).await;
    assert!(error.to_string().contains("no answer in time"), "{error}");
    // One who speaks another protocol.
    let http = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let at = http.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in http.incoming().take(10).flatten() {
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let error = refused(&format!("etcd://{at}?cache=off")).await;
    assert!(error.is_unavailable(), "{error}");
    // Bad URIs are refused before anything is tried.
    for bad in ["etcd:", "etcd://h:0", "etcd://h?lease=1s", "etcd://me@h", "etcd://h?ca=/nowhere"] {
        let error = rpc_registry::connect(bad).await.err().unwrap();
        assert!(error.is_invalid_uri(), "{error}");
    }
}

/// One that issues certificates for servers and clients of this machine.
fn certificate(signed_by: &CertifiedIssuer<'_, KeyPair>) -> (String, String) {
    let mut params = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    // etcd uses its own certificate as a client's, too.
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, signed_by).unwrap().pem(), key.serialize_pem())
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

#[tokio::test]
async fn over_tls_both_ends_show_certificates_and_others_are_turned_away() {
    let folder = tempfile::tempdir().unwrap();
    let (right, wrong) = (authority(), authority());
    let file = |name: &str, text: String| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ca, other_ca) = (file("ca.pem", right.pem()), file("other.pem", wrong.pem()));
    let (cert, key) = certificate(&right);
    let (cert, key) = (file("cert.pem", cert), file("key.pem", key));
    let options = [("--cert-file", &cert), ("--key-file", &key), ("--trusted-ca-file", &ca)];
    let control = [("--cert", &cert), ("--key", &key), ("--cacert", &ca)];
    let args = |list: [(&str, &String); 3]| list.map(|(name, value)| format!("{name}={value}"));
    let mut options = args(options).to_vec();
    options.push("--client-cert-auth".to_owned());
    let Some(etcd) = Etcd::start_tls(options, args(control).to_vec()).await else { return };

    let uri = |ca: &str, rest: &str| etcd.uri("", &format!("/rpc?cache=off&ca={ca}{rest}"));
    let mine = format!("&cert={cert}&key={key}");
    let registry = rpc_registry::connect(uri(&ca, &mine)).await.unwrap();
    let _lease = registry.register(instance("a")).await.unwrap();
    assert_eq!(ids(&registry.lookup("com.shop.Orders").await.unwrap()), ["a"]);
    let error = refused(&uri(&other_ca, &mine)).await;
    assert!(error.to_string().contains("certificate"), "{error}");
    for unknown in [uri(&ca, ""), etcd.uri("", "?cache=off")] {
        let error = refused(&unknown).await;
        assert!(error.is_unavailable(), "{error}");
    }
}
