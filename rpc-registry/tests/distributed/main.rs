//! Registries on other machines: the layer that they share, etcd and ZooKeeper.

mod etcd;
mod etcd_faults;
mod resilient;
mod servers;
mod zookeeper;
