//! The rules of a back end as tests, for the authors of back ends (feature `testing`).
//!
//! ```
//! use rpc_registry::testing::{self, Fixture};
//!
//! # async fn demo() {
//! testing::conformance(&|| rpc_registry::connect("memory:under-test")).await;
//! # }
//! # tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(demo());
//! ```
//!
//! A broken rule panics with its name. Services and ids are new in each run, so the registry need
//! not be empty.
#![expect(clippy::panic, clippy::expect_used, reason = "it tests, so it fails by panicking")]

mod fixture;
mod rules;
mod subject;
mod watch_rules;

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

pub use self::fixture::{Fixture, Outage};
use self::rules::RULES;
use self::subject::{PATIENCE, Subject};
use crate::{LeaseState, Source};

/// Checks all rules for a registry that is available. Needs a multi-thread runtime with its
/// timer enabled.
///
/// # Panics
///
/// If a rule is broken, with its name.
pub async fn conformance(fixture: &dyn Fixture) {
    for (name, rule) in RULES {
        eprintln_rule(name);
        let run = rule(Subject { fixture, name });
        if timeout(PATIENCE, run).await.is_err() {
            panic!("{name}: not done within {PATIENCE:?}");
        }
    }
}

/// Checks the rules for an outage of this length, and for the time after it. To include the
/// expiration of leases, the outage must be longer than a lease.
///
/// # Panics
///
/// If a rule is broken.
pub async fn outage(fixture: &dyn Outage, away: Duration) {
    let subject = Subject { fixture, name: "outage" };
    let service = subject.service("svc");
    let (provider, consumer) = (subject.connect().await, subject.connect().await);
    let lease = subject.register(&provider, subject.instance(&service, "a")).await;
    let epoch = lease.instance().epoch();
    let mut watch = consumer.watch(&service).await.expect("a watch");
    subject.until(&mut watch, "the registration is seen", |now| now.len() == 1).await;

    fixture.stop().await;
    let begun = Instant::now();
    let mut asked = 0;
    while begun.elapsed() < away || asked == 0 {
        let found = consumer.lookup(&service).await.expect("lookups are answered from the cache");
        assert_eq!(found.len(), 1, "while it is away, the last list stays in use");
        assert!(found.age().is_some(), "an answer from the cache says how old it is");
        asked += 1;
        sleep(Duration::from_millis(200)).await;
    }
    let unknown = consumer.lookup(&subject.service("unknown")).await;
    let unknown = unknown.expect_err("nothing is known of it, so there is no answer");
    assert!(unknown.is_unavailable() || unknown.is_timeout(), "{unknown}");

    fixture.start().await;
    subject
        .until(&mut watch, "the watch is whole again", |now| {
            now.len() == 1 && now.source == Source::Registry
        })
        .await;
    subject
        .soon("the registration is there again", async || {
            let found = consumer.lookup(&service).await;
            found.is_ok_and(|found| found.is_current() && found.len() == 1)
        })
        .await;
    if let LeaseState::Held { epoch: now } = lease.states().now() {
        assert!(now >= epoch, "the epoch never falls");
    }
    let late = subject.register(&provider, subject.instance(&service, "b")).await;
    subject.until(&mut watch, "changes are seen again", |now| now.len() == 2).await;
    late.revoke().await.expect("revoked");
    lease.revoke().await.expect("revoked");
    subject.until(&mut watch, "an orderly departure is believed", |now| now.is_empty()).await;
}

#[expect(clippy::print_stderr, reason = "a test that hangs or fails should say where")]
fn eprintln_rule(name: &str) {
    eprintln!("conformance: {name}");
}
