//! [`PackedList`]: the encoded list of a service, encoded once for all consumers.

use std::sync::Arc;

use bytes::BytesMut;
use rpc_registry::sync::Mutex;
use rpc_runtime::{Blob, RpcError};
use tokio::task::spawn_blocking;

use super::registration_map::RegistrationMap;

/// Longer lists are encoded on the pool of blocking threads.
const LONG: usize = 256 << 10;

/// A list and the number of its last change.
#[derive(Clone)]
pub(super) struct Packed {
    pub(super) change: u64,
    pub(super) list: Blob,
}

/// The last encoded list of a service. One list is encoded at a time, outside of the table's lock,
/// and requests that arrive during that time share the next one. So a service that changes
/// constantly costs at most one core, and a list is never encoded more often than it is requested.
#[derive(Default)]
pub(super) struct PackedList {
    last: Mutex<Option<Packed>>,
    /// Held while a list is encoded.
    turn: tokio::sync::Mutex<()>,
}

impl PackedList {
    /// The list, if it already contains this change.
    pub(super) fn since(&self, change: u64) -> Option<Packed> {
        self.last.lock().clone().filter(|packed| packed.change >= change)
    }

    /// A list that contains at least this change. `snapshot` returns the entries of the service and
    /// the number of its last change.
    pub(super) async fn pack(
        &self,
        change: u64,
        snapshot: impl FnOnce() -> (u64, RegistrationMap),
    ) -> Result<Packed, RpcError> {
        let _turn = self.turn.lock().await;
        if let Some(packed) = self.since(change) {
            return Ok(packed);
        }
        let (change, entries) = snapshot();
        let list = match entries.listed_bytes() > LONG {
            true => spawn_blocking(move || pack(&entries)).await.map_err(|error| {
                RpcError::internal(format!("the list could not be encoded: {error}"))
            })?,
            false => pack(&entries),
        };
        let packed = Packed { change, list };
        *self.last.lock() = Some(packed.clone());
        Ok(packed)
    }
}

/// A MessagePack array of encoded elements.
fn pack(entries: &RegistrationMap) -> Blob {
    let len = entries.len();
    let mut bytes = BytesMut::with_capacity(entries.listed_bytes().saturating_add(5));
    match (u8::try_from(len), u16::try_from(len)) {
        (Ok(len @ ..16), _) => bytes.extend_from_slice(&[0x90 | len]),
        (_, Ok(len)) => {
            bytes.extend_from_slice(&[0xdc]);
            bytes.extend_from_slice(&len.to_be_bytes());
        }
        _ => {
            bytes.extend_from_slice(&[0xdd]);
            bytes.extend_from_slice(&u32::try_from(len).unwrap_or(u32::MAX).to_be_bytes());
        }
    }
    entries.iter().for_each(|entry| bytes.extend_from_slice(&entry.packed));
    Blob::from(bytes.freeze())
}

/// The list of a service without providers.
pub(super) fn nobody() -> Packed {
    Packed { change: 0, list: pack(&RegistrationMap::default()) }
}

pub(super) type SharedList = Arc<PackedList>;

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use rpc_registry::Instance;

    use super::*;
    use crate::contract::unpack;
    use crate::server::stored_registration::StoredRegistration;

    fn entries(count: usize) -> RegistrationMap {
        let mut entries = RegistrationMap::default();
        for n in 0..count {
            entries.insert(Arc::new(StoredRegistration::for_test(&format!("{n:06}"))));
        }
        entries
    }

    #[test]
    fn lists_of_every_length_are_read_again() {
        for count in [0, 1, 15, 16, 255, 256, 65_535, 65_536] {
            let read: Vec<Instance> = unpack(&pack(&entries(count))).unwrap();
            assert_eq!(read.len(), count);
            assert!(read.is_sorted_by_key(|it| it.id().to_owned()));
        }
    }

    #[tokio::test]
    async fn a_list_that_changes_all_the_time_is_packed_once_for_all_who_wait() {
        let (list, changes, packs) = (PackedList::default(), AtomicU64::new(0), AtomicU64::new(0));
        let long = entries(4_000);
        assert!(long.listed_bytes() > LONG);
        // Each finds the list changed again.
        let ask = async || {
            let now = changes.fetch_add(1, Ordering::Relaxed) + 1;
            let snapshot = || {
                packs.fetch_add(1, Ordering::Relaxed);
                (changes.load(Ordering::Relaxed), long.clone())
            };
            let packed = list.pack(now, snapshot).await.unwrap();
            assert!(packed.change >= now, "never an older list than was there");
        };
        futures::future::join_all((0..1_000).map(|_| ask())).await;
        let packs = packs.load(Ordering::Relaxed);
        assert!((1..=3).contains(&packs), "packed {packs} times");
        assert!(list.since(1_000).is_some() && list.since(1_001).is_none());
    }
}
