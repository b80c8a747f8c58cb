use rpc_runtime::{Result, rpc_service};
use serde::Serialize;
use serde::de::DeserializeOwned;

#[rpc_service]
pub trait Store<K, V = String, const N: usize = 4>
where
    K: Serialize + DeserializeOwned + Send + Sync + 'static,
    V: Serialize + DeserializeOwned + Send + Sync + 'static,
{
    async fn put(&self, key: K, #[rpc(default)] count: u32, value: V) -> Result<Option<V>>;
    async fn get(&self, key: K) -> Result<V>;
    #[rpc(oneway)]
    async fn forget(&self, key: K) -> Result<()>;
    fn width(&self) -> usize {
        N
    }
}

struct One;

impl Store<u8> for One {
    async fn put(&self, _key: u8, _count: u32, value: String) -> Result<Option<String>> {
        Ok(Some(value))
    }
    async fn get(&self, key: u8) -> Result<String> {
        Ok(key.to_string())
    }
    async fn forget(&self, _key: u8) -> Result<()> {
        Ok(())
    }
}

/// Neither `Clone` nor `Debug`, nor `Sync`.
#[derive(serde::Serialize, serde::Deserialize)]
struct Plain(std::cell::Cell<u8>);

fn shared<T: Clone + std::fmt::Debug + Send + Sync + 'static>(_: Option<T>) {}

fn main() {
    let _server = StoreServer::<_, u8>::new(One);
    shared::<StoreClient<Plain, Plain, 9>>(None);
    shared::<StoreServer<One, Plain>>(None);
    let _descriptor = &STORE_DESCRIPTOR;
    let _connect = StoreClient::<u8>::connect("tcp://127.0.0.1:9000");
}
