use rpc_runtime::rpc_service;

type Count = rpc_runtime::Result<u64>;

#[rpc_service]
pub trait Oneway {
    #[rpc(oneway)]
    async fn visible(&self) -> rpc_runtime::Result<u64>;
    #[rpc(oneway)]
    async fn fine(&self) -> rpc_runtime::Result<()>;
}

#[rpc_service]
pub trait Hidden {
    #[rpc(oneway)]
    async fn behind_an_alias(&self) -> Count;
}

fn main() {}
