//! From a method id to the method, and where that runs.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rpc_registry::limited;

use crate::descriptor::{Dispatch, MethodDescriptor};
use crate::error::RpcError;
use crate::observe::{CallMetrics, Observer};
use crate::service::Service;

/// A method that holds the thread longer than this delays others noticeably.
const WORTH_A_WARNING: Duration = Duration::from_millis(100);
/// How many calls of a slow method are spawned before it is tried in place again: the first time,
/// for the operating system may just have taken the processor away,
const FIRST_SPAWNED: u32 = 16;
/// and if it is slow again and again.
const MOST_SPAWNED: u32 = 1_000;
/// After so many calls in place none of which was slow, the next slow one is the first.
const FORGIVEN_AFTER: u32 = 1_000;

const RELAXED: Ordering = Ordering::Relaxed;

/// The services of a server by method id.
pub(super) struct Dispatcher {
    routes: HashMap<u64, Route, BuildHasherDefault<IdHasher>>,
}

pub(super) struct Route {
    pub(super) service: Arc<dyn Service>,
    pub(super) method: &'static MethodDescriptor,
    /// If metrics are on.
    pub(super) metrics: Option<Arc<CallMetrics>>,
    mode: Dispatch,
    /// Calls still to be spawned because the method held the thread.
    spawn_next: AtomicU32,
    /// How many it will be when it does so again.
    penalty: AtomicU32,
    /// Calls in place since the last slow one, while it is not forgotten.
    fast: AtomicU32,
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
    pub(super) fn new(
        services: &[Arc<dyn Service>],
        default: Dispatch,
        observer: Observer,
    ) -> Result<Self, RpcError> {
        let mut routes: HashMap<u64, Route, _> = HashMap::default();
        for service in services {
            for &method in service.descriptor().methods() {
                let route = Route {
                    service: Arc::clone(service),
                    method,
                    metrics: CallMetrics::new(observer, method),
                    mode: method.dispatch_mode().unwrap_or(default),
                    spawn_next: AtomicU32::new(0),
                    penalty: AtomicU32::new(FIRST_SPAWNED),
                    fast: AtomicU32::new(0),
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
    /// A call is polled in place; if it holds the thread, [`was_slow`](Self::was_slow) follows.
    pub(super) fn runs_in_place(&self) {
        if self.penalty.load(RELAXED) > FIRST_SPAWNED
            && self.fast.fetch_add(1, RELAXED) >= FORGIVEN_AFTER
        {
            self.penalty.store(FIRST_SPAWNED, RELAXED);
        }
    }

    /// Where the next call is to run.
    pub(super) fn mode(&self) -> Dispatch {
        if self.mode == Dispatch::Inline
            && self.spawn_next.load(RELAXED) > 0
            && self.spawn_next.fetch_update(RELAXED, RELAXED, |left| left.checked_sub(1)).is_ok()
        {
            return Dispatch::Spawn;
        }
        self.mode
    }

    /// The last call held the thread for so long.
    pub(super) fn was_slow(&self, held: Duration) {
        let penalty = self.penalty.load(RELAXED);
        self.penalty.store(penalty.saturating_mul(4).min(MOST_SPAWNED), RELAXED);
        self.fast.store(0, RELAXED);
        let was_known = self.spawn_next.swap(penalty, RELAXED) > 0;
        if !was_known && held > WORTH_A_WARNING {
            limited!(
                warn,
                method = %self.method,
                ?held,
                "the method held its thread: mark it `blocking`, or `spawn` if it computes"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::descriptor::{ServiceDescriptor, ServiceKey};
    use crate::observe::Side;
    use crate::service::{Dispatched, Request, unknown_method};

    static METHOD: MethodDescriptor =
        MethodDescriptor::new(ServiceKey::new("S", "1.0.0", ""), "m", &[], "()");
    static SERVICE: ServiceDescriptor =
        ServiceDescriptor::new(ServiceKey::new("S", "1.0.0", ""), &[&METHOD]);

    struct Provider;
    impl Service for Provider {
        fn descriptor(&self) -> &'static ServiceDescriptor {
            &SERVICE
        }
        fn dispatch(&self, request: Request<'_>) -> Dispatched {
            unknown_method(request)
        }
    }

    /// Calls that are spawned until the next one in place.
    fn spawned(route: &Route) -> u32 {
        (0..).take_while(|_| route.mode() == Dispatch::Spawn).count() as u32
    }

    #[test]
    fn a_method_that_is_slow_once_is_soon_tried_again_and_one_that_always_is_seldom() {
        let off = Observer::new(Side::Server, false);
        let dispatcher = Dispatcher::new(&[Arc::new(Provider)], Dispatch::Inline, off).unwrap();
        let route = dispatcher.route(METHOD.id()).unwrap();
        let slow = || {
            route.runs_in_place();
            route.was_slow(Duration::from_millis(2));
            spawned(route)
        };
        assert_eq!(spawned(route), 0);
        assert_eq!([slow(), slow(), slow(), slow(), slow()], [16, 64, 256, 1_000, 1_000]);
        // A few fast ones in between change nothing.
        (0..100).for_each(|_| route.runs_in_place());
        assert_eq!(slow(), 1_000);
        (0..=FORGIVEN_AFTER).for_each(|_| route.runs_in_place());
        assert_eq!(slow(), 16);
    }
}
