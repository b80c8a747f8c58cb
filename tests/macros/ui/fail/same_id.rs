use rpc_runtime::{Result, rpc_service};

// Under `cfg` the macro cannot know which of them exist, the compiler can.
#[rpc_service]
pub trait Twins {
    #[cfg(all())]
    async fn first(&self) -> Result<()>;
    #[cfg(all())]
    #[rpc(name = "first")]
    async fn second(&self) -> Result<()>;
}

fn main() {}
