//! One provider of two services, and two services with the same methods in one module.

use std::sync::Arc;

use rpc_runtime::{Result, Service, rpc_service};

#[rpc_service]
pub trait Reader {
    async fn run(&self, key: String) -> Result<String>;
}

#[rpc_service]
pub trait Writer: std::fmt::Debug {
    async fn run(&self, key: String) -> Result<String>;
}

#[derive(Debug)]
struct Both;

impl Reader for Both {
    async fn run(&self, key: String) -> Result<String> {
        Ok(key)
    }
}

impl Writer for Both {
    async fn run(&self, key: String) -> Result<String> {
        Ok(key)
    }
}

fn main() {
    let both = Arc::new(Both);
    let _services: [Arc<dyn Service>; 2] = [
        Arc::new(ReaderServer::from_arc(Arc::clone(&both))),
        Arc::new(WriterServer::from_arc(both)),
    ];
}
