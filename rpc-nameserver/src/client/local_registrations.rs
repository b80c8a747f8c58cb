//! [`LocalRegistrations`]: the registrations of this process, and what each server must still be
//! sent. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use rpc_registry::sync::{Mutex, MutexGuard};
use rpc_registry::{Instance, RegistryError};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use super::task::{Key, ResultSender, Task, TaskResult};
use crate::contract::Change;
use crate::secret::Secret;

pub(super) struct LocalRegistrations {
    state: Mutex<LocalState>,
    /// One for each server: wakes its session when there are tasks or when it must retry now.
    wakeups: Vec<Notify>,
}

struct LocalState {
    /// The version of the data, incremented with each change.
    version: u64,
    entries: BTreeMap<Key, LocalRegistration>,
    servers: Vec<Server>,
    /// Whether no registrations will be added.
    closed: bool,
}

#[derive(Default)]
struct Server {
    /// The tasks that are still to be sent. `None` without a session: then all registrations are
    /// sent when it begins.
    outbox: Option<Vec<Task>>,
    /// Whether the last attempt to open a session failed.
    away: bool,
}

struct LocalRegistration {
    instance: Instance,
    number: u64,
    /// Whether the id must be free at the servers.
    new: bool,
    /// Proves to the servers that the registration belongs to this provider.
    secret: Secret,
    /// The servers that have the registration.
    holders: BTreeSet<usize>,
    /// When a server last confirmed it.
    confirmed: Instant,
    /// For servers without a session.
    result_senders: BTreeMap<usize, ResultSender>,
    /// Receives the reason if the registration is refused and no server has it.
    lost: Option<oneshot::Sender<RegistryError>>,
}

impl LocalRegistration {
    /// The task that registers it. Once it is registered, the id belongs to this provider.
    fn task(&self, key: &Key, result_sender: Option<ResultSender>) -> Task {
        let new = self.new && result_sender.is_some();
        let change = Change::Register {
            instance: self.instance.clone(),
            new,
            secret: Some(self.secret.clone()),
        };
        Task { key: key.clone(), number: self.number, change, result_sender }
    }
}

/// The result of [`LocalRegistrations::add`].
pub(super) struct Registered {
    pub(super) number: u64,
    /// Ends when all tasks have a result.
    pub(super) results: mpsc::UnboundedReceiver<TaskResult>,
    pub(super) lost: oneshot::Receiver<RegistryError>,
}

impl LocalRegistrations {
    pub(super) fn new(servers: usize) -> Self {
        let state = LocalState {
            version: 0,
            entries: BTreeMap::new(),
            servers: (0..servers).map(|_| Server::default()).collect(),
            closed: false,
        };
        Self { state: Mutex::new(state), wakeups: (0..servers).map(|_| Notify::new()).collect() }
    }

    fn lock(&self) -> MutexGuard<'_, LocalState> {
        self.state.lock()
    }

    fn notify(&self) {
        self.wakeups.iter().for_each(Notify::notify_one);
    }

    /// Waits until there are tasks for the server, or it must be retried now.
    pub(super) async fn wait(&self, server: usize) {
        match self.wakeups.get(server) {
            Some(wakeups) => wakeups.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Registers an instance at all servers. `None` if this process already uses the id.
    pub(super) fn add(&self, instance: Instance, new: bool, secret: Secret) -> Option<Registered> {
        let key = (instance.service().to_owned(), instance.id().to_owned());
        let (result_sender, results) = mpsc::unbounded_channel();
        let (lost_sender, lost) = oneshot::channel();
        let mut state = self.lock();
        if state.entries.contains_key(&key) {
            return None;
        }
        let number = state.next_version();
        let mut entry = LocalRegistration {
            instance,
            number,
            new,
            secret,
            holders: BTreeSet::new(),
            confirmed: Instant::now(),
            result_senders: BTreeMap::new(),
            lost: Some(lost_sender),
        };
        let all_away = state.servers.iter().all(|server| server.away);
        for (index, server) in state.servers.iter_mut().enumerate() {
            match &mut server.outbox {
                Some(outbox) => outbox.push(entry.task(&key, Some(result_sender.clone()))),
                // A server that is known to be away is not waited for, unless all are.
                None if server.away && !all_away => {}
                None => drop(entry.result_senders.insert(index, result_sender.clone())),
            }
        }
        state.entries.insert(key, entry);
        drop(state);
        self.notify();
        Some(Registered { number, results, lost })
    }

    /// Removes a registration, unless it was replaced by another one. The results come from the
    /// servers that have it or may have it.
    pub(super) fn remove(&self, key: &Key, number: u64) -> mpsc::UnboundedReceiver<TaskResult> {
        let (result_sender, results) = mpsc::unbounded_channel();
        let mut state = self.lock();
        if state.entries.get(key).is_some_and(|entry| entry.number == number)
            && let Some(entry) = state.entries.remove(key)
        {
            state.next_version();
            for outbox in state.servers.iter_mut().filter_map(|server| server.outbox.as_mut()) {
                outbox.push(Task {
                    key: key.clone(),
                    number,
                    change: Change::Unregister {
                        service: key.0.clone(),
                        id: key.1.clone(),
                        epoch: entry.instance.epoch(),
                    },
                    result_sender: Some(result_sender.clone()),
                });
            }
            drop(state);
            self.notify();
        }
        results
    }

    /// Begins the session of a server. Returns the version of the data and the tasks that register
    /// all instances.
    pub(super) fn attach(&self, server: usize) -> (u64, Vec<Task>) {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(it) = state.servers.get_mut(server) {
            *it = Server { outbox: Some(Vec::new()), away: false };
        }
        let tell = |(key, entry): (&Key, &mut LocalRegistration)| {
            let result_sender = entry.result_senders.remove(&server);
            entry.task(key, result_sender)
        };
        (state.data_version(), state.entries.iter_mut().map(tell).collect())
    }

    /// The new tasks for a server, and the version of the data after them.
    pub(super) fn take(&self, server: usize) -> (u64, Vec<Task>) {
        let mut state = self.lock();
        let version = state.data_version();
        let outbox = state.servers.get_mut(server).and_then(|it| it.outbox.as_mut());
        (version, outbox.map(std::mem::take).unwrap_or_default())
    }

    /// Notes the result of a task that was sent at `at`.
    pub(super) fn note_result(&self, server: usize, task: Task, result: TaskResult, at: Instant) {
        let mut state = self.lock();
        let entry = state.entries.get_mut(&task.key).filter(|it| it.number == task.number);
        match (entry, &result) {
            (Some(entry), TaskResult::Accepted) => {
                entry.holders.insert(server);
                entry.confirmed = entry.confirmed.max(at);
            }
            (Some(entry), TaskResult::Refused(why)) => {
                entry.holders.remove(&server);
                // During the first registration, the caller handles the refusal.
                if task.result_sender.is_none()
                    && entry.holders.is_empty()
                    && let Some(lost) = entry.lost.take()
                {
                    // The receiver may be gone.
                    let _ = lost.send(why.clone());
                }
            }
            _ => {}
        }
        drop(state);
        if let Some(result_sender) = task.result_sender {
            let _ = result_sender.send(result);
        }
    }

    /// A server has confirmed all that it has.
    pub(super) fn renewed(&self, server: usize, at: Instant) {
        let mut state = self.lock();
        for entry in state.entries.values_mut().filter(|it| it.holders.contains(&server)) {
            entry.confirmed = entry.confirmed.max(at);
        }
    }

    /// The session of a server has ended, or could not be opened.
    pub(super) fn detach(&self, server: usize, why: &RegistryError) {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(it) = state.servers.get_mut(server) {
            it.away = true;
            let unsent = it.outbox.take().into_iter().flatten();
            let result_senders = unsent.filter_map(|task| task.result_sender);
            result_senders.for_each(|result_sender| {
                drop(result_sender.send(TaskResult::Failed(why.clone())))
            });
        }
        for entry in state.entries.values_mut() {
            entry.holders.remove(&server);
            if let Some(result_sender) = entry.result_senders.remove(&server) {
                let _ = result_sender.send(TaskResult::Failed(why.clone()));
            }
        }
    }

    /// When a registration is lost unless a server confirms it; `None` if it does not exist.
    pub(super) fn due(&self, key: &Key, number: u64, expiry: Duration) -> Option<Instant> {
        let state = self.lock();
        let entry = state.entries.get(key).filter(|entry| entry.number == number)?;
        entry.confirmed.checked_add(expiry)
    }

    /// The secret of a registration of this process.
    pub(super) fn secret(&self, key: &Key) -> Option<Secret> {
        self.lock().entries.get(key).map(|entry| entry.secret.clone())
    }

    /// No registrations are added from here on.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.notify();
    }

    /// Whether the session of a server is no longer needed.
    pub(super) fn is_done(&self, server: usize) -> bool {
        let state = self.lock();
        let outbox = state.servers.get(server).and_then(|it| it.outbox.as_ref());
        state.closed && state.entries.is_empty() && outbox.is_none_or(Vec::is_empty)
    }
}

impl LocalState {
    fn next_version(&mut self) -> u64 {
        self.version = self.version.wrapping_add(1);
        self.version
    }

    /// Never 0, which means that the data is incomplete.
    fn data_version(&self) -> u64 {
        self.version.max(1)
    }
}

#[cfg(test)]
#[path = "local_registrations_tests.rs"]
mod tests;
