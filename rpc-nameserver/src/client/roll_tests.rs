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
fn done(roll: &Roll, server: usize, tasks: Vec<Task>) {
    tasks.into_iter().for_each(|task| roll.told(server, task, Verdict::Done, Instant::now()));
}

fn is_new(task: &Task) -> bool {
    matches!(task.change, Change::Register { new: true, .. })
}

#[tokio::test]
async fn every_server_that_is_not_known_to_be_away_is_waited_for() {
    let roll = Roll::new(3);
    roll.failed(2, &away());
    let mut entered = roll.enter(instance("a"), true, secret()).unwrap();
    let (version, tasks) = roll.begin(0);
    assert_eq!((version, tasks.len(), is_new(&tasks[0])), (1, 1, true));
    done(&roll, 0, tasks);
    assert!(matches!(entered.verdicts.recv().await, Some(Verdict::Done)));
    assert!(
        matches!(entered.verdicts.try_recv(), Err(TryRecvError::Empty)),
        "the second may say no"
    );
    let (_, tasks) = roll.begin(1);
    assert!(is_new(&tasks[0]));
    done(&roll, 1, tasks);
    assert!(matches!(entered.verdicts.recv().await, Some(Verdict::Done)));
    let ended = entered.verdicts.try_recv();
    assert!(matches!(ended, Err(TryRecvError::Disconnected)), "the third is away");
    let (_, tasks) = roll.begin(2);
    assert!(!is_new(&tasks[0]), "when it is back, the id is this provider's already");
}

#[tokio::test]
async fn when_all_are_away_all_are_tried() {
    let roll = Roll::new(2);
    (0..2).for_each(|server| roll.failed(server, &away()));
    let mut entered = roll.enter(instance("a"), true, secret()).unwrap();
    (0..2).for_each(|server| roll.failed(server, &away()));
    assert!(matches!(entered.verdicts.recv().await, Some(Verdict::Failed(_))));
    assert!(matches!(entered.verdicts.recv().await, Some(Verdict::Failed(_))));
    assert!(entered.verdicts.recv().await.is_none());
}

#[tokio::test]
async fn who_waits_for_a_report_that_is_given_up_does_not_wait_for_ever() {
    let roll = Roll::new(1);
    let mut entered = roll.enter(instance("a"), true, secret()).unwrap();
    drop(roll.begin(0));
    assert!(entered.verdicts.recv().await.is_none());
    let mut left = roll.leave(&key("a"), entered.number);
    roll.failed(0, &away());
    assert!(matches!(left.recv().await, Some(Verdict::Failed(_))));
}

#[tokio::test]
async fn a_server_is_told_what_changed_since_and_all_when_it_is_back() {
    let roll = Roll::new(1);
    let a = roll.enter(instance("a"), true, secret()).unwrap();
    let (_, tasks) = roll.begin(0);
    done(&roll, 0, tasks);
    let _b = roll.enter(instance("b"), true, secret()).unwrap();
    let left = roll.leave(&key("a"), a.number);
    let (version, tasks) = roll.take(0);
    assert_eq!(version, 3);
    assert_eq!(tasks.iter().map(|task| task.key.1.as_str()).collect::<Vec<_>>(), ["b", "a"]);
    drop((tasks, left));
    assert!(roll.take(0).1.is_empty());
    roll.failed(0, &away());
    assert!(roll.take(0).1.is_empty());
    let (version, tasks) = roll.begin(0);
    assert_eq!((version, tasks.len(), tasks[0].key.1.as_str()), (3, 1, "b"));
}

#[tokio::test]
async fn an_older_registration_does_not_take_a_newer_one_back() {
    let roll = Roll::new(1);
    let old = roll.enter(instance("a"), true, secret()).unwrap();
    assert!(roll.enter(instance("a"), true, secret()).is_none(), "this process has it");
    roll.leave(&key("a"), old.number);
    let new = roll.enter(instance("a"), true, secret()).unwrap();
    roll.leave(&key("a"), old.number);
    assert!(roll.due(&key("a"), new.number, EXPIRY).is_some());
    assert!(roll.due(&key("a"), old.number, EXPIRY).is_none());
}

#[tokio::test(start_paused = true)]
async fn any_server_that_confirms_keeps_a_registration() {
    let roll = Roll::new(2);
    let a = roll.enter(instance("a"), true, secret()).unwrap();
    let begun = Instant::now();
    for server in 0..2 {
        let (_, tasks) = roll.begin(server);
        done(&roll, server, tasks);
    }
    tokio::time::advance(Duration::from_secs(100)).await;
    roll.failed(0, &away());
    roll.renewed(0, Instant::now());
    assert_eq!(roll.due(&key("a"), a.number, EXPIRY), Some(begun + EXPIRY), "it is not attended");
    roll.renewed(1, Instant::now());
    assert_eq!(roll.due(&key("a"), a.number, EXPIRY), Some(Instant::now() + EXPIRY));
}

#[tokio::test]
async fn a_registration_is_lost_when_it_is_refused_and_no_server_has_it() {
    let roll = Roll::new(2);
    let mut a = roll.enter(instance("a"), true, secret()).unwrap();
    for server in 0..2 {
        let (_, tasks) = roll.begin(server);
        done(&roll, server, tasks);
    }
    for server in 0..2 {
        assert!(a.lost.try_recv().is_err());
        roll.failed(server, &away());
        let (_, tasks) = roll.begin(server);
        let refused = || Verdict::Refused(RegistryError::already_exists("taken"));
        tasks.into_iter().for_each(|task| roll.told(server, task, refused(), Instant::now()));
    }
    assert!(a.lost.try_recv().unwrap().is_already_exists());
}
