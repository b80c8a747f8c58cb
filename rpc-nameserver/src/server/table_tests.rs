use rpc_registry::Instance;
use tokio::sync::watch;

use super::*;
use crate::contract::{Change, Refusal, Why, unpack};
use crate::secret::Secret;
use crate::server::checked_registration::ENTRY_BYTES;
use crate::server::identity::{CertificateName, FIXED_BYTES};
use crate::server::quota::Quota;
use crate::server::reports::CheckedChange;
use crate::server::table_state::DEPARTURES;

const EXPIRY: Duration = Duration::from_secs(120);

fn table() -> Table {
    limited(usize::MAX, Quota::default())
}

fn limited(max_bytes: usize, quota: Quota) -> Table {
    Table::new(Duration::ZERO, max_bytes, PolicyFile::open(quota))
}

fn instance(id: &str, epoch: u64) -> Instance {
    Instance::new("svc", "tcp://h:1").with_id(id).with_epoch(epoch)
}

fn register(id: &str, epoch: u64, new: bool) -> Change {
    Change::Register { instance: instance(id, epoch), new, secret: None }
}

fn register_with(secret: &Secret, id: &str, epoch: u64) -> Change {
    Change::Register { instance: instance(id, epoch), new: false, secret: Some(secret.clone()) }
}

fn unregister(id: &str, epoch: u64) -> Change {
    Change::Unregister { service: "svc".into(), id: id.into(), epoch }
}

/// Renews a session, and says which version of its data is known.
fn touch(table: &Table, session: u64, holder: Option<&str>) -> Option<u64> {
    table.leases.touch(session, holder).map(|lease| lease.version())
}

/// A client without an identity, at an address.
fn at(peer: &str) -> Caller {
    Caller { peer: peer.into(), ..Caller::default() }
}

fn anybody() -> Caller {
    at("tcp://10.0.0.1:1")
}

/// A client with a certificate of this name.
fn named(name: &str) -> Caller {
    Caller { names: vec![CertificateName::Dns(name.to_owned())], ..at("tls://10.0.0.1:1") }
}

fn identity(table: &Table, caller: &Caller) -> Arc<Identity> {
    Arc::new(table.identify(caller).unwrap())
}

fn attend_as(
    table: &Table,
    caller: &Caller,
    session: u64,
) -> Result<(u64, oneshot::Receiver<()>), NameError> {
    table.attend(caller.clone(), &identity(table, caller), session, EXPIRY)
}

fn attend(table: &Table, session: u64) -> (u64, oneshot::Receiver<()>) {
    attend_as(table, &anybody(), session).unwrap()
}

async fn report_as(
    table: &Table,
    caller: &Caller,
    session: u64,
    version: u64,
    changes: Vec<Change>,
) -> Result<Vec<Refusal>, NameError> {
    let steps = changes.into_iter().map(CheckedChange::from).collect();
    table.report(&identity(table, caller), session, version, steps).await
}

async fn report(table: &Table, session: u64, version: u64, changes: Vec<Change>) -> Vec<Refusal> {
    report_as(table, &anybody(), session, version, changes).await.unwrap()
}

async fn leave(table: &Table, session: u64, attendance: u64) {
    if let Some(ended) = table.leave(session, attendance) {
        table.sweep(ended, Action::Leave).await;
    }
}

fn follow(table: &Table, service: &str) -> Result<watch::Receiver<u64>, NameError> {
    table.follow(&identity(table, &anybody()), service)
}

fn unfollow(table: &Table, service: &str) {
    table.unfollow(&identity(table, &anybody()), service);
}

fn remove(
    table: &Table,
    caller: &Caller,
    id: &str,
    secret: Option<&Secret>,
) -> Result<bool, NameError> {
    table.remove(&identity(table, caller), "svc", id, secret)
}

async fn ids(table: &Table) -> Vec<String> {
    let packed = table.lookup("svc").await.unwrap();
    let instances: Vec<Instance> = unpack(&packed.list).unwrap();
    instances.iter().map(|it| it.id().to_owned()).collect()
}

/// What a follower is told that has seen the change `seen`: who left.
async fn departed(table: &Table, seen: u64) -> Vec<String> {
    let packed = table.list("svc").await.unwrap();
    table.departed("svc", seen, packed.change)
}

async fn refused(table: &Table, session: u64, change: Change) -> bool {
    !report(table, session, 9, vec![change]).await.is_empty()
}

#[tokio::test]
async fn an_id_that_is_taken_is_replaced_only_by_a_newer_epoch_of_the_same_provider() {
    let table = table();
    let (own, other) = (Secret::random().unwrap(), Secret::random().unwrap());
    let _one = attend(&table, 1);
    let _two = attend(&table, 2);
    assert!(!refused(&table, 1, register_with(&own, "a", 5)).await);
    let new = Change::Register { instance: instance("a", 9), new: true, secret: Some(own.clone()) };
    assert!(refused(&table, 2, new).await, "somebody has it");
    assert!(refused(&table, 2, register_with(&own, "a", 5)).await, "as old");
    assert!(refused(&table, 2, register_with(&other, "a", 6)).await, "not the secret");
    assert!(refused(&table, 2, register("a", 6, false)).await, "no secret");
    assert!(!refused(&table, 2, register_with(&own, "a", 6)).await);
    assert!(refused(&table, 1, register_with(&own, "a", 5)).await, "older");
    assert_eq!(touch(&table, 1, None), Some(9));
}

#[tokio::test]
async fn nobody_takes_over_a_registration_by_its_epoch() {
    let table = table();
    let _owner = attend(&table, 1);
    let _stranger = attend(&table, 2);
    for owned in [register("a", 5, true), register_with(&Secret::random().unwrap(), "b", 5)] {
        assert!(!refused(&table, 1, owned).await);
    }
    for id in ["a", "b", "free"] {
        for epoch in [u64::MAX, u64::MAX - 1, 4_000_000_000_000] {
            assert!(refused(&table, 2, register(id, epoch, false)).await, "{id} {epoch}");
            assert!(refused(&table, 2, register_with(&Secret::random().unwrap(), id, epoch)).await);
        }
    }
    let refusals = report(&table, 2, 1, vec![register("free", u64::MAX, true)]).await;
    assert_eq!(refusals[0].why, Why::Invalid);
    assert!(refusals[0].message.contains("compare the clocks"), "{}", refusals[0].message);
    assert!(!refused(&table, 1, register("a", 6, false)).await, "the owner goes on");
}

#[tokio::test]
async fn without_a_secret_only_the_same_proved_identity_takes_over() {
    let table = table();
    let _one = attend_as(&table, &named("one"), 1).unwrap();
    let _again = attend_as(&table, &named("one"), 2).unwrap();
    let _other = attend_as(&table, &named("other"), 3).unwrap();
    let told = report_as(&table, &named("one"), 1, 1, vec![register("a", 5, true)]).await;
    assert!(told.unwrap().is_empty());
    let take = |epoch| vec![register("a", epoch, false)];
    let told = report_as(&table, &named("other"), 3, 1, take(6)).await.unwrap();
    assert_eq!(told[0].why, Why::Taken);
    assert!(report_as(&table, &named("one"), 2, 1, take(6)).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_session_belongs_to_the_identity_that_began_it() {
    let table = table();
    let _one = attend_as(&table, &named("one"), 1).unwrap();
    for other in [named("other"), anybody()] {
        let taken = attend_as(&table, &other, 1).map(drop);
        assert!(matches!(taken, Err(NameError::Denied(_))), "{taken:?}");
        let told = report_as(&table, &other, 1, 1, vec![register("a", 1, true)]).await;
        assert_eq!(told, Err(NameError::NoSession));
    }
    assert_eq!(touch(&table, 1, Some("dns:one")), Some(0));
    assert_eq!(touch(&table, 1, Some("dns:other")), None);
}

#[tokio::test]
async fn only_the_holder_of_the_secret_or_the_same_identity_removes_a_registration() {
    let table = table();
    let secret = Secret::random().unwrap();
    let _one = attend(&table, 1);
    let _named = attend_as(&table, &named("one"), 2).unwrap();
    report(&table, 1, 1, vec![register_with(&secret, "a", 5), register("b", 5, true)]).await;
    report_as(&table, &named("one"), 2, 1, vec![register("c", 5, true)]).await.unwrap();
    for (id, secret) in
        [("a", None), ("b", None), ("c", None), ("a", Some(Secret::random().unwrap()))]
    {
        let removed = remove(&table, &anybody(), id, secret.as_ref());
        assert!(matches!(removed, Err(NameError::Denied(_))), "{id}: {removed:?}");
    }
    assert!(remove(&table, &named("other"), "c", None).is_err());
    assert_eq!(ids(&table).await, ["a", "b", "c"]);
    assert_eq!(remove(&table, &anybody(), "a", Some(&secret)), Ok(true));
    assert_eq!(remove(&table, &named("one"), "c", None), Ok(true));
    assert_eq!(remove(&table, &anybody(), "never", None), Ok(false));
    assert_eq!(ids(&table).await, ["b"]);
}

#[tokio::test]
async fn a_stranger_that_registers_all_it_can_leaves_room_for_others() {
    let table = limited(64 << 20, Quota { bytes: 16 << 20, ..Quota::default() });
    let (stranger, honest) = (at("tcp://10.0.0.1:1"), at("tcp://10.0.0.2:1"));
    let mut full = 0;
    // Whatever connections and services it takes.
    for session in 0..40_u64 {
        let stranger = at(&format!("tcp://10.0.0.1:{}", session + 1));
        let _ = attend_as(&table, &stranger, session).unwrap();
        let changes = (0..1_000).map(|n| {
            let service = if n % 2 == 0 { "svc".to_owned() } else { format!("svc-{session}-{n}") };
            let instance = Instance::new(service, "tcp://h:1").with_id(format!("{session}-{n}"));
            Change::Register { instance, new: true, secret: None }
        });
        let refusals = report_as(&table, &stranger, session, 1, changes.collect()).await.unwrap();
        assert!(refusals.iter().all(|it| it.why == Why::Full));
        full += refusals.len();
    }
    assert!(full > 10_000, "{full}");
    assert!(table.lock().bytes <= 17 << 20);
    let mut follows = Vec::new();
    while let Ok(follow) = table.follow(&identity(&table, &stranger), "svc") {
        follows.push(follow);
    }
    let _honest = attend_as(&table, &honest, 100).unwrap();
    for n in 0..100 {
        let change = register(&format!("honest-{n}"), 1, true);
        assert!(report_as(&table, &honest, 100, 1, vec![change]).await.unwrap().is_empty());
    }
    assert!(table.follow(&identity(&table, &honest), "svc").is_ok());
}

#[tokio::test]
async fn one_client_begins_a_bounded_number_of_sessions() {
    let table = limited(usize::MAX, Quota { sessions: 40, ..Quota::default() });
    let begin =
        |port: u64, session| attend_as(&table, &at(&format!("tcp://10.0.0.1:{port}")), session);
    let taken = (0..100).filter(|session| begin(1, *session).is_ok()).count();
    assert_eq!(taken, 16, "one connection");
    let taken = (100..300).filter(|session| begin(*session, *session).is_ok()).count();
    assert_eq!(taken, 24, "all connections of one address");
    attend_as(&table, &at("tcp://10.0.0.2:1"), 1_000).unwrap();
}

#[tokio::test]
async fn who_changes_all_the_time_does_not_hold_up_those_who_ask() {
    let table = limited(usize::MAX, Quota { instances: 50_000, ..Quota::default() });
    let _one = attend(&table, 1);
    let _two = attend_as(&table, &at("tcp://10.0.0.2:1"), 2).unwrap();
    let all =
        |of: std::ops::Range<u32>| of.map(|n| register(&format!("{n:06}"), 1, true)).collect();
    assert!(report(&table, 1, 1, all(0..15_000)).await.is_empty());
    // The list is packed when it is asked for, and not when it changes.
    let first = table.list("svc").await.unwrap();
    for epoch in 2..500 {
        report(&table, 1, epoch, vec![register("000007", epoch, false)]).await;
        let again = table.lock().services.get("svc").unwrap().packed.since(0).unwrap();
        assert_eq!(again.change, first.change);
    }
    let mut asking = Vec::new();
    for _ in 0..100 {
        asking.push(table.list("svc"));
    }
    let packed = futures::future::join_all(asking).await;
    let change = packed[0].as_ref().unwrap().change;
    assert!(change > first.change);
    assert!(packed.into_iter().all(|it| it.unwrap().change == change), "one list for all");
}

#[tokio::test]
async fn another_policy_ends_the_sessions_of_those_who_may_not_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("policy.toml");
    let allow = |dns: &str| {
        let text =
            format!("[[identity]]\nname = \"x\"\ndns = {dns}\nregister = [\"*\"]\nread = [\"*\"]");
        std::fs::write(&path, text).unwrap();
    };
    allow(r#"["one", "other"]"#);
    let policy = PolicyFile::read(&path, Quota::default()).unwrap();
    let table = Table::new(Duration::ZERO, usize::MAX, policy);
    let (_, mut kept) = attend_as(&table, &named("one"), 1).unwrap();
    let (_, mut ended) = attend_as(&table, &named("other"), 2).unwrap();
    report_as(&table, &named("one"), 1, 1, vec![register("a", 1, true)]).await.unwrap();
    report_as(&table, &named("other"), 2, 1, vec![register("b", 1, true)]).await.unwrap();
    allow(r#"["one"]"#);
    table.policy.reload().unwrap();
    for it in table.revoke() {
        table.sweep(it, Action::Revoke).await;
    }
    assert_eq!(ids(&table).await, ["a"]);
    assert_eq!(kept.try_recv(), Err(oneshot::error::TryRecvError::Empty));
    assert_eq!(ended.try_recv(), Err(oneshot::error::TryRecvError::Closed));
    // Who comes back without an identity may do nothing.
    attend_as(&table, &named("other"), 3).unwrap();
    let told =
        report_as(&table, &named("other"), 3, 1, vec![register("b", 1, true)]).await.unwrap();
    assert_eq!(told[0].why, Why::Invalid, "a provider of an earlier version knows no other reason");
    let change = register_with(&Secret::random().unwrap(), "b", 1);
    let told = report_as(&table, &named("other"), 3, 2, vec![change]).await.unwrap();
    assert_eq!(told[0].why, Why::Denied);
}

#[tokio::test]
async fn an_id_is_free_as_soon_as_the_session_of_its_owner_has_ended() {
    let table = table();
    let (attendance, _over) = attend(&table, 1);
    report(&table, 1, 1, vec![register_with(&Secret::random().unwrap(), "a", 5)]).await;
    let ended = table.leave(1, attendance).unwrap();
    // It starts again, with another secret, before what it had is even removed.
    let _new = attend(&table, 2);
    assert!(!refused(&table, 2, register("a", 1, true)).await);
    table.sweep(ended, Action::Leave).await;
    assert_eq!(ids(&table).await, ["a"]);
}

#[tokio::test]
async fn who_was_replaced_has_to_tell_all_at_its_next_renewal() {
    let table = table();
    let secret = Secret::random().unwrap();
    let _one = attend(&table, 1);
    let _two = attend(&table, 2);
    report(&table, 1, 7, vec![register_with(&secret, "a", 5)]).await;
    assert_eq!(touch(&table, 1, None), Some(7));
    report(&table, 2, 8, vec![register_with(&secret, "a", 6)]).await;
    assert_eq!(touch(&table, 1, None), Some(0));
}

#[tokio::test]
async fn only_what_belongs_to_the_session_and_has_its_epoch_is_removed() {
    let table = table();
    let _one = attend(&table, 1);
    let _two = attend(&table, 2);
    report(&table, 1, 1, vec![register("a", 5, true)]).await;
    report(&table, 2, 1, vec![unregister("a", 5)]).await;
    report(&table, 1, 2, vec![unregister("a", 4)]).await;
    assert_eq!(ids(&table).await, ["a"]);
    report(&table, 1, 3, vec![unregister("a", 5)]).await;
    assert!(ids(&table).await.is_empty());
    let told = report_as(&table, &anybody(), 3, 1, vec![]).await;
    assert_eq!(told, Err(NameError::NoSession));
}

#[tokio::test]
async fn the_end_of_an_older_connection_removes_nothing_of_the_newer_one() {
    let table = table();
    let (old, mut over) = attend(&table, 1);
    report(&table, 1, 1, vec![register("a", 1, true), register("b", 1, true)]).await;
    let (new, _alive) = attend(&table, 1);
    assert!(over.try_recv().is_err(), "the older stream ends");
    assert_eq!(touch(&table, 1, None), Some(0), "all is to be told again");
    leave(&table, 1, old).await;
    assert_eq!(ids(&table).await, ["a", "b"], "nothing flickers while it is told again");
    report(&table, 1, 0, vec![]).await;
    assert_eq!(ids(&table).await, ["a", "b"]);
    report(&table, 1, 2, vec![register("b", 1, false)]).await;
    assert_eq!(ids(&table).await, ["b"], "what was not told again is gone");
    leave(&table, 1, new).await;
    assert!(ids(&table).await.is_empty());
}

#[tokio::test]
async fn followers_hear_who_left_in_order_and_not_who_lapsed() {
    let table = table();
    let (attendance, _over) = attend(&table, 1);
    let all = ["a", "b", "c"].map(|id| register(id, 1, true)).to_vec();
    report(&table, 1, 1, all).await;
    let changes = follow(&table, "svc").unwrap();
    let seen = *changes.borrow();
    report(&table, 1, 2, vec![unregister("a", 1)]).await;
    report(&table, 1, 3, vec![unregister("b", 1), register("b", 2, true)]).await;
    assert_eq!(departed(&table, seen).await, ["a"]);
    let seen = *changes.borrow();
    leave(&table, 1, attendance).await;
    assert!(departed(&table, seen).await.is_empty());
    assert!(ids(&table).await.is_empty());
}

#[tokio::test]
async fn departures_that_nobody_asks_for_do_not_pile_up() {
    let table = table();
    let _one = attend(&table, 1);
    let _changes = follow(&table, "svc").unwrap();
    for epoch in 0..70 {
        let all = (0..1_000).map(|n| n.to_string());
        let come = all.clone().map(|id| register(&id, epoch, true));
        let go = all.map(|id| unregister(&id, epoch));
        report(&table, 1, epoch + 1, come.chain(go).collect()).await;
    }
    assert_eq!(table.lock().departures.len(), DEPARTURES);
    assert_eq!(departed(&table, 0).await.len(), DEPARTURES);
}

#[tokio::test]
async fn what_is_not_needed_any_more_takes_no_memory() {
    let table = table();
    let (attendance, _over) = attend(&table, 1);
    report(&table, 1, 1, vec![register("a", 1, true), register("a", 2, true)]).await;
    drop(follow(&table, "svc").unwrap());
    unfollow(&table, "svc");
    drop(follow(&table, "nobody").unwrap());
    unfollow(&table, "nobody");
    assert_eq!(table.lock().services.len(), 1);
    leave(&table, 1, attendance).await;
    let state = table.lock();
    assert_eq!((state.bytes, state.services.len(), state.sessions.len()), (0, 0, 0));
    assert!(state.accounts.is_empty());
}

#[tokio::test]
async fn what_is_over_the_limit_is_refused_and_the_rest_stays() {
    let table = limited(FIXED_BYTES + 2 * ENTRY_BYTES, Quota::default());
    let _one = attend(&table, 1);
    let changes = ["a", "b", "c"].map(|id| register(id, 1, true)).to_vec();
    let refusals = report(&table, 1, 1, changes).await;
    assert_eq!(
        refusals.iter().map(|it| (it.index, it.why)).collect::<Vec<_>>(),
        [(1, Why::Full), (2, Why::Full)]
    );
    assert_eq!(ids(&table).await, ["a"]);
    assert!(matches!(follow(&table, "svc"), Err(NameError::Full(_))));
}

#[tokio::test]
async fn a_full_server_can_be_told_again_what_it_has() {
    let table = limited(FIXED_BYTES + 2 * ENTRY_BYTES, Quota::default());
    let _old = attend(&table, 1);
    report(&table, 1, 1, vec![register("a", 1, true)]).await;
    let bytes = table.lock().bytes;
    let _new = attend(&table, 1);
    assert!(!refused(&table, 1, register("a", 1, false)).await);
    assert!(refused(&table, 1, register("b", 1, true)).await);
    assert_eq!((ids(&table).await, table.lock().bytes), (vec!["a".to_owned()], bytes));
}

#[tokio::test]
async fn an_invalid_instance_is_refused_and_the_others_are_taken() {
    let table = table();
    let _one = attend(&table, 1);
    let changes = vec![register("a b", 1, true), register("b", 1, true)];
    let refusals = report(&table, 1, 1, changes).await;
    assert_eq!((refusals[0].index, refusals[0].why, refusals.len()), (0, Why::Invalid, 1));
    assert_eq!(ids(&table).await, ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_server_does_not_say_that_nobody_is_there() {
    let table = Table::new(Duration::from_secs(35), usize::MAX, PolicyFile::open(Quota::default()));
    assert!(matches!(table.lookup("svc").await, Err(NameError::Starting { left_ms: 35_000 })));
    assert!(matches!(
        table.services(&identity(&table, &anybody())).await,
        Err(NameError::Starting { .. })
    ));
    assert!(matches!(follow(&table, "svc"), Err(NameError::Starting { .. })));
    let _one = attend(&table, 1);
    report(&table, 1, 1, vec![register("a", 1, true)]).await;
    assert_eq!(ids(&table).await, ["a"], "who registers is listed at once");
    assert!(matches!(table.lookup("other").await, Err(NameError::Starting { .. })));
    tokio::time::advance(Duration::from_secs(35)).await;
    assert!(table.lookup("other").await.is_ok() && follow(&table, "other").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_renewed_lapses_and_one_that_is_does_not() {
    let table = table();
    let (_, mut over) = attend(&table, 1);
    let _two = attend(&table, 2);
    report(&table, 1, 1, vec![register("a", 1, true)]).await;
    report(&table, 2, 1, vec![register("b", 1, true)]).await;
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(40)).await;
        touch(&table, 2, None);
        for ended in table.expire() {
            table.sweep(ended, Action::Expire).await;
        }
    }
    assert_eq!(ids(&table).await, ["b"]);
    assert!(over.try_recv().is_err(), "its stream ends, so that it tells all again");
    assert_eq!(touch(&table, 1, None), None);
}

#[tokio::test]
async fn all_services_with_a_provider_are_told_however_many_they_are() {
    let table = table();
    attend(&table, 1);
    let _followed = follow(&table, "0500-nobody").unwrap();
    let names: Vec<_> = (0..1_000).map(|n| format!("{n:04}")).collect();
    let change = |name: &String| Change::Register {
        instance: Instance::new(name.as_str(), "tcp://h:1"),
        new: true,
        secret: None,
    };
    assert!(report(&table, 1, 1, names.iter().map(change).collect()).await.is_empty());
    assert_eq!(table.services(&identity(&table, &anybody())).await.unwrap(), names);
}
