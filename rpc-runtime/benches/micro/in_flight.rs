//! The table of in-flight calls.

use std::time::{Duration, Instant};

use divan::{Bencher, black_box};
use rpc_runtime::__bench::Waiting;

const LATER: Duration = Duration::from_secs(10);
const MANY: usize = 10_000;

/// Inserts, answers and takes a call while `others` calls wait.
#[divan::bench(args = [0, 63, MANY])]
fn insert_answer_poll(bencher: Bencher<'_, '_>, others: usize) {
    let deadline = Instant::now() + LATER;
    let mut waiting = Waiting::new(others, deadline);
    bencher.bench_local(|| assert!(waiting.round(deadline, black_box(&[7; 200]))));
}

/// The earliest deadline has passed, so all calls are scanned.
#[divan::bench]
fn scan_for_one_of_10_000(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    let one_is_due = || {
        let mut waiting = Waiting::new(MANY, now + LATER);
        waiting.enter(now);
        waiting
    };
    bencher.with_inputs(one_is_due).bench_local_refs(|waiting| assert_eq!(waiting.expire(now), 1));
}

#[divan::bench]
fn expire_all_of_10_000(bencher: Bencher<'_, '_>) {
    let now = Instant::now();
    bencher
        .with_inputs(|| Waiting::new(MANY, now))
        .bench_local_refs(|waiting| assert_eq!(waiting.expire(now), MANY));
}
