//! Calling services: [`Client`].
//!
//! A call passes these layers from top to bottom, and its outcome from bottom to top:
//!
//! | layer | file | what |
//! | --- | --- | --- |
//! | stub | `stub` | the method's types: takes the arguments, decodes the outcome |
//! | call | `invoke` | observation, deadline, metadata |
//! | chain | `intercepted` | the interceptors, if any |
//! | sending | `sending` | attempts until one is sent; `request` encodes, `readiness` waits |
//! | picker | `picker` | a connection for each attempt; `pick` reports the outcome to it |
//! | connection | `endpoint`, `link` | connections to one address, which reconnect |

mod back_off;
mod builder;
mod connection_info;
mod connections;
mod discovery;
mod encoding;
mod endpoint;
mod handle;
mod intercepted;
mod invoke;
mod link;
mod not_found;
mod pick;
mod picker;
mod readiness;
mod ready_links;
mod refuse_requests;
mod request;
mod sending;
mod settings;
mod stub;

pub use back_off::BackOff;
pub use builder::ClientBuilder;
pub use connection_info::{ConnectionInfo, ConnectionState};
pub use connections::StateChanges;
pub(crate) use discovery::{DiscoverySettings, SubsetSize};
pub use encoding::Encoding;
pub(crate) use endpoint::{Availability, Endpoint};
pub use handle::Client;
pub(crate) use pick::Pick;
pub(crate) use picker::Picker;
pub(crate) use settings::EndpointSettings;
#[cfg(feature = "tower")]
pub(crate) use stub::request;
pub use stub::{call, notify};
