//! Files that a registry reads: written again, they have the same content.

use rpc_registry::__fuzz::{rewritten_cache, rewritten_list};

pub(crate) fn run(data: &[u8]) {
    let (kind, data) = data.split_first().unwrap_or((&0, data));
    match kind % 2 {
        0 => {
            let Ok((list, _)) = rewritten_list(data) else { return };
            assert_eq!(rewritten_list(list.as_bytes()), Ok((list, true)));
        }
        _ => {
            let Some(cache) = rewritten_cache(data) else { return };
            assert_eq!(rewritten_cache(&cache), Some(cache));
        }
    }
}
