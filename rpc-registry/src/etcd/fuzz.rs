//! What the fuzz targets reach: answers of a server in the bytes of their messages.

use prost::Message;

use super::keys::{Keys, Place};
use super::list::List;
use super::messages::{RangeResponse, WatchResponse};
use crate::Instance;

/// The service and, if it is an entry, not a note, the id that a key stands for.
pub fn place(prefix: &str, key: &[u8]) -> Option<(Option<String>, String)> {
    Some(match Keys::new(prefix).place(key)? {
        Place::Entry { service, id } => (Some(service), id),
        Place::Note { id } => (None, id),
    })
}

/// The key of an entry, and that of the note that it has left.
pub fn keys(prefix: &str, service: &str, id: &str) -> (Vec<u8>, Vec<u8>) {
    let keys = Keys::new(prefix);
    (keys.entry(service, id), keys.note(service, id))
}

/// The list that a first answer and one of a watch make, and who has left.
pub fn list(
    prefix: &str,
    service: &str,
    first: &[u8],
    then: &[u8],
) -> (Vec<Instance>, Vec<String>) {
    let keys = Keys::new(prefix);
    let kvs = RangeResponse::decode(first).map(|answer| answer.kvs).unwrap_or_default();
    let mut list = List::of(&keys, &keys.service(service), kvs);
    let events = WatchResponse::decode(then).map(|answer| answer.events).unwrap_or_default();
    events.into_iter().for_each(|event| list.apply(&keys, event));
    let update = list.update();
    (update.instances, update.departed)
}
