//! [`Metadata`].

use std::collections::BTreeMap;

/// Text that travels with a call or a reply, by key: tenant, trace id, locale.
pub(crate) type Metadata = BTreeMap<String, String>;
