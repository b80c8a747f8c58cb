use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait HelloService {
    async fn hello(&self) -> Result<()>;
}

#[rpc_service]
struct Hello;

#[rpc_service]
impl HelloService for Hello {
    async fn hello(&self) -> Result<()> {
        Ok(())
    }
}

#[rpc_service]
fn hello() {}

fn main() {
    HelloServiceServer::new(Hello);
    hello();
}
