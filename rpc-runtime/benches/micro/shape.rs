//! The fingerprint of a type, which is computed once per method and process.

use rpc_runtime::__bench::fingerprint;

use crate::order::Order;

#[divan::bench]
fn fingerprint_of_a_number() -> u64 {
    fingerprint::<u64>()
}

#[divan::bench]
fn fingerprint_of_an_order() -> u64 {
    fingerprint::<Order>()
}
