//! What the fuzz targets reach: what is read of the nodes of a server.

use super::data;
use super::paths::{child, name};
use crate::Instance;

/// The instance that a node of a service holds.
pub fn instance(service: &str, node: &str, data: &[u8]) -> Option<Instance> {
    data::instance(service, node, data)
}

/// What such data says: its epoch, and whether a registration wrote it.
pub fn marks(data: &[u8], registration: &str) -> (Option<u64>, bool) {
    (data::epoch(data), data::is_of(data, registration))
}

/// The data of an instance.
pub fn write(instance: &Instance, registration: &str) -> Option<Vec<u8>> {
    data::write(instance, registration).ok()
}

/// The name of a node, by the id that it is for.
pub fn node(id: &str) -> String {
    child("", id).trim_start_matches('/').to_owned()
}

/// The id that a node is for.
pub fn id(node: &str) -> Option<String> {
    name(node)
}
