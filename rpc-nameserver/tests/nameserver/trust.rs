//! Servers and clients that know each other, and what clients without rights cannot do.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::common::{
    ids, instance, registry, registry_with, server, until_listed, until_seen, within,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair, SanType,
};
use rpc_nameserver::{
    Change, NameError, NameServer, NameServersSettings, NameService, NameServiceClient, Secret,
    Why, pack,
};
use rpc_registry::{Instance, LeaseState, Registry, RegistryUri};
use rpc_runtime::{ClientTls, ServerTls};
use tempfile::TempDir;

const ANY: &str = "tls://127.0.0.1:0";
const T0KEN: &str = "b46c09677343261f0b439a472422225e3a230c9c094d6ab16762e2036b597053";

/// Issues certificates, as files of a folder.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let it = Self { issuer, folder: TempDir::new().unwrap() };
        fs::write(it.path("ca.pem"), it.issuer.pem()).unwrap();
        it
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The files of certificate and key.
    fn issue(&self, name: &str, alternative: SanType) -> [PathBuf; 2] {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names.push(alternative);
        self.sign(name, &params)
    }

    fn sign(&self, name: &str, params: &CertificateParams) -> [PathBuf; 2] {
        let key = KeyPair::generate().unwrap();
        let files = [self.path(&format!("{name}.pem")), self.path(&format!("{name}.key"))];
        fs::write(&files[0], params.signed_by(&key, &self.issuer).unwrap().pem()).unwrap();
        fs::write(&files[1], key.serialize_pem()).unwrap();
        files
    }

    /// For a server that is named `names.example`.
    fn server(&self) -> ServerTls {
        let dns = SanType::DnsName("names.example".try_into().unwrap());
        let [certificate, key] = self.issue("server", dns);
        ServerTls::from_pem_files(certificate, key).unwrap()
    }

    /// The server asks clients for certificates.
    fn mutual(&self) -> ServerTls {
        self.server().client_roots_pem_file(self.path("ca.pem")).unwrap()
    }

    fn client(&self) -> ClientTls {
        let tls = ClientTls::roots_pem_file(self.path("ca.pem")).unwrap();
        tls.server_name("names.example").unwrap()
    }

    /// A URI of the registry for a client with a certificate for this URI.
    fn uri(&self, place: &str, name: &str, identity: &str) -> String {
        let [cert, key] = self.issue(name, SanType::URI(identity.try_into().unwrap()));
        format!(
            "{}?cache=off&server_name=names.example&ca={}&cert={}&key={}",
            place.replace("tls://", "nameserver://"),
            self.path("ca.pem").display(),
            cert.display(),
            key.display()
        )
    }

    fn policy(&self, text: &str) -> PathBuf {
        let path = self.path("policy.toml");
        write_policy(&path, text);
        path
    }
}

/// As a whole, so that nobody reads a half.
fn write_policy(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(new, path).unwrap();
}

async fn connect(uri: &str) -> Arc<dyn Registry> {
    let settings = NameServersSettings::from_uri(&RegistryUri::parse(uri).unwrap()).unwrap();
    Arc::new(registry_with(settings).await)
}

fn builder() -> rpc_nameserver::NameServerBuilder {
    NameServer::builder().grace(Duration::ZERO)
}

const ORDERS: &str = r#"
[[identity]]
name = "orders"
uri = ["spiffe://example/orders/*"]
register = ["svc"]
read = ["*"]

[[identity]]
name = "readers"
uri = ["spiffe://example/readers/*"]
read = ["svc"]
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_known_by_their_certificates_and_do_what_the_policy_allows() {
    let authority = Authority::new();
    let policy = authority.policy(ORDERS);
    let server = builder().tls(authority.mutual()).policy_file(policy).bind(ANY).await.unwrap();
    let place = server.local_uri();
    let orders = connect(&authority.uri(place, "orders", "spiffe://example/orders/1")).await;
    let readers = connect(&authority.uri(place, "readers", "spiffe://example/readers/1")).await;
    let nobody = connect(&authority.uri(place, "nobody", "spiffe://example/nobody")).await;

    let lease = orders.register(instance("a")).await.unwrap();
    let other = Instance::new("other", "tcp://127.0.0.1:1");
    let error = orders.register(other).await.map(drop).unwrap_err();
    assert!(error.is_permission_denied(), "{error}");
    assert!(error.to_string().contains("spiffe://example/orders/1"), "{error}");

    let mut watch = readers.watch("svc").await.unwrap();
    until_seen(&mut watch, |it| ids(it) == ["a"]).await;
    for error in [
        readers.register(instance("b")).await.map(drop).unwrap_err(),
        readers.lookup("other").await.map(drop).unwrap_err(),
        readers.unregister("svc", "a").await.map(drop).unwrap_err(),
        nobody.lookup("svc").await.map(drop).unwrap_err(),
        nobody.watch("svc").await.map(drop).unwrap_err(),
    ] {
        assert!(error.is_permission_denied(), "{error}");
    }
    assert!(nobody.services().await.unwrap().is_empty());
    assert!(matches!(lease.states().now(), LeaseState::Held { .. }));
    // Without a certificate there is no connection at all.
    let settings = NameServersSettings::new([place]).with_tls(authority.client());
    let error = registry_with(settings).await.lookup("svc").await.map(drop).unwrap_err();
    assert!(error.is_unavailable(), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_owner_of_an_identity_removes_its_registrations_from_any_process() {
    let authority = Authority::new();
    let server = builder().tls(authority.mutual()).bind(ANY).await.unwrap();
    let uri = authority.uri(server.local_uri(), "one", "spiffe://example/one");
    let (one, again) = (connect(&uri).await, connect(&uri).await);
    let other = authority.uri(server.local_uri(), "other", "spiffe://example/other");
    let other = connect(&other).await;
    let _lease = one.register(instance("a")).await.unwrap();
    assert!(other.unregister("svc", "a").await.unwrap_err().is_permission_denied());
    assert!(again.unregister("svc", "a").await.unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificates_without_a_name_are_not_one_client() {
    let authority = Authority::new();
    let server = builder().tls(authority.mutual()).bind(ANY).await.unwrap();
    let connect = async |name: &str| {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name = DistinguishedName::new();
        let [certificate, key] = authority.sign(name, &params);
        let tls = authority.client().identity_pem_files(certificate, key).unwrap();
        registry_with(NameServersSettings::new([server.local_uri()]).with_tls(tls)).await
    };
    let (owner, other) = (connect("owner").await, connect("other").await);
    let _lease = owner.register(instance("a")).await.unwrap();
    assert!(other.unregister("svc", "a").await.unwrap_err().is_permission_denied());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clients_are_known_by_tokens_over_tls() {
    let authority = Authority::new();
    let policy = authority.policy(&format!(
        "[[identity]]\nname = \"ops\"\ntoken_sha256 = [\"{T0KEN}\"]\nregister = [\"*\"]\nread = [\"*\"]"
    ));
    let server = builder().tls(authority.server()).policy_file(policy).bind(ANY).await.unwrap();
    let settings = NameServersSettings::new([server.local_uri()]).with_tls(authority.client());
    let with = async |token| registry_with(settings.clone().with_token(token).unwrap()).await;
    let known = with("t0ken").await;
    let _lease = known.register(instance("a")).await.unwrap();
    until_listed(&known, &["a"]).await;
    let error = with("wrong").await.lookup("svc").await.map(drop).unwrap_err();
    assert!(error.is_permission_denied() && !error.to_string().contains("wrong"), "{error}");
    let error = registry_with(settings.clone()).await.lookup("svc").await.map(drop).unwrap_err();
    assert!(error.is_permission_denied(), "{error}");
    // The same by a URI.
    let file = authority.path("token");
    fs::write(&file, "t0ken\n").unwrap();
    let place = server.local_uri().replace("tls://", "nameserver://");
    let uri = format!(
        "{place}?ca={}&server_name=names.example&token_file={}",
        authority.path("ca.pem").display(),
        file.display()
    );
    until_listed(&*connect(&uri).await, &["a"]).await;
}

#[tokio::test]
async fn a_server_of_another_name_or_authority_is_told_nothing() {
    let (authority, other) = (Authority::new(), Authority::new());
    let server = builder().tls(authority.server()).bind(ANY).await.unwrap();
    let host = ClientTls::roots_pem_file(authority.path("ca.pem")).unwrap();
    for tls in [host, other.client()] {
        let settings = NameServersSettings::new([server.local_uri()]).with_tls(tls);
        let registry = registry_with(settings.with_token("t0ken").unwrap()).await;
        let error = registry.lookup("svc").await.map(drop).unwrap_err();
        assert!(error.is_unavailable() && error.to_string().contains("certificate"), "{error}");
    }
}

#[tokio::test]
async fn nothing_that_is_secret_goes_to_a_server_in_clear() {
    let authority = Authority::new();
    let ca = authority.path("ca.pem");
    let token = authority.path("token");
    fs::write(&token, "t0ken").unwrap();
    let (ca, token) = (ca.display(), token.display());
    for (uri, mention) in [
        (format!("nameserver://10.0.0.1?token_file={token}"), "would be sent unencrypted"),
        (format!("nameserver://names?token_file={token}"), "would be sent unencrypted"),
        (format!("nameserver://names?cert={ca}&key={ca}"), "cert needs ca"),
        ("nameserver://names?server_name=x".to_owned(), "server_name needs ca"),
        (format!("nameserver://names?ca={ca}&cert={ca}"), "given together"),
        ("nameserver://names?ca=/nowhere".to_owned(), "/nowhere"),
        (format!("nameserver://names?ca={ca}&token_file=/nowhere"), "token_file"),
    ] {
        let error = NameServersSettings::from_uri(&RegistryUri::parse(&uri).unwrap()).unwrap_err();
        assert!(error.is_invalid_uri() && error.to_string().contains(mention), "{error}");
    }
    let near = format!("nameserver://127.0.0.1?token_file={token}");
    let near = NameServersSettings::from_uri(&RegistryUri::parse(&near).unwrap()).unwrap();
    assert!(!format!("{near:?}").contains("t0ken"), "{near:?}");
    // TLS settings and an address in clear.
    let mixed = NameServersSettings::new(["tls://10.0.0.1:1", "tcp://10.0.0.2:1"]);
    let mixed = mixed.with_tls(authority.client());
    assert!(rpc_nameserver::NameServers::new(mixed).await.map(drop).unwrap_err().is_invalid_uri());
    let both = builder().tls(authority.mutual()).bind("tcp://127.0.0.1:0").await;
    assert!(both.map(drop).unwrap_err().to_string().contains("tls://host:port"));
    // A certificate alone says nothing about clients.
    let open = builder().tls(authority.server()).bind("tls://0.0.0.0:0").await;
    assert!(open.map(drop).unwrap_err().to_string().contains("--insecure"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_policy_takes_rights_away_and_a_broken_one_takes_nothing() {
    let authority = Authority::new();
    let policy = authority.policy(ORDERS);
    let server = builder().tls(authority.mutual()).policy_file(&policy).bind(ANY).await.unwrap();
    let place = server.local_uri();
    let orders = connect(&authority.uri(place, "orders", "spiffe://example/orders/1")).await;
    let readers = connect(&authority.uri(place, "readers", "spiffe://example/readers/1")).await;
    let lease = orders.register(instance("a")).await.unwrap();
    let mut watch = readers.watch("svc").await.unwrap();
    until_seen(&mut watch, |it| ids(it) == ["a"]).await;
    write_policy(&policy, "[[identity]]\nnonsense");
    assert!(server.reload().now().is_err());
    assert_eq!(ids(&readers.lookup("svc").await.unwrap()), ["a"]);
    write_policy(&policy, &ORDERS.replace("register = [\"svc\"]", "register = []"));
    server.reload().now().unwrap();
    until_seen(&mut watch, |it| it.is_empty()).await;
    let mut states = lease.states();
    within(async {
        while !matches!(states.now(), LeaseState::Lost { .. }) {
            states.changed().await.unwrap();
        }
    })
    .await;
    // The file is looked at without being told, too.
    write_policy(&policy, ORDERS);
    until_seen(&mut watch, |it| ids(it) == ["a"]).await;
}

#[tokio::test]
async fn without_authentication_one_removes_and_replaces_ones_own_registrations_alone() {
    let server = server("tcp://127.0.0.1:0").await;
    let owner = registry(&[server.local_uri()]).await;
    let stranger = registry(&[server.local_uri()]).await;
    let lease = owner.register(instance("a")).await.unwrap();
    let error = stranger.unregister("svc", "a").await.unwrap_err();
    assert!(error.is_permission_denied(), "{error}");
    let raw = NameServiceClient::connect(server.local_uri()).await.unwrap();
    let _session = raw.attend(7, 600_000).await.unwrap();
    let take = async |epoch| {
        let instance = instance("a").with_epoch(epoch);
        let secret = Some(Secret::random().unwrap());
        let changes = vec![Change::Register { instance, new: false, secret }];
        raw.report(7, 1, pack(&changes).unwrap()).await.unwrap()[0].why
    };
    assert_eq!(take(u64::MAX).await, Why::Invalid);
    assert_eq!(take(lease.instance().epoch() + 1).await, Why::Taken);
    let listed = stranger.lookup("svc").await.unwrap();
    assert_eq!(listed[0], *lease.instance());
    assert!(owner.unregister("svc", "a").await.unwrap(), "its own");
    assert!(!stranger.unregister("svc", "a").await.unwrap(), "it is not there");
}

/// What a subscriber of the log has written.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn changes_and_refusals_are_in_the_audit_log_on_a_line_each() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone());
    // While there is one subscriber alone, an event's first use by a thread without it turns the
    // event off for all threads.
    let _second = tracing::Dispatch::new(tracing::subscriber::NoSubscriber::default());
    let _default = tracing::subscriber::set_default(subscriber.finish());
    tracing::callsite::rebuild_interest_cache();
    let _server = server("memory:audit").await;
    let raw = NameServiceClient::connect("memory:audit").await.unwrap();
    let session = raw.attend(7, 600_000).await.unwrap();
    let secret = Secret::random().unwrap();
    let forged = "a\n2026-01-01T00:00:00Z  INFO forged";
    let register =
        |instance| Change::Register { instance, new: true, secret: Some(secret.clone()) };
    let changes = vec![
        register(instance("good")),
        register(instance(forged)),
        register(instance("far").with_epoch(u64::MAX)),
    ];
    raw.report(7, 1, pack(&changes).unwrap()).await.unwrap();
    let removed = raw.remove("svc".into(), "good".into(), None).await;
    assert!(matches!(removed, Err(NameError::Denied(_))), "{removed:?}");
    drop((session, raw));
    tokio::time::sleep(Duration::from_secs(1)).await;
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let lines: Vec<_> = text.lines().filter(|it| it.contains("rpc_nameserver::audit")).collect();
    let has = |parts: [&str; 2]| lines.iter().any(|line| parts.iter().all(|it| line.contains(it)));
    assert!(has(["Register", "svc good"]) && has(["Refuse", "compare the clocks"]), "{text}");
    assert!(has(["Refuse", "remove svc good"]) && has(["Leave", "1 registrations"]), "{text}");
    assert!(!text.lines().any(|line| line.starts_with("2026-01-01T00:00:00Z")), "{text}");
}
