//! Functions for the fuzz targets: data of nodes.

use super::data;
use super::paths::{child, name};
use crate::Instance;

/// The instance in a node of a service.
pub fn instance(service: &str, node: &str, data: &[u8]) -> Option<Instance> {
    data::instance(service, node, data)
}

/// The epoch of data, and whether it is of this registration.
pub fn marks(data: &[u8], registration: &str) -> (Option<u64>, bool) {
    (data::epoch(data), data::is_of(data, registration))
}

/// The data of an instance.
pub fn write(instance: &Instance, registration: &str) -> Option<Vec<u8>> {
    data::write(instance, registration).ok()
}

/// The name of the node of an id.
pub fn node(id: &str) -> String {
    child("", id).trim_start_matches('/').to_owned()
}

/// The id of a node.
pub fn id(node: &str) -> Option<String> {
    name(node)
}
