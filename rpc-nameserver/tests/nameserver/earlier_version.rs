//! Clients and servers of the version before registrations had secrets.
#![allow(missing_docs, clippy::unwrap_used, clippy::panic, reason = "all of this is test code")]

use std::sync::Mutex;

use crate::common::{instance, registry, server};
use rpc_nameserver::{Listing, NameError, Refusal, Why, pack, unpack};
use rpc_registry::{Instance, Registry};
use rpc_runtime::{Blob, Server, Streaming, rpc_service};
use serde::{Deserialize, Serialize};

/// The contract as it was.
#[rpc_service(name = "rpc.NameService", version = "1.0.0")]
trait Earlier {
    async fn attend(&self, session: u64, expiry_ms: u64) -> Result<Streaming<()>, NameError>;
    #[rpc(idempotent)]
    async fn renew(&self, session: u64, version: u64) -> rpc_runtime::Result<bool>;
    async fn report(
        &self,
        session: u64,
        version: u64,
        changes: Blob,
    ) -> Result<Vec<Refusal>, NameError>;
    #[rpc(idempotent)]
    async fn lookup(&self, service: String) -> Result<Listing, NameError>;
    async fn follow(&self, service: String) -> Result<Streaming<Listing>, NameError>;
    #[rpc(idempotent)]
    async fn services(&self) -> Result<Vec<String>, NameError>;
    async fn remove(&self, service: String, id: String) -> Result<bool, NameError>;
}

#[derive(Serialize, Deserialize)]
enum Change {
    Register { instance: Instance, new: bool },
    Unregister { service: String, id: String, epoch: u64 },
}

fn register(epoch: u64, new: bool) -> Blob {
    pack(&[Change::Register { instance: instance("a").with_epoch(epoch), new }]).unwrap()
}

#[tokio::test]
async fn an_earlier_provider_registers_and_nobody_else_takes_its_id() {
    let server = server("tcp://127.0.0.1:0").await;
    let owner = EarlierClient::connect(server.local_uri()).await.unwrap();
    let other = EarlierClient::connect(server.local_uri()).await.unwrap();
    let session = owner.attend(1, 60_000).await.unwrap();
    let _other = other.attend(2, 60_000).await.unwrap();
    assert!(owner.report(1, 1, register(5, true)).await.unwrap().is_empty());
    assert!(owner.renew(1, 1).await.unwrap());
    assert!(owner.report(1, 2, register(6, false)).await.unwrap().is_empty(), "its own session");
    assert_eq!(other.report(2, 1, register(7, false)).await.unwrap()[0].why, Why::Taken);
    assert!(other.remove("svc".into(), "a".into()).await.is_err());
    let listed: Vec<Instance> =
        unpack(&other.lookup("svc".into()).await.unwrap().instances).unwrap();
    assert_eq!(listed[0].epoch(), 6);
    drop(session);
    crate::common::until_listed(&registry(&[server.local_uri()]).await, &[]).await;
    assert!(other.report(2, 2, register(1, true)).await.unwrap().is_empty(), "it is free");
}

/// A server that takes everything, and keeps what it was told.
struct TakesAll(Mutex<Vec<String>>);

impl TakesAll {
    fn told(&self, what: String) {
        self.0.lock().unwrap().push(what);
    }
}

impl Earlier for TakesAll {
    async fn attend(&self, _: u64, _: u64) -> Result<Streaming<()>, NameError> {
        Ok(Streaming::from_stream(futures::stream::pending()))
    }

    async fn renew(&self, _: u64, _: u64) -> rpc_runtime::Result<bool> {
        Ok(true)
    }

    async fn report(&self, _: u64, _: u64, changes: Blob) -> Result<Vec<Refusal>, NameError> {
        for change in unpack::<Vec<Change>>(&changes)? {
            match change {
                Change::Register { instance, new } => {
                    self.told(format!("+{} {new}", instance.id()));
                }
                Change::Unregister { id, .. } => self.told(format!("-{id}")),
            }
        }
        Ok(Vec::new())
    }

    async fn lookup(&self, _: String) -> Result<Listing, NameError> {
        let told = pack(&*self.0.lock().unwrap())?;
        Ok(Listing { instances: pack(&Vec::<Instance>::new())?, departed: unpack(&told)? })
    }

    async fn follow(&self, _: String) -> Result<Streaming<Listing>, NameError> {
        Ok(Streaming::from_items([]))
    }

    async fn services(&self) -> Result<Vec<String>, NameError> {
        Ok(Vec::new())
    }

    async fn remove(&self, service: String, id: String) -> Result<bool, NameError> {
        self.told(format!("remove {service} {id}"));
        Ok(true)
    }
}

#[tokio::test]
async fn an_earlier_server_is_told_what_it_understands() {
    let provided = EarlierServer::new(TakesAll(Mutex::default()));
    let server = Server::builder().provide(provided).bind("tcp://127.0.0.1:0").await.unwrap();
    let registry = registry(&[server.local_uri()]).await;
    let lease = registry.register(instance("a")).await.unwrap();
    assert!(registry.unregister("svc", "a").await.unwrap());
    lease.revoke().await.unwrap();
    let told = EarlierClient::connect(server.local_uri()).await.unwrap();
    let told = told.lookup("svc".into()).await.unwrap().departed;
    assert_eq!(told, ["+a true", "remove svc a", "-a"]);
}
