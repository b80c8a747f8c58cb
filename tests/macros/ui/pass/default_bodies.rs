//! Methods with a body stay with the caller, and may look as they like.

#![deny(warnings)]

use rpc_runtime::{Result, RpcError, rpc_service};

#[rpc_service]
pub trait Greeter {
    async fn greet(&self, name: String) -> Result<String>;

    async fn greet_all(&self, names: &[&str]) -> Result<Vec<String>> {
        let mut greetings = Vec::new();
        for name in names {
            if name.is_empty() {
                return Ok(greetings);
            }
            greetings.push(self.greet(name.to_string()).await?);
        }
        Ok(greetings)
    }
    async fn pair(&self, (a, mut b): (String, String)) -> Result<(String, String)> {
        b.push('!');
        Ok((self.greet(a).await?, self.greet(b).await?))
    }
    async fn quiet(&self) {
        drop(self.greet(String::new()).await);
    }
    async fn picky<T: Into<String> + Send>(&self, name: T) -> std::result::Result<String, RpcError>
    where
        Self: Sized,
    {
        self.greet(name.into()).await
    }
    fn prefix<'a>(&self, name: &'a str) -> &'a str {
        name
    }
    async fn borrowed(&self, name: &str) -> usize {
        name.len()
    }
    fn static_helper() -> u8 {
        7
    }
}

struct Provider;

impl Greeter for Provider {
    async fn greet(&self, name: String) -> Result<String> {
        Ok(name)
    }
    async fn quiet(&self) {}
}

fn is_send(_: &impl Send) {}

fn use_both(stub: &GreeterClient) {
    is_send(&stub.greet_all(&["a"]));
    is_send(&stub.pair(Default::default()));
    is_send(&stub.picky("a"));
    is_send(&Provider.quiet());
    is_send(&Provider.borrowed("a"));
    assert_eq!(stub.prefix("a"), Provider.prefix("a"));
    assert_eq!(GreeterClient::static_helper(), 7);
}

fn main() {
    let _ = use_both;
    GreeterServer::new(Provider);
}
