//! Entries of registries on other machines: an instance is accepted only under its own key.

use std::collections::BTreeSet;

use rpc_nameserver::{Change, pack, unpack};
use rpc_registry::__fuzz::{etcd, zookeeper};
use rpc_registry::Instance;
use rpc_runtime::Blob;

use crate::input::Input;

pub(crate) fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.byte() % 4 {
        0 => etcd_list(&mut input),
        1 => etcd_key(input.rest()),
        2 => zookeeper_node(&mut input),
        _ => name_server(input.rest()),
    }
}

fn etcd_list(input: &mut Input<'_>) {
    let first = usize::from(input.u16());
    let (instances, departed) = etcd::list("/p", "s", input.bytes(first), input.rest());
    check(&instances, "s");
    assert_eq!(BTreeSet::from_iter(&departed).len(), departed.len());
}

fn etcd_key(key: &[u8]) {
    let Some((Some(service), id)) = etcd::place("/p", key) else { return };
    let (entry, note) = etcd::keys("/p", &service, &id);
    assert_eq!(etcd::place("/p", &entry), Some((Some(service), id.clone())));
    assert_eq!(etcd::place("/p", &note), Some((None, id)));
}

fn zookeeper_node(input: &mut Input<'_>) {
    let length = usize::from(input.byte());
    let node = String::from_utf8_lossy(input.bytes(length)).into_owned();
    if let Some(id) = zookeeper::id(&node) {
        assert_eq!(zookeeper::node(&id), node);
    }
    let data = input.rest();
    let _ = zookeeper::marks(data, "one");
    let Some(instance) = zookeeper::instance("s", &node, data) else { return };
    check(std::slice::from_ref(&instance), "s");
    assert_eq!(zookeeper::node(instance.id()), node);
    if let Some(data) = zookeeper::write(&instance, "one") {
        assert_eq!(zookeeper::marks(&data, "one"), (Some(instance.epoch()), true));
        assert_eq!(zookeeper::instance("s", &node, &data), Some(instance));
    }
}

fn name_server(body: &[u8]) {
    let body = Blob::from(body.to_vec());
    if let Ok(changes) = unpack::<Vec<Change>>(&body) {
        let again = pack(&changes).unwrap();
        assert_eq!(unpack::<Vec<Change>>(&again), Ok(changes));
    }
    if let Ok(instances) = unpack::<Vec<Instance>>(&body) {
        let again = pack(&instances).unwrap();
        assert_eq!(unpack::<Vec<Instance>>(&again), Ok(instances));
    }
}

/// Checks that all are valid and none is listed twice.
fn check(instances: &[Instance], service: &str) {
    let ids: BTreeSet<_> = instances.iter().map(Instance::id).collect();
    assert_eq!(ids.len(), instances.len());
    for instance in instances {
        assert_eq!(instance.service(), service);
        instance.validate().expect("an instance that breaks the rules");
    }
}
