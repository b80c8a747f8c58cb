//! The instances of a service in a registry of this process.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use harness::Result;
use rpc_registry::{Instance, Lease, Registry};

/// The name of the service in the registry.
const SERVICE: &str = "Echo";

/// Registered instances, the oldest first.
pub(crate) struct Instances {
    registry: Arc<dyn Registry>,
    leases: VecDeque<Lease>,
    port: u16,
    /// Of the next instance.
    number: usize,
}

impl Instances {
    /// Registers so many instances of the server at this port.
    pub(crate) async fn register(length: usize, port: u16) -> Result<Self> {
        let registry = rpc_registry::connect(&format!("memory:directory-{length}")).await?;
        let mut instances = Self { registry, leases: VecDeque::new(), port, number: 0 };
        for _ in 0..length {
            instances.add().await?;
        }
        Ok(instances)
    }

    pub(crate) fn registry(&self) -> Arc<dyn Registry> {
        Arc::clone(&self.registry)
    }

    async fn add(&mut self) -> Result<()> {
        let [_, x, y, z] = u32::try_from(self.number + 2)?.to_be_bytes();
        let uri = format!("tcp://127.{x}.{y}.{z}:{}", self.port);
        // Ids that are in no order, as those that providers make.
        let id = format!("{:08x}", (self.number as u32).wrapping_mul(0x9E37_79B1));
        self.number += 1;
        let instance = Instance::new(SERVICE, uri).with_id(id);
        self.leases.push_back(self.registry.register(instance).await?);
        Ok(())
    }

    /// The oldest instance leaves and a new one comes, over and over for this time. Returns how
    /// often.
    pub(crate) async fn replace_one_every(
        &mut self,
        every: Duration,
        time: Duration,
    ) -> Result<usize> {
        let mut changes = 0;
        let mut ticks = tokio::time::interval(every);
        let ends = tokio::time::Instant::now() + time;
        while ticks.tick().await < ends {
            self.add().await?;
            drop(self.leases.pop_front());
            changes += 1;
        }
        Ok(changes)
    }
}
