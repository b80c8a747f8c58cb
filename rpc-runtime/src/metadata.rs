//! Text that travels with a call or a reply.

use std::collections::BTreeMap;

/// Text by key: tenant, trace id, locale. The limit on the wire is 16 KiB.
pub(crate) type Metadata = BTreeMap<String, String>;

/// Memory of an entry besides its text: two strings, its share of a node that is half full, and what
/// the allocator adds to short texts.
const ENTRY: usize = 128;

/// The memory of the entries in bytes, estimated. Short entries take many times their bytes on the
/// wire.
pub(crate) fn memory(metadata: &Metadata) -> usize {
    metadata.iter().map(|(key, value)| ENTRY + key.len() + value.len()).sum()
}
