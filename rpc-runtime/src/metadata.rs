//! Text that travels with a call or a reply.

use std::collections::BTreeMap;

/// Text by key: tenant, trace id, locale. The limit on the wire is 16 KiB.
pub(crate) type Metadata = BTreeMap<String, String>;
