//! Load balancing: the choice of the provider for a call.

mod round_robin;

use std::sync::Arc;

pub(super) use round_robin::RoundRobin;

use crate::client::Endpoint;

/// A load-balancing strategy.
pub(super) trait LoadBalancer: Send + Sync {
    /// The index of the endpoint to try first. `endpoints` may be empty.
    fn pick(&self, endpoints: &[Arc<Endpoint>]) -> usize;
}
