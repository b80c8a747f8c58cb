use tokio::sync::mpsc::error::TryRecvError;

use super::*;

const EXPIRY: Duration = Duration::from_secs(120);

fn secret() -> Secret {
    Secret::random().unwrap()
}

fn instance(id: &str) -> Instance {
    Instance::new("svc", "tcp://h:1").with_id(id).with_epoch(1)
}

fn key(id: &str) -> Key {
    ("svc".to_owned(), id.to_owned())
}

fn away() -> RegistryError {
    RegistryError::unavailable("away")
}

/// The server takes all that there is for it.
fn done(registrations: &LocalRegistrations, server: usize, tasks: Vec<Task>) {
    tasks.into_iter().for_each(|task| {
        registrations.note_result(server, task, TaskResult::Accepted, Instant::now())
    });
}

fn is_new(task: &Task) -> bool {
    matches!(task.change, Change::Register { new: true, .. })
}

#[tokio::test]
async fn every_server_that_is_not_known_to_be_away_is_waited_for() {
    let registrations = LocalRegistrations::new(3);
    registrations.detach(2, &away());
    let mut entered = registrations.add(instance("a"), true, secret()).unwrap();
    let (version, tasks) = registrations.attach(0);
    assert_eq!((version, tasks.len(), is_new(&tasks[0])), (1, 1, true));
    done(&registrations, 0, tasks);
    assert!(matches!(entered.results.recv().await, Some(TaskResult::Accepted)));
    assert!(
        matches!(entered.results.try_recv(), Err(TryRecvError::Empty)),
        "the second may say no"
    );
    let (_, tasks) = registrations.attach(1);
    assert!(is_new(&tasks[0]));
    done(&registrations, 1, tasks);
    assert!(matches!(entered.results.recv().await, Some(TaskResult::Accepted)));
    let ended = entered.results.try_recv();
    assert!(matches!(ended, Err(TryRecvError::Disconnected)), "the third is away");
    let (_, tasks) = registrations.attach(2);
    assert!(!is_new(&tasks[0]), "when it is back, the id is this provider's already");
}

#[tokio::test]
async fn when_all_are_away_all_are_tried() {
    let registrations = LocalRegistrations::new(2);
    (0..2).for_each(|server| registrations.detach(server, &away()));
    let mut entered = registrations.add(instance("a"), true, secret()).unwrap();
    (0..2).for_each(|server| registrations.detach(server, &away()));
    assert!(matches!(entered.results.recv().await, Some(TaskResult::Failed(_))));
    assert!(matches!(entered.results.recv().await, Some(TaskResult::Failed(_))));
    assert!(entered.results.recv().await.is_none());
}

#[tokio::test]
async fn who_waits_for_a_report_that_is_given_up_does_not_wait_for_ever() {
    let registrations = LocalRegistrations::new(1);
    let mut entered = registrations.add(instance("a"), true, secret()).unwrap();
    drop(registrations.attach(0));
    assert!(entered.results.recv().await.is_none());
    let mut left = registrations.remove(&key("a"), entered.number);
    registrations.detach(0, &away());
    assert!(matches!(left.recv().await, Some(TaskResult::Failed(_))));
}

#[tokio::test]
async fn a_server_is_told_what_changed_since_and_all_when_it_is_back() {
    let registrations = LocalRegistrations::new(1);
    let a = registrations.add(instance("a"), true, secret()).unwrap();
    let (_, tasks) = registrations.attach(0);
    done(&registrations, 0, tasks);
    let _b = registrations.add(instance("b"), true, secret()).unwrap();
    let left = registrations.remove(&key("a"), a.number);
    let (version, tasks) = registrations.take(0);
    assert_eq!(version, 3);
    assert_eq!(tasks.iter().map(|task| task.key.1.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    drop((tasks, left));
    assert!(registrations.take(0).1.is_empty());
    registrations.detach(0, &away());
    assert!(registrations.take(0).1.is_empty());
    let (version, tasks) = registrations.attach(0);
    assert_eq!((version, tasks.len(), tasks[0].key.1.as_str()), (3, 1, "b"));
}

#[tokio::test]
async fn an_older_registration_does_not_take_a_newer_one_back() {
    let registrations = LocalRegistrations::new(1);
    let old = registrations.add(instance("a"), true, secret()).unwrap();
    assert!(registrations.add(instance("a"), true, secret()).is_none(), "this process has it");
    registrations.remove(&key("a"), old.number);
    let new = registrations.add(instance("a"), true, secret()).unwrap();
    registrations.remove(&key("a"), old.number);
    assert!(registrations.due(&key("a"), new.number, EXPIRY).is_some());
    assert!(registrations.due(&key("a"), old.number, EXPIRY).is_none());
}

#[tokio::test(start_paused = true)]
async fn any_server_that_confirms_keeps_a_registration() {
    let registrations = LocalRegistrations::new(2);
    let a = registrations.add(instance("a"), true, secret()).unwrap();
    let begun = Instant::now();
    for server in 0..2 {
        let (_, tasks) = registrations.attach(server);
        done(&registrations, server, tasks);
    }
    tokio::time::advance(Duration::from_secs(100)).await;
    registrations.detach(0, &away());
    registrations.renewed(0, Instant::now());
    assert_eq!(
        registrations.due(&key("a"), a.number, EXPIRY),
        Some(begun + EXPIRY),
        "it is not attended"
    );
    registrations.renewed(1, Instant::now());
    assert_eq!(registrations.due(&key("a"), a.number, EXPIRY), Some(Instant::now() + EXPIRY));
}

#[tokio::test]
async fn a_registration_is_lost_when_it_is_refused_and_no_server_has_it() {
    let registrations = LocalRegistrations::new(2);
    let mut a = registrations.add(instance("a"), true, secret()).unwrap();
    for server in 0..2 {
        let (_, tasks) = registrations.attach(server);
        done(&registrations, server, tasks);
    }
    for server in 0..2 {
        assert!(a.lost.try_recv().is_err());
        registrations.detach(server, &away());
        let (_, tasks) = registrations.attach(server);
        let refused = || TaskResult::Refused(RegistryError::already_exists("taken"));
        tasks
            .into_iter()
            .for_each(|task| registrations.note_result(server, task, refused(), Instant::now()));
    }
    assert!(a.lost.try_recv().unwrap().is_already_exists());
}
