//! Functions for the fuzz targets: encoded responses of a server.

use prost::Message;

use super::keys::{Keys, ParsedKey};
use super::messages::RangeResponse;
use super::service_entries::ServiceEntries;
use super::watch_messages::WatchResponse;
use crate::Instance;

/// The service (of an entry, not of a note) and the id of a key.
pub fn place(prefix: &str, key: &[u8]) -> Option<(Option<String>, String)> {
    Some(match Keys::new(prefix).place(key)? {
        ParsedKey::Entry { service, id } => (Some(service), id),
        ParsedKey::Note { id } => (None, id),
    })
}

/// The key of an entry, and the key of its note.
pub fn keys(prefix: &str, service: &str, id: &str) -> (Vec<u8>, Vec<u8>) {
    let keys = Keys::new(prefix);
    (keys.entry(service, id), keys.note(service, id))
}

/// The list after a first response and a response of a watch, and the departed ids.
pub fn list(
    prefix: &str,
    service: &str,
    first: &[u8],
    then: &[u8],
) -> (Vec<Instance>, Vec<String>) {
    let keys = Keys::new(prefix);
    let kvs = RangeResponse::decode(first).map(|answer| answer.kvs).unwrap_or_default();
    let mut list = ServiceEntries::of(&keys, &keys.service(service), kvs);
    let events = WatchResponse::decode(then).map(|answer| answer.events).unwrap_or_default();
    events.into_iter().for_each(|event| list.apply(&keys, event));
    let update = list.update();
    (update.instances, update.departed)
}
