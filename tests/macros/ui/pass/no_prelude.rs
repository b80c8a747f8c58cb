#![no_implicit_prelude]

mod contract {
    type Answer<T> = ::rpc_runtime::Result<T>;

    #[::rpc_runtime::rpc_service]
    pub trait HelloService {
        async fn hello(&self, name: ::std::string::String) -> Answer<::std::string::String>;
        #[rpc(oneway, idempotent, timeout = "1s", blocking)]
        async fn note(&self, #[rpc(default)] count: u8) -> Answer<()>;
        async fn twice(&self) -> Answer<()> {
            self.note(1).await?;
            self.note(2).await
        }
    }

    #[::rpc_runtime::rpc_service]
    pub trait Store<
        V: ::serde::Serialize + ::serde::de::DeserializeOwned + ::std::marker::Send + 'static,
    >
    {
        async fn put(&self, value: V) -> Answer<V>;
    }
}

fn main() {}
