//! Servers on unix sockets.
#![cfg(unix)]
#![allow(missing_docs)]

use std::fs;
use std::os::unix::fs::{FileTypeExt, PermissionsExt, chown, symlink};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rpc_registry::{BoxFuture, Instance, Lease, Registry, RegistryError, Snapshot, Watch};
use rpc_runtime::{Client, Context, RpcError, Server, rpc_service};
use rpc_tests::probe::{Probe, ProbeClient, ProbeServer, Provider};
use rpc_tests::waiting::soon;
use tempfile::TempDir;

struct Place {
    _folder: TempDir,
    path: PathBuf,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self { path: folder.path().join("rpc.sock"), _folder: folder }
    }

    fn uri(&self) -> String {
        format!("unix://{}", self.path.display())
    }
}

fn is_socket(path: &Path) -> bool {
    path.symlink_metadata().is_ok_and(|metadata| metadata.file_type().is_socket())
}

async fn bind(uri: &str) -> rpc_runtime::Result<Server> {
    let provider = Provider::new("unix");
    soon("binding", Server::builder().provide(ProbeServer::new(provider)).bind(uri)).await
}

async fn sum(uri: &str) -> rpc_runtime::Result<i64> {
    soon("a call", async { ProbeClient::connect(uri).await?.add(3, 4).await }).await
}

#[rpc_service]
trait Who {
    async fn peer(&self) -> rpc_runtime::Result<String>;
}

struct Told;

impl Who for Told {
    async fn peer(&self) -> rpc_runtime::Result<String> {
        Ok(Context::current().peer().unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn calls_of_any_size_go_both_ways_and_the_file_is_gone_with_the_server() {
    let place = Place::new();
    let server = bind(&place.uri()).await.unwrap();
    assert_eq!(server.local_uri(), place.uri());
    assert!(is_socket(&place.path));
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    let text = "x".repeat(3 << 20);
    assert_eq!(soon("a large call", probe.echo(text.clone())).await.unwrap(), text);
    soon("shutting down", server.shutdown()).await.unwrap();
    assert!(!place.path.exists());
    let error = sum(&place.uri()).await.unwrap_err();
    assert!(
        error.is_unavailable() && error.message().contains("no server listens there"),
        "{error}"
    );
}

#[tokio::test]
async fn the_provider_sees_who_calls() {
    let place = Place::new();
    let server = Server::builder().provide(WhoServer::new(Told)).bind(place.uri()).await.unwrap();
    let peer = WhoClient::connect(server.local_uri()).await.unwrap().peer().await.unwrap();
    assert!(peer.starts_with(&format!("{}#", place.uri())), "{peer}");
    if cfg!(target_os = "linux") {
        assert!(peer.contains(&format!("#pid={},uid=", std::process::id())), "{peer}");
    }
}

#[tokio::test]
async fn the_file_of_a_dead_server_is_replaced() {
    let place = Place::new();
    // What a killed process leaves behind.
    drop(UnixListener::bind(&place.path).unwrap());
    assert!(is_socket(&place.path));
    let server = bind(&place.uri()).await.unwrap();
    assert_eq!(sum(server.local_uri()).await, Ok(7));
    // And again, on a path that has been used.
    soon("shutting down", server.shutdown()).await.unwrap();
    let server = bind(&place.uri()).await.unwrap();
    assert_eq!(sum(server.local_uri()).await, Ok(7));
}

#[tokio::test]
async fn a_path_on_which_somebody_listens_is_in_use() {
    let place = Place::new();
    let server = bind(&place.uri()).await.unwrap();
    let error = bind(&place.uri()).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("in use"), "{error}");
    assert_eq!(sum(server.local_uri()).await, Ok(7));

    // Also if whoever it is knows nothing of the lock, and accepts nobody.
    let place = Place::new();
    let other = UnixListener::bind(&place.path).unwrap();
    let error = bind(&place.uri()).await.unwrap_err();
    assert!(error.message().contains("in use"), "{error}");
    assert!(UnixStream::connect(&place.path).is_ok(), "the other's socket was removed");
    drop(other);
}

#[tokio::test]
async fn what_is_no_socket_is_never_removed() {
    let place = Place::new();
    fs::write(&place.path, "precious").unwrap();
    let error = bind(&place.uri()).await.unwrap_err();
    assert!(error.message().contains("not a socket"), "{error}");
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");

    let place = Place::new();
    fs::create_dir(&place.path).unwrap();
    assert!(bind(&place.uri()).await.is_err());
    assert!(place.path.is_dir());
}

#[tokio::test]
async fn a_link_at_the_path_is_neither_followed_nor_removed() {
    let (place, other) = (Place::new(), Place::new());
    for target in [&other.path, &place.path] {
        symlink(target, &place.path).unwrap();
        let error = bind(&place.uri()).await.unwrap_err();
        assert!(error.message().contains("not a socket"), "{error}");
        assert!(place.path.is_symlink() && !other.path.exists());
        fs::remove_file(&place.path).unwrap();
    }
}

#[tokio::test]
async fn nobody_but_the_owner_of_a_server_can_hold_its_lock() {
    let place = Place::new();
    let _server = bind(&place.uri()).await.unwrap();
    let lock = fs::metadata(place.path.with_extension("sock.lock")).unwrap();
    assert_eq!(lock.permissions().mode() & 0o077, 0, "others may open it");
}

#[tokio::test]
async fn a_lock_file_that_was_made_open_to_others_is_closed_to_them() {
    for open in [0o644, 0o666] {
        let place = Place::new();
        let lock = place.path.with_extension("sock.lock");
        fs::write(&lock, "").unwrap();
        fs::set_permissions(&lock, fs::Permissions::from_mode(open)).unwrap();
        let _server = bind(&place.uri()).await.unwrap();
        assert_eq!(fs::metadata(&lock).unwrap().permissions().mode() & 0o777, 0o600);
    }
    let place = Place::new();
    let (lock, other) =
        (place.path.with_extension("sock.lock"), place.path.with_extension("other"));
    fs::write(&other, "").unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o644)).unwrap();
    fs::hard_link(&other, &lock).unwrap();
    let error = bind(&place.uri()).await.unwrap_err();
    assert!(error.message().contains("2 names"), "{error}");
    assert_eq!(fs::metadata(&other).unwrap().permissions().mode() & 0o777, 0o644);
}

#[tokio::test]
async fn a_lock_file_that_cannot_be_is_named() {
    let place = Place::new();
    fs::create_dir(place.path.with_extension("sock.lock")).unwrap();
    let error = bind(&place.uri()).await.unwrap_err();
    assert!(error.is_unavailable() && error.message().contains("rpc.sock.lock"), "{error}");
    assert!(!place.path.exists());
}

#[tokio::test]
async fn a_lock_file_of_somebody_else_is_neither_followed_nor_waited_for() {
    let place = Place::new();
    let (lock, other) =
        (place.path.with_extension("sock.lock"), place.path.with_extension("other"));
    symlink(&other, &lock).unwrap();
    assert!(bind(&place.uri()).await.unwrap_err().is_unavailable());
    assert!(!other.exists(), "the link was followed");
    fs::remove_file(&lock).unwrap();

    assert!(std::process::Command::new("mkfifo").arg(&lock).status().unwrap().success());
    let error = bind(&place.uri()).await.unwrap_err();
    assert!(error.message().contains("not a regular file"), "{error}");
    fs::remove_file(&lock).unwrap();

    fs::write(&lock, "").unwrap();
    if chown(&lock, Some(65_534), None).is_ok() {
        let error = bind(&place.uri()).await.unwrap_err();
        assert!(error.message().contains("belongs to the user 65534"), "{error}");
        fs::remove_file(&lock).unwrap();
    }
    drop(bind(&place.uri()).await.unwrap());
}

#[tokio::test]
async fn a_server_whose_file_is_removed_serves_on_and_keeps_its_path() {
    let place = Place::new();
    let server = bind(&place.uri()).await.unwrap();
    let probe = ProbeClient::connect(server.local_uri()).await.unwrap();
    fs::remove_file(&place.path).unwrap();
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok(7));
    let error = bind(&place.uri()).await.unwrap_err();
    assert!(error.message().contains("in use"), "{error}");
    soon("shutting down", server.shutdown()).await.unwrap();
    let _next = bind(&place.uri()).await.unwrap();
    assert_eq!(sum(&place.uri()).await, Ok(7));
}

#[tokio::test]
async fn a_file_that_took_its_place_outlives_the_server() {
    let place = Place::new();
    let server = bind(&place.uri()).await.unwrap();
    fs::remove_file(&place.path).unwrap();
    fs::write(&place.path, "precious").unwrap();
    soon("shutting down", server.shutdown()).await.unwrap();
    assert_eq!(fs::read_to_string(&place.path).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_servers_that_start_at_once_one_serves_and_can_be_reached() {
    for _ in 0..50 {
        let place = Place::new();
        drop(UnixListener::bind(&place.path).unwrap());
        let start = |uri: String| tokio::spawn(async move { bind(&uri).await });
        let starting: Vec<_> = (0..4).map(|_| start(place.uri())).collect();
        let mut serving = Vec::new();
        for started in starting {
            match started.await.unwrap() {
                Ok(server) => serving.push(server),
                Err(error) => assert!(error.message().contains("in use"), "{error}"),
            }
        }
        assert_eq!(serving.len(), 1);
        assert_eq!(sum(&place.uri()).await, Ok(7));
    }
}

#[tokio::test]
async fn addresses_that_cannot_be_say_what_is_wrong() {
    let long = format!("unix:///tmp/{}", "x".repeat(200));
    for (uri, why) in [
        ("unix://relative", "must be absolute"),
        ("unix:relative/path", "must be absolute"),
        ("unix:///tmp/", "end with a file name"),
        (&*long, "has 205 bytes"),
    ] {
        for error in
            [Client::builder().connect(uri).await.unwrap_err(), bind(uri).await.unwrap_err()]
        {
            assert!(error.is_invalid() && error.message().contains(why), "{uri}: {error}");
        }
    }
}

#[tokio::test]
async fn it_is_announced_where_consumers_are_on_this_machine() {
    let place = Place::new();
    let folder = tempfile::tempdir().unwrap();
    let uri = rpc_registry::file_uri(folder.path()).unwrap();
    let registry = rpc_registry::connect(&uri).await.unwrap();
    let provider = Provider::new("unix");
    let server = Server::builder().provide(ProbeServer::new(provider)).registry(registry.clone());
    let server = server.bind(place.uri()).await.unwrap();
    let probe = soon("discovering", ProbeClient::discover(registry)).await.unwrap();
    assert_eq!(soon("a call", probe.add(3, 4)).await, Ok::<_, RpcError>(7));
    soon("shutting down", server.shutdown()).await.unwrap();
}

/// A registry of several machines, which nobody is to ask for anything.
struct Remote;

impl Registry for Remote {
    fn uri(&self) -> &str {
        "etcd://10.0.0.1:2379"
    }

    fn register(&self, _: Instance) -> BoxFuture<'_, Result<Lease, RegistryError>> {
        unreachable!("it was announced")
    }

    fn lookup<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Snapshot, RegistryError>> {
        unreachable!()
    }

    fn watch<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Watch, RegistryError>> {
        unreachable!()
    }

    fn unregister<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        unreachable!()
    }

    fn services(&self) -> BoxFuture<'_, Result<Vec<String>, RegistryError>> {
        unreachable!()
    }
}

#[tokio::test]
async fn it_is_not_announced_to_other_machines() {
    let place = Place::new();
    let server = Server::builder().provide(WhoServer::new(Told)).registry(Arc::new(Remote));
    let error = server.bind(place.uri()).await.unwrap_err();
    assert!(error.is_invalid(), "{error}");
    assert!(error.message().contains("leads nowhere outside of this machine"), "{error}");
    assert!(!place.path.exists(), "the socket was left behind");
}
