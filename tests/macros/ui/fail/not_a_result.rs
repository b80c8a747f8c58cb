use rpc_runtime::rpc_service;

#[rpc_service]
pub trait NotAResult {
    async fn text(&self) -> String;
    async fn maybe(&self, name: String) -> Option<u8>;
}

fn main() {}
