use rpc_registry::Instance;

use super::*;
use crate::contract::{Why, unpack};
use crate::server::state::{DEPARTURES, ENTRY_BYTES};

const EXPIRY: Duration = Duration::from_secs(120);

fn table() -> Table {
    Table::new(Duration::ZERO, usize::MAX)
}

fn instance(id: &str, epoch: u64) -> Instance {
    Instance::new("svc", "tcp://h:1").with_id(id).with_epoch(epoch)
}

fn register(id: &str, epoch: u64, new: bool) -> Change {
    Change::Register { instance: instance(id, epoch), new }
}

fn unregister(id: &str, epoch: u64) -> Change {
    Change::Unregister { service: "svc".into(), id: id.into(), epoch }
}

fn ids(table: &Table) -> Vec<String> {
    let listing = table.lookup("svc").unwrap();
    let instances: Vec<Instance> = unpack(&listing.instances).unwrap();
    instances.iter().map(|it| it.id().to_owned()).collect()
}

fn refused(table: &Table, session: u64, change: Change) -> bool {
    !table.report(session, 9, vec![change]).unwrap().is_empty()
}

#[tokio::test]
async fn an_id_that_is_taken_is_replaced_only_by_a_newer_epoch_of_the_same_provider() {
    let table = table();
    let _one = table.attend(1, EXPIRY).unwrap();
    let _two = table.attend(2, EXPIRY).unwrap();
    assert!(!refused(&table, 1, register("a", 5, true)));
    assert!(refused(&table, 2, register("a", 9, true)), "somebody has it");
    assert!(refused(&table, 2, register("a", 5, false)), "as old");
    assert!(!refused(&table, 2, register("a", 6, false)));
    assert!(refused(&table, 1, register("a", 5, false)), "older");
    assert_eq!(table.leases.touch(1), Some(9));
}

#[tokio::test]
async fn who_was_replaced_has_to_tell_all_at_its_next_renewal() {
    let table = table();
    let _one = table.attend(1, EXPIRY).unwrap();
    let _two = table.attend(2, EXPIRY).unwrap();
    table.report(1, 7, vec![register("a", 5, true)]).unwrap();
    assert_eq!(table.leases.touch(1), Some(7));
    table.report(2, 8, vec![register("a", 6, false)]).unwrap();
    assert_eq!(table.leases.touch(1), Some(0));
}

#[tokio::test]
async fn only_what_belongs_to_the_session_and_has_its_epoch_is_removed() {
    let table = table();
    let _one = table.attend(1, EXPIRY).unwrap();
    let _two = table.attend(2, EXPIRY).unwrap();
    table.report(1, 1, vec![register("a", 5, true)]).unwrap();
    table.report(2, 1, vec![unregister("a", 5)]).unwrap();
    table.report(1, 2, vec![unregister("a", 4)]).unwrap();
    assert_eq!(ids(&table), ["a"]);
    table.report(1, 3, vec![unregister("a", 5)]).unwrap();
    assert!(ids(&table).is_empty());
    assert!(matches!(table.report(3, 1, vec![]), Err(NameError::NoSession)));
}

#[tokio::test]
async fn the_end_of_an_older_connection_removes_nothing_of_the_newer_one() {
    let table = table();
    let (old, mut over) = table.attend(1, EXPIRY).unwrap();
    table.report(1, 1, vec![register("a", 1, true), register("b", 1, true)]).unwrap();
    let (new, _alive) = table.attend(1, EXPIRY).unwrap();
    assert!(over.try_recv().is_err(), "the older stream ends");
    assert_eq!(table.leases.touch(1), Some(0), "all is to be told again");
    table.leave(1, old);
    assert_eq!(ids(&table), ["a", "b"], "nothing flickers while it is told again");
    table.report(1, 0, vec![]).unwrap();
    assert_eq!(ids(&table), ["a", "b"]);
    table.report(1, 2, vec![register("b", 1, false)]).unwrap();
    assert_eq!(ids(&table), ["b"], "what was not told again is gone");
    table.leave(1, new);
    assert!(ids(&table).is_empty());
}

#[tokio::test]
async fn followers_hear_who_left_in_order_and_not_who_lapsed() {
    let table = table();
    let (attendance, _over) = table.attend(1, EXPIRY).unwrap();
    let all = ["a", "b", "c"].map(|id| register(id, 1, true)).to_vec();
    table.report(1, 1, all).unwrap();
    let changes = table.follow("svc").unwrap();
    let seen = *changes.borrow();
    table.report(1, 2, vec![unregister("a", 1)]).unwrap();
    table.report(1, 3, vec![unregister("b", 1), register("b", 2, true)]).unwrap();
    assert_eq!(table.listing("svc", Some(seen)).unwrap().departed, ["a"]);
    let seen = *changes.borrow();
    table.leave(1, attendance);
    let listing = table.listing("svc", Some(seen)).unwrap();
    assert!(listing.departed.is_empty());
    assert!(unpack::<Vec<Instance>>(&listing.instances).unwrap().is_empty());
}

#[tokio::test]
async fn departures_that_nobody_asks_for_do_not_pile_up() {
    let table = table();
    let _one = table.attend(1, EXPIRY).unwrap();
    let _changes = table.follow("svc").unwrap();
    for epoch in 0..70 {
        let all = (0..1_000).map(|n| n.to_string());
        let come = all.clone().map(|id| register(&id, epoch, true));
        let go = all.map(|id| unregister(&id, epoch));
        table.report(1, epoch + 1, come.chain(go).collect()).unwrap();
    }
    assert_eq!(table.lock().departures.len(), DEPARTURES);
    assert_eq!(table.listing("svc", Some(0)).unwrap().departed.len(), DEPARTURES);
}

#[tokio::test]
async fn what_is_not_needed_any_more_takes_no_memory() {
    let table = table();
    let (attendance, _over) = table.attend(1, EXPIRY).unwrap();
    table.report(1, 1, vec![register("a", 1, true), register("a", 2, true)]).unwrap();
    drop(table.follow("svc").unwrap());
    table.unfollow("svc");
    drop(table.follow("nobody").unwrap());
    table.unfollow("nobody");
    assert_eq!(table.lock().services.len(), 1);
    table.leave(1, attendance);
    let state = table.lock();
    assert_eq!((state.bytes, state.services.len(), state.sessions.len()), (0, 0, 0));
}

#[tokio::test]
async fn what_is_over_the_limit_is_refused_and_the_rest_stays() {
    let table = Table::new(Duration::ZERO, FIXED_BYTES + 2 * ENTRY_BYTES);
    let _one = table.attend(1, EXPIRY).unwrap();
    let changes = ["a", "b", "c"].map(|id| register(id, 1, true)).to_vec();
    let refusals = table.report(1, 1, changes).unwrap();
    assert_eq!(
        refusals.iter().map(|it| (it.index, it.why)).collect::<Vec<_>>(),
        [(1, Why::Full), (2, Why::Full)]
    );
    assert_eq!(ids(&table), ["a"]);
    assert!(matches!(table.follow("svc"), Err(NameError::Full(_))));
}

#[tokio::test]
async fn a_full_server_can_be_told_again_what_it_has() {
    let table = Table::new(Duration::ZERO, FIXED_BYTES + 2 * ENTRY_BYTES);
    let _old = table.attend(1, EXPIRY).unwrap();
    table.report(1, 1, vec![register("a", 1, true)]).unwrap();
    let bytes = table.lock().bytes;
    let _new = table.attend(1, EXPIRY).unwrap();
    assert!(!refused(&table, 1, register("a", 1, false)));
    assert!(refused(&table, 1, register("b", 1, true)));
    assert_eq!((ids(&table), table.lock().bytes), (vec!["a".to_owned()], bytes));
}

#[tokio::test]
async fn an_invalid_instance_is_refused_and_the_others_are_taken() {
    let table = table();
    let _one = table.attend(1, EXPIRY).unwrap();
    let refusals = table.report(1, 1, vec![register("a b", 1, true), register("b", 1, true)]);
    let refusals = refusals.unwrap();
    assert_eq!((refusals[0].index, refusals[0].why, refusals.len()), (0, Why::Invalid, 1));
    assert_eq!(ids(&table), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_server_does_not_say_that_nobody_is_there() {
    let table = Table::new(Duration::from_secs(35), usize::MAX);
    assert!(matches!(table.lookup("svc"), Err(NameError::Starting { left_ms: 35_000 })));
    assert!(matches!(table.services(), Err(NameError::Starting { .. })));
    assert!(matches!(table.follow("svc"), Err(NameError::Starting { .. })));
    let _one = table.attend(1, EXPIRY).unwrap();
    table.report(1, 1, vec![register("a", 1, true)]).unwrap();
    assert_eq!(ids(&table), ["a"], "who registers is listed at once");
    assert!(matches!(table.lookup("other"), Err(NameError::Starting { .. })));
    tokio::time::advance(Duration::from_secs(35)).await;
    assert!(table.lookup("other").is_ok() && table.follow("other").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_session_that_is_not_renewed_lapses_and_one_that_is_does_not() {
    let table = table();
    let (_, mut over) = table.attend(1, EXPIRY).unwrap();
    let _two = table.attend(2, EXPIRY).unwrap();
    table.report(1, 1, vec![register("a", 1, true)]).unwrap();
    table.report(2, 1, vec![register("b", 1, true)]).unwrap();
    for _ in 0..3 {
        tokio::time::advance(Duration::from_secs(40)).await;
        table.leases.touch(2);
        table.expire();
    }
    assert_eq!(ids(&table), ["b"]);
    assert!(over.try_recv().is_err(), "its stream ends, so that it tells all again");
    assert_eq!(table.leases.touch(1), None);
}
