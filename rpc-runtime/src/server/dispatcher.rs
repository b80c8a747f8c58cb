//! [`Dispatcher`]: from a method id to the method and its interceptors.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;
use std::time::Duration;

use rpc_registry::{LogLimit, limited};

use super::answers::AnswerSize;
use crate::call::Interceptors;
use crate::descriptor::{Dispatch, MethodDescriptor};
use crate::error::RpcError;
use crate::observe::{CallMetrics, Observer};
use crate::service::Service;

/// A method that holds the thread longer than this delays others noticeably.
const WORTH_A_WARNING: Duration = Duration::from_millis(100);
/// The services of a server by method id.
pub(super) struct Dispatcher {
    routes: HashMap<u64, Route, BuildHasherDefault<IdHasher>>,
}

/// A service with its own interceptors.
pub(super) struct Provided {
    pub(super) service: Arc<dyn Service>,
    pub(super) interceptors: Interceptors,
}

pub(super) struct Route {
    pub(super) service: Arc<dyn Service>,
    pub(super) method: &'static MethodDescriptor,
    /// Those of the server, then those of the service.
    pub(super) interceptors: Interceptors,
    /// If metrics are on.
    pub(super) metrics: Option<Arc<CallMetrics>>,
    mode: Dispatch,
    /// Whether a call of the method has held the thread.
    held: LogLimit,
    answers: Arc<AnswerSize>,
}

/// Method ids are hashes already.
#[derive(Default)]
pub(super) struct IdHasher(u64);

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
        services: &[Provided],
        interceptors: &Interceptors,
        default: Dispatch,
        observer: Observer,
    ) -> Result<Self, RpcError> {
        let mut routes: HashMap<u64, Route, _> = HashMap::default();
        for Provided { service, interceptors: own } in services {
            let interceptors = interceptors.clone().and(own.clone());
            for &method in service.descriptor().methods() {
                let route = Route {
                    service: Arc::clone(service),
                    method,
                    interceptors: interceptors.clone(),
                    metrics: CallMetrics::new(observer, method),
                    mode: method.dispatch_mode().unwrap_or(default),
                    held: LogLimit::new(),
                    answers: Arc::default(),
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
    /// Where its calls run.
    pub(super) fn mode(&self) -> Dispatch {
        self.mode
    }

    /// The size of its responses.
    #[inline]
    pub(super) fn answers(&self) -> &Arc<AnswerSize> {
        &self.answers
    }

    /// Records that a call held the thread for this time.
    pub(super) fn held_thread(&self, held: Duration) {
        if held > WORTH_A_WARNING {
            limited!(
                warn,
                limit = self.held;
                method = %self.method,
                ?held,
                "the method held its thread: mark it `blocking`, or `spawn` if it computes"
            );
        }
    }
}
