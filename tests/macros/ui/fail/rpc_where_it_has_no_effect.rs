use rpc_runtime::{Result, rpc_service};

#[rpc_service]
#[rpc(version = "1.0.0")]
pub trait Misplaced {
    #[rpc(idempotent)]
    async fn local(&self) -> Result<()> {
        Ok(())
    }
    async fn receiver(#[rpc(oneway)] &self) -> Result<()>;
    #[cfg_attr(unix, rpc(idempotent))]
    async fn conditional(&self) -> Result<()>;
}

fn main() {}
