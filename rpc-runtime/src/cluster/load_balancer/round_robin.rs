//! [`RoundRobin`].

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::LoadBalancer;
use crate::client::Endpoint;

/// One after the other.
#[derive(Debug, Default)]
pub(in crate::cluster) struct RoundRobin {
    next: AtomicUsize,
}

impl LoadBalancer for RoundRobin {
    fn pick(&self, endpoints: &[Arc<Endpoint>]) -> usize {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        turn.checked_rem(endpoints.len()).unwrap_or(0)
    }
}
