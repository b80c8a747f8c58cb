//! Floods of TLS handshakes against a server with default settings: those who are there already do
//! not wait.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use rcgen::{CertificateParams, KeyPair};
use rpc_runtime::{Client, ClientTls, Server, ServerTls};
use rpc_tests::probe::{ProbeServer, Provider};
use rpc_tests::process::{SAYS, setting};
use rpc_tests::victim::{self, Damage, Victim, attack_time};
use rpc_tests::waiting::soon;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

const CERTIFICATE: &str = "RPC_TESTS_CERTIFICATE";
const KEY: &str = "RPC_TESTS_KEY";

/// The role of a child that serves on TLS.
pub(crate) const SERVER: &str = "tls";

/// What the child does.
pub(crate) fn play() {
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let tls = ServerTls::from_pem(setting(CERTIFICATE).as_bytes(), setting(KEY).as_bytes());
        let server = Server::builder()
            .provide(ProbeServer::new(Provider::new("victim")))
            .tls(tls.unwrap())
            .bind("tls://127.0.0.1:0")
            .await
            .unwrap();
        println!("{SAYS} {}", server.local_uri());
        std::future::pending::<()>().await;
    });
}

/// Attackers that make one connection after another, 400 at a time, and do this with each. Each
/// counts as 200 bytes sent.
async fn endures(what: &str, one: impl AsyncFn(TcpStream) + Clone + Send + Sync + 'static) {
    // Without `Send` futures of the closure, each attacker has the one thread of its runtime.
    let attack = |uri: String| {
        let one = one.clone();
        async move {
            let address = uri.strip_prefix("tls://").unwrap().to_owned();
            let thread = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let local = tokio::task::LocalSet::new();
                local.block_on(&runtime.unwrap(), async move {
                    let made = Rc::new(Cell::new(0));
                    let mut tasks = JoinSet::new();
                    for _ in 0..400 {
                        let (one, address, made) = (one.clone(), address.clone(), made.clone());
                        tasks.spawn_local(async move {
                            let all = async {
                                loop {
                                    let Ok(stream) = TcpStream::connect(&address).await else {
                                        break;
                                    };
                                    one(stream).await;
                                    made.set(made.get() + 1);
                                }
                            };
                            let _ = tokio::time::timeout(attack_time(), all).await;
                        });
                    }
                    tasks.join_all().await;
                    made.get()
                })
            };
            let made: u64 = tokio::task::spawn_blocking(thread).await.unwrap();
            assert!(made > 0, "no connection got anywhere");
            made * 200
        }
    };
    victim::repeated(what, async || -> Damage {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.self_signed(&key).unwrap().pem();
        let settings = [(CERTIFICATE, &*certificate), (KEY, &*key.serialize_pem())];
        let tls = ClientTls::roots_pem(certificate.as_bytes()).unwrap();
        let mut victim = Victim::start(SERVER, &settings).await;
        victim.under(Client::builder().tls(tls), attack).await
    })
    .await;
}

/// The first bytes of a client of this framework.
async fn client_hello() -> Vec<u8> {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let uri = format!("tls://{}", listener.local_addr().unwrap());
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let root = params.self_signed(&key).unwrap().pem();
    let tls = ClientTls::roots_pem(root.as_bytes()).unwrap();
    let client = tokio::spawn(async move { Client::builder().tls(tls).connect(&uri).await });
    let (mut stream, _) = soon("a connection", listener.accept()).await.unwrap();
    let mut bytes = vec![0; 5];
    soon("a record's front", stream.read_exact(&mut bytes)).await.unwrap();
    assert_eq!(bytes[..3], [22, 3, 1]);
    bytes.resize(5 + usize::from(u16::from_be_bytes([bytes[3], bytes[4]])), 0);
    soon("the record", stream.read_exact(&mut bytes[5..])).await.unwrap();
    client.abort();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn handshakes_that_are_left_half_way() {
    let hello = client_hello().await;
    // The server signs for each of them.
    endures("client hellos", async move |mut stream: TcpStream| {
        let _ = stream.write_all(&hello).await;
        let _ = stream.read(&mut [0; 4_096]).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn client_hellos_that_never_end() {
    let hello = client_hello().await;
    endures("half client hellos", async move |mut stream: TcpStream| {
        let _ = stream.write_all(hello.get(..hello.len() / 2).unwrap()).await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn records_that_are_none() {
    endures("junk", async |mut stream: TcpStream| {
        // A record of handshake that announces a message of 16 MiB, in parts.
        let mut record = vec![22, 3, 1, 0x40, 0, 1, 0xff, 0xff, 0xff];
        record.resize(5 + 0x4000, 0);
        while stream.write_all(&record).await.is_ok() {}
    })
    .await;
}
