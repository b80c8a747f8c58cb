use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait Qualified {
    async unsafe fn unsafe_method(&self) -> Result<()>;
    async extern "C" fn foreign(&self) -> Result<()>;
    const fn constant(&self) -> Result<()>;
}

#[rpc_service]
pub unsafe trait UnsafeTrait {
    async fn fine(&self) -> Result<()>;
}

fn main() {}
