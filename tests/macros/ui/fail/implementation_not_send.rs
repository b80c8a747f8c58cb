use std::rc::Rc;

use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait HelloService {
    async fn hello(&self) -> Result<()>;
}

struct Hello;

async fn pause() {}

impl HelloService for Hello {
    async fn hello(&self) -> Result<()> {
        let local = Rc::new(());
        pause().await;
        drop(local);
        Ok(())
    }
}

fn main() {
    HelloServiceServer::new(Hello);
}
