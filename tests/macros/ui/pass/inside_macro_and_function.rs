//! A trait written by another macro, and one inside a function.

macro_rules! service {
    ($name:ident, $method:ident, $argument:ident: $ty:ty) => {
        #[rpc_runtime::rpc_service]
        pub trait $name {
            async fn $method(&self, $argument: $ty, fixed: u8) -> rpc_runtime::Result<$ty>;
            async fn twice(&self, $argument: $ty) -> rpc_runtime::Result<$ty> {
                let first = self.$method($argument, 1).await?;
                self.$method(first, 2).await
            }
        }
    };
}

service!(Echo, echo, value: Vec<u8>);

struct Provider;

impl Echo for Provider {
    async fn echo(&self, value: Vec<u8>, _fixed: u8) -> rpc_runtime::Result<Vec<u8>> {
        Ok(value)
    }
}

fn main() {
    #[rpc_runtime::rpc_service]
    trait Local {
        async fn method(&self, name: String) -> rpc_runtime::Result<String>;
    }
    impl Local for Provider {
        async fn method(&self, name: String) -> rpc_runtime::Result<String> {
            Ok(name)
        }
    }
    drop(LocalServer::new(Provider));
    drop(EchoServer::new(Provider));
}
