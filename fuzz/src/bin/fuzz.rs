//! What libFuzzer drives: the target that the environment names. `fuzz/run` builds and runs it.
#![no_main]

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;
use rpc_fuzz::Target;

static TARGET: OnceLock<&Target> = OnceLock::new();

fuzz_target!(|data: &[u8]| {
    let named = || {
        let name = std::env::var("RPC_FUZZ_TARGET").unwrap_or_default();
        Target::named(&name).expect("RPC_FUZZ_TARGET names a target")
    };
    TARGET.get_or_init(named).run(data);
});
