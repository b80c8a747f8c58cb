//! Mutual TLS: authentication of both ends, a refused client, and the renewal of a certificate.
//!
//! ```text
//! cargo run --bin tls
//! ```
//!
//! Certificates are read from files, as in production. A temporary certificate authority issues
//! them at the start.

#![allow(clippy::print_stdout, reason = "examples show what they do")]

use std::fs;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rpc_runtime::{Client, ClientTls, Context, Server, ServerTls, rpc_service};

#[rpc_service]
trait Greeter {
    async fn hello(&self, name: String) -> rpc_runtime::Result<String>;
}

struct Polite;

impl Greeter for Polite {
    async fn hello(&self, name: String) -> rpc_runtime::Result<String> {
        let context = Context::current();
        let caller = context.peer_certificate().map_or("unknown", |peer| peer.subject());
        Ok(format!("Hello, {name}: you are {caller}"))
    }
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    rpc_examples::init_tracing();
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let authority = Authority::new()?;
    fs::write(path("ca.pem"), authority.0.pem())?;
    authority.issue("provider", &path("provider.pem"), &path("provider.key"))?;
    authority.issue("consumer", &path("consumer.pem"), &path("consumer.key"))?;

    let tls = ServerTls::from_pem_files(path("provider.pem"), path("provider.key"))?
        .client_roots_pem_file(path("ca.pem"))?;
    let server = Server::builder()
        .provide(GreeterServer::new(Polite))
        .tls(tls.clone())
        .bind("tls://127.0.0.1:0")
        .await?;
    println!("serving at {}", server.local_uri());

    let trusting = ClientTls::roots_pem_file(path("ca.pem"))?;
    let consumer =
        trusting.clone().identity_pem_files(path("consumer.pem"), path("consumer.key"))?;
    let client = Client::builder().tls(consumer.clone()).connect(server.local_uri()).await?;
    println!("{}", GreeterClient::new(client).hello("world".into()).await?);

    // This client has no certificate.
    match Client::builder().tls(trusting).connect(server.local_uri()).await {
        Ok(_) => anyhow::bail!("a client without a certificate was accepted"),
        Err(error) => println!("a client without a certificate is refused: {error}"),
    }

    // In production, a timer or a file watcher does this. Open connections continue.
    authority.issue("provider (renewed)", &path("provider.pem"), &path("provider.key"))?;
    tls.reload()?;
    let client = Client::builder().tls(consumer).connect(server.local_uri()).await?;
    for channel in client.channels() {
        if let Some(certificate) = channel.peer_certificate() {
            println!("renewed: the provider is {}", certificate.subject());
        }
    }
    server.shutdown().await?;
    Ok(())
}

/// The certificate authority of this example.
struct Authority(CertifiedIssuer<'static, KeyPair>);

impl Authority {
    fn new() -> anyhow::Result<Self> {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    fn issue(&self, name: &str, certificate: &Path, key: &Path) -> anyhow::Result<()> {
        let mut params = CertificateParams::new(["127.0.0.1".to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, name);
        let pair = KeyPair::generate()?;
        fs::write(certificate, params.signed_by(&pair, &self.0)?.pem())?;
        fs::write(key, pair.serialize_pem())?;
        Ok(())
    }
}
