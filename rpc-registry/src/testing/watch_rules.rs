//! The rules of watches.
#![expect(clippy::expect_used, reason = "it tests, so it fails by panicking")]

use tokio::time::{Instant, timeout};

use super::subject::{SOON, Subject, ids};

pub(super) async fn a_watch_begins_with_the_present_state_and_follows(subject: Subject<'_>) {
    let (provider, consumer) = (subject.connect().await, subject.connect().await);
    let service = subject.service("svc");
    let a = subject.register(&provider, subject.instance(&service, "a")).await;
    let mut watch = consumer.watch(&service).await.expect("a watch");
    let first = timeout(SOON, watch.changed()).await.expect("at once").expect("a state");
    assert_eq!(ids(&first), ["a"], "{}", subject.name);
    let b = subject.register(&provider, subject.instance(&service, "b")).await;
    subject.until(&mut watch, "b has come", |now| ids(now) == ["a", "b"]).await;
    a.revoke().await.expect("revoked");
    subject.until(&mut watch, "a has left", |now| ids(now) == ["b"]).await;
    let mut second = consumer.watch(&service).await.expect("a second watch");
    let state = timeout(SOON, second.changed()).await.expect("at once").expect("a state");
    assert_eq!(ids(&state), ["b"], "{}: a later watch begins with the state of then", subject.name);
    drop(b);
    subject.until(&mut watch, "b has left", |now| now.is_empty()).await;
    subject.until(&mut second, "b has left", |now| now.is_empty()).await;
}

pub(super) async fn a_change_names_who_came_and_who_went(subject: Subject<'_>) {
    let registry = subject.connect().await;
    let service = subject.service("svc");
    let a = subject.register(&registry, subject.instance(&service, "a")).await;
    let mut watch = registry.watch(&service).await.expect("a watch");
    let first = watch.changed().await.expect("a state");
    assert_eq!(first.change.added, ["a"], "{}", subject.name);
    let b = subject.register(&registry, subject.instance(&service, "b")).await;
    let then = subject.until(&mut watch, "b has come", |now| now.len() == 2).await;
    assert_eq!(then.change.added, ["b"], "{}", subject.name);
    assert!(then.change.removed.is_empty(), "{}", subject.name);
    a.revoke().await.expect("revoked");
    let last = subject.until(&mut watch, "a has left", |now| now.len() == 1).await;
    assert_eq!(last.change.removed, ["a"], "{}", subject.name);
    drop(b);
}

pub(super) async fn a_watch_needs_no_registry_handle(subject: Subject<'_>) {
    let (provider, consumer) = (subject.connect().await, subject.connect().await);
    let service = subject.service("svc");
    let mut watch = consumer.watch(&service).await.expect("a watch");
    drop(consumer);
    let lease = subject.register(&provider, subject.instance(&service, "a")).await;
    drop(provider);
    subject.until(&mut watch, "a has come", |now| now.len() == 1).await;
    lease.revoke().await.expect("a lease needs no registry handle either");
    subject.until(&mut watch, "a has left", |now| now.is_empty()).await;
}

pub(super) async fn an_orderly_departure_of_all_is_believed_at_once(subject: Subject<'_>) {
    let (provider, consumer) = (subject.connect().await, subject.connect().await);
    let service = subject.service("svc");
    let mut watch = consumer.watch(&service).await.expect("a watch");
    let mut leases = Vec::new();
    for id in ["a", "b", "c", "d", "e", "f"] {
        leases.push(subject.register(&provider, subject.instance(&service, id)).await);
    }
    subject.until(&mut watch, "all have come", |now| now.len() == 6).await;
    let leaving = Instant::now();
    for lease in leases {
        lease.revoke().await.expect("revoked");
    }
    subject.until(&mut watch, "all have left", |now| now.is_empty()).await;
    assert!(leaving.elapsed() < SOON, "{}: took {:?}", subject.name, leaving.elapsed());
    assert!(subject.lookup(&consumer, &service).await.is_current(), "{}", subject.name);
}

pub(super) async fn nobody_is_an_empty_list(subject: Subject<'_>) {
    let registry = subject.connect().await;
    let service = subject.service("nobody");
    assert!(subject.ids(&registry, &service).await.is_empty(), "{}", subject.name);
    let mut watch = registry.watch(&service).await.expect("a watch");
    let state = timeout(SOON, watch.changed()).await.expect("at once").expect("a state");
    assert!(state.is_empty(), "{}", subject.name);
}
