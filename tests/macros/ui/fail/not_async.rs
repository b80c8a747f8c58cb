use std::future::Future;

use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait NotAsync {
    fn plain(&self) -> Result<()>;
    fn desugared(&self) -> impl Future<Output = Result<()>> + Send;
}

fn main() {}
