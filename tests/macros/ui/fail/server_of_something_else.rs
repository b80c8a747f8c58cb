use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait HelloService {
    async fn hello(&self) -> Result<()>;
}

struct Stranger;

fn main() {
    HelloServiceServer::new(Stranger);
}
