//! The back ends, and what several of them share.
//!
//! | module | what |
//! | --- | --- |
//! | [`memory`] | `memory:`, within this process |
//! | [`file`] | `file:`, a folder on this machine |
//! | `etcd` | `etcd:`, feature `etcd` |
//! | `zookeeper` | `zookeeper:`, feature `zookeeper` |
//! | `bounded_instances` | the instances of a service that a back end stores, of bounded size |
//! | `clear_text` | checks that credentials are not sent unencrypted |

#[cfg(any(feature = "etcd", feature = "zookeeper"))]
mod bounded_instances;
#[cfg(any(feature = "etcd", feature = "zookeeper"))]
mod clear_text;
#[cfg(feature = "etcd")]
pub mod etcd;
pub(crate) mod file;
pub(crate) mod memory;
#[cfg(feature = "zookeeper")]
pub mod zookeeper;
