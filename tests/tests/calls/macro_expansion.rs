//! The checked-in expansion is code that compiles where it stands, without the macro's hygiene.
//! That it is what the macro writes is tested beside the macro, in `rpc-macros/src/expand`.

#![allow(dead_code, non_camel_case_types, non_upper_case_globals)]

mod expansion {
    include!("../../expansion/hello_service.rs");
}

use expansion::{HELLO_SERVICE_DESCRIPTOR, HelloService, HelloServiceClient, HelloServiceServer};

struct Hello;

impl HelloService for Hello {
    async fn hello(&self, name: String) -> rpc_runtime::Result<String> {
        Ok(format!("Hello, {name}"))
    }
}

#[test]
fn the_expansion_describes_and_serves_the_contract() {
    let server = HelloServiceServer::new(Hello);
    let descriptor = rpc_runtime::Service::descriptor(&server);
    assert_eq!(descriptor.key(), HELLO_SERVICE_DESCRIPTOR.key());
    assert_eq!(descriptor.key().name(), "HelloService");
    let [method] = descriptor.methods() else { panic!("one method, not {descriptor:?}") };
    assert_eq!((method.name(), method.returns()), ("hello", "rpc_runtime::Result<String>"));
    let [argument] = method.arguments() else { panic!("one argument, not {method:?}") };
    assert_eq!((argument.name(), argument.type_name()), ("name", "String"));
}

#[test]
fn a_stub_can_be_shared_and_spawned() {
    fn shareable<T: Clone + std::fmt::Debug + Send + Sync + 'static>() {}
    shareable::<HelloServiceClient>();
    shareable::<HelloServiceServer<Hello>>();
}
