//! Internals for the fuzz targets. Not part of the public interface: it changes without notice and
//! exists only with the feature `__fuzz`.

pub use crate::backends::file::rewritten_list;
pub use crate::etcd::fuzz as etcd;
pub use crate::resilience::rewritten_cache;
pub use crate::zookeeper::fuzz as zookeeper;
