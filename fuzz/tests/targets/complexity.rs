//! The cost of reading a registry's files is linear in their length.
#![cfg(target_os = "linux")]
#![allow(missing_docs)]

use rpc_tests::complexity::{is_linear, processor_time};

#[test]
fn lines_of_a_registry() {
    is_linear("lines", 2_000, |n| {
        let lines = (0..n).map(|n| {
            format!(
                "{{\"service\":\"s\",\"id\":\"{n}\",\"uri\":\"tcp://h:1\",\"lease\":\"{n}\"}}\n"
            )
        });
        let list = format!("{{\"rpc_registry\":1}}\n{}", lines.collect::<String>());
        let started = processor_time();
        assert!(rpc_registry::__fuzz::rewritten_list(list.as_bytes()).unwrap().1);
        processor_time().saturating_sub(started)
    });
}
