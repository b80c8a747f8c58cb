//! Internals for the fuzz targets. Not part of the public interface: it changes without notice and
//! exists only with the feature `__fuzz`.

pub use crate::etcd::fuzz as etcd;
pub use crate::file::rewritten_list;
pub use crate::resilient::rewritten_cache;
pub use crate::zookeeper::fuzz as zookeeper;
