//! A whole program with three mistakes in its contract: nothing else may be reported.

use rpc_runtime::{Result, rpc_service};

#[rpc_service]
pub trait HelloService {
    async fn hello(&self, name: &str) -> Result<String>;
    async fn count(&self) -> Result<u64>;
    async fn unit(&self);
    fn plain(&self) -> u8;
}

struct Hello;

impl HelloService for Hello {
    async fn hello(&self, name: &str) -> Result<String> {
        Ok(name.to_owned())
    }
    async fn count(&self) -> Result<u64> {
        Ok(1)
    }
    async fn unit(&self) {}
    fn plain(&self) -> u8 {
        0
    }
}

async fn run(service: &impl HelloService) -> Result<()> {
    service.hello("world").await?;
    service.unit().await;
    Ok(())
}

async fn all() -> Result<()> {
    let _server = HelloServiceServer::new(Hello);
    let client = HelloServiceClient::connect("tcp://127.0.0.1:9000").await?;
    client.hello("world").await?;
    client.count().await?;
    run(&client).await?;
    run(&Hello).await
}

fn main() {
    drop(all());
    let _descriptor = &HELLO_SERVICE_DESCRIPTOR;
}
