//! Why a provider does not have a method.

use crate::connection::Channel;
use crate::descriptor::MethodDescriptor;
use crate::error::RpcError;
use crate::protocol::HelloService;
use crate::status::Status;

/// Why a provider that says "not found" does not have the method, as far as its hello tells.
pub(super) fn not_found(channel: &Channel, method: &MethodDescriptor) -> RpcError {
    let wanted = method.service();
    let hello = channel.peer_hello().unwrap_or_default();
    let services = &hello.services;
    let same_name: Vec<&HelloService> =
        services.iter().filter(|service| service.name == wanted.name()).collect();
    let fitting = same_name.iter().find(|service| wanted.accepts(&service.version, &service.group));
    let message = if let Some(service) = fitting {
        format!(
            "the provider has {} {}, which has no method `{}`; this end has version {}",
            service.name,
            service.version,
            method.name(),
            wanted.version()
        )
    } else if same_name.is_empty() {
        let mut names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        format!("the provider has no service {}; it has [{}]", wanted.name(), names.join(", "))
    } else {
        let versions: Vec<String> = same_name
            .iter()
            .map(|service| match service.group.as_str() {
                "" => service.version.clone(),
                group => format!("{} in group {group}", service.version),
            })
            .collect();
        format!(
            "version mismatch: this end wants {wanted}, the provider has version {}",
            versions.join(", ")
        )
    };
    RpcError::new(Status::NotFound, message).unexecuted()
}
