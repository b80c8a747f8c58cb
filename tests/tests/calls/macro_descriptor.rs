//! What the options of a contract come to in its descriptor.

#![allow(missing_docs)]

use std::time::Duration;

use rpc_runtime::{Dispatch, Result, rpc_service};

#[rpc_service(name = "acme.Orders", version = "2.1.0", group = "blue")]
#[allow(dead_code, reason = "its descriptor is looked at")]
pub trait Orders {
    async fn plain(&self, id: u64, note: Option<String>) -> Result<Vec<(u8, String)>>;
    #[rpc(name = "cancel_all", idempotent, oneway, timeout = "2m", blocking)]
    async fn cancel(&self) -> Result<()>;
    #[rpc(inline)]
    async fn r#type(&self, r#match: u8) -> Result<()>;
    #[rpc(spawn)]
    async fn spawned(&self) -> Result<()>;
    #[cfg(any())]
    async fn absent(&self) -> Result<()>;
    async fn local(&self) -> Result<()> {
        self.spawned().await
    }
}

#[test]
fn the_key_is_what_the_attribute_says() {
    let key = ORDERS_DESCRIPTOR.key();
    assert_eq!((key.name(), key.version(), key.group()), ("acme.Orders", "2.1.0", "blue"));
}

#[test]
fn remote_methods_are_listed_in_order_under_their_wire_names() {
    let names: Vec<_> = ORDERS_DESCRIPTOR.methods().iter().map(|method| method.name()).collect();
    assert_eq!(names, ["plain", "cancel_all", "type", "spawned"]);
}

#[test]
fn options_of_a_method_reach_its_descriptor() {
    let [plain, cancel, inline, spawned] = ORDERS_DESCRIPTOR.methods() else {
        panic!("four methods")
    };
    assert!(!plain.is_idempotent() && !plain.is_oneway());
    assert_eq!((plain.timeout(), plain.dispatch_mode()), (None, None));
    assert!(cancel.is_idempotent() && cancel.is_oneway());
    assert_eq!(cancel.timeout(), Some(Duration::from_secs(120)));
    assert_eq!(cancel.dispatch_mode(), Some(Dispatch::Blocking));
    assert_eq!(inline.dispatch_mode(), Some(Dispatch::Inline));
    assert_eq!(spawned.dispatch_mode(), Some(Dispatch::Spawn));
}

#[test]
fn arguments_and_results_are_described_as_written() {
    let plain = ORDERS_DESCRIPTOR.methods()[0];
    let arguments: Vec<_> = plain.arguments().iter().map(|a| (a.name(), a.type_name())).collect();
    assert_eq!(arguments, [("id", "u64"), ("note", "Option<String>")]);
    assert_eq!(plain.returns(), "Result<Vec<(u8, String)>>");
    assert_eq!(ORDERS_DESCRIPTOR.methods()[2].arguments()[0].name(), "match");
}
