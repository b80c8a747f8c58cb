//! The rules that every back end keeps, checked on those that need no server.

use rpc_registry::{file_uri, testing};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn memory() {
    testing::conformance(&|| rpc_registry::connect("memory:conformance")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn file() {
    let folder = tempfile::tempdir().unwrap();
    let uri = file_uri(folder.path()).unwrap();
    testing::conformance(&move || rpc_registry::connect(uri.clone())).await;
}
