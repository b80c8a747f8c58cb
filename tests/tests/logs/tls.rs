//! What a server on TLS logs.
#![allow(missing_docs)]

use rcgen::generate_simple_self_signed;
use rpc_runtime::{Client, ClientTls, Server, ServerTls};
use rpc_tests::waiting::{soon, until};

use crate::Log;

#[tokio::test]
async fn a_server_logs_whom_it_refused_and_why() {
    let log = Log::get();
    let [ours, other] = ["127.0.0.1", "127.0.0.1"].map(|name| {
        let made = generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        (made.cert.pem(), made.signing_key.serialize_pem())
    });
    let nobody = ClientTls::roots_pem(ours.0.as_bytes()).unwrap();
    let wrong = nobody.clone().identity_pem(other.0.as_bytes(), other.1.as_bytes()).unwrap();
    for (tls, why) in [
        (Some(nobody), "the peer sent no certificate, but one is required"),
        (Some(wrong), "the peer's certificate was refused"),
        (None, "the peer did not send TLS"),
    ] {
        // One each: a server's lines are limited.
        let server = ServerTls::from_pem(ours.0.as_bytes(), ours.1.as_bytes()).unwrap();
        let server = server.client_roots_pem(ours.0.as_bytes()).unwrap();
        let server = Server::builder().tls(server).bind("tls://127.0.0.1:0").await.unwrap();
        let uri = server.local_uri().to_owned();
        let client = match tls {
            Some(tls) => Client::builder().tls(tls),
            None => Client::builder(),
        };
        let uri = if why.contains("not send TLS") { uri.replace("tls:", "tcp:") } else { uri };
        assert!(soon("a refusal", client.connect(uri)).await.is_err());
        until(why, || {
            let logged = log.text();
            let of_it = |line: &str| line.contains("WARN") && line.contains("tls://127.0.0.1:");
            logged.lines().any(|line| of_it(line) && line.contains(why))
        })
        .await;
    }
}
