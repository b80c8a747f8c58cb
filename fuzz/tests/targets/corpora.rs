//! What fuzzing has found so far, and where it begins: each input is run again.
#![allow(missing_docs)]

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use rpc_fuzz::{MAX_LEN, TARGETS};

static PANICS: AtomicUsize = AtomicUsize::new(0);

#[test]
fn every_input_of_the_corpora_keeps_all_promises() {
    // A runtime catches what panics in its tasks.
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        PANICS.fetch_add(1, Ordering::SeqCst);
        before(panic);
    }));
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for target in TARGETS {
        let mut inputs = 0;
        for entry in std::fs::read_dir(folder.join(target.name)).unwrap() {
            let path = entry.unwrap().path();
            let input = std::fs::read(&path).unwrap();
            assert!(input.len() <= MAX_LEN, "{} is too long to be kept", path.display());
            target.run(&input);
            assert_eq!(PANICS.load(Ordering::SeqCst), 0, "{} with {}", target.name, path.display());
            inputs += 1;
        }
        assert!((3..200).contains(&inputs), "{} has {inputs} inputs", target.name);
        target.run(&[]);
    }
}
