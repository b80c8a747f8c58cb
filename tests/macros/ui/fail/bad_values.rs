use rpc_runtime::{Result, rpc_service};

#[rpc_service(name = "two words", version = "1.2", group = blue)]
pub trait Values {
    #[rpc(timeout = "10us")]
    async fn too_fine(&self) -> Result<()>;
    #[rpc(timeout = "1.5s")]
    async fn fraction(&self) -> Result<()>;
    #[rpc(timeout = "25h")]
    async fn hours(&self) -> Result<()>;
    #[rpc(timeout = "0s")]
    async fn zero(&self) -> Result<()>;
    #[rpc(timeout = 200)]
    async fn number(&self) -> Result<()>;
    #[rpc(timeout)]
    async fn missing(&self) -> Result<()>;
    #[rpc(idempotent = true)]
    async fn flag(&self) -> Result<()>;
    #[rpc(name = "")]
    async fn nameless(&self) -> Result<()>;
    #[rpc]
    async fn bare(&self) -> Result<()>;
}

#[rpc_service(crate = 5)]
pub trait WrongPath {
    async fn fine(&self) -> Result<()>;
}

fn main() {}
