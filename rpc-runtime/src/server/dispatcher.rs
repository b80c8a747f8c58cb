//! From a method id to the method, and where that runs.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::descriptor::{Dispatch, MethodDescriptor};
use crate::error::RpcError;
use crate::service::Service;

/// A method that holds the thread longer than this delays others noticeably.
const WORTH_A_WARNING: Duration = Duration::from_millis(100);
/// How many calls of a slow method are spawned before it is tried in place again.
const SPAWN_AFTER_SLOW: u32 = 1_000;

/// The services of a server by method id.
pub(super) struct Dispatcher {
    routes: HashMap<u64, Route, BuildHasherDefault<IdHasher>>,
}

pub(super) struct Route {
    pub(super) service: Arc<dyn Service>,
    pub(super) method: &'static MethodDescriptor,
    mode: Dispatch,
    /// Calls still to be spawned because the method held the thread.
    spawn_next: AtomicU32,
}

/// Method ids are hashes already.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

impl Dispatcher {
    pub(super) fn new(services: &[Arc<dyn Service>], default: Dispatch) -> Result<Self, RpcError> {
        let mut routes: HashMap<u64, Route, _> = HashMap::default();
        for service in services {
            for &method in service.descriptor().methods() {
                let route = Route {
                    service: Arc::clone(service),
                    method,
                    mode: method.dispatch_mode().unwrap_or(default),
                    spawn_next: AtomicU32::new(0),
                };
                if let Some(other) = routes.insert(method.id(), route) {
                    return Err(RpcError::invalid(format!(
                        "{method} of {} and {} of {} have the same id on the wire: \
                         the same service is provided twice, or one needs another name or group",
                        method.service(),
                        other.method,
                        other.method.service(),
                    )));
                }
            }
        }
        Ok(Self { routes })
    }

    /// The method with this id.
    pub(super) fn route(&self, method: u64) -> Option<&Route> {
        self.routes.get(&method)
    }
}

impl Route {
    /// Where the next call is to run.
    pub(super) fn mode(&self) -> Dispatch {
        if self.mode == Dispatch::Inline
            && self.spawn_next.load(Ordering::Relaxed) > 0
            && self.spawn_next.fetch_sub(1, Ordering::Relaxed) > 0
        {
            return Dispatch::Spawn;
        }
        self.mode
    }

    /// The last call held the thread for so long.
    pub(super) fn was_slow(&self, held: Duration) {
        let was_known = self.spawn_next.swap(SPAWN_AFTER_SLOW, Ordering::Relaxed) > 0;
        if !was_known && held > WORTH_A_WARNING {
            tracing::warn!(
                method = %self.method,
                ?held,
                "the method held its thread: mark it `blocking`, or `spawn` if it computes"
            );
        }
    }
}
