//! [`Roll`]: what this process has announced, and what each server still has to be told. No I/O.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rpc_registry::{Instance, RegistryError};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::Instant;

use crate::contract::Change;
use crate::secret::Secret;

/// Service and id.
pub(super) type Key = (String, String);

/// What came of telling a server.
pub(super) enum Verdict {
    Done,
    /// The server says no, and will not say otherwise later.
    Refused(RegistryError),
    /// The server could not be told.
    Failed(RegistryError),
}

/// Where a verdict is waited for. Dropped without one, the server could not be told either; so
/// nobody waits for what was forgotten.
pub(super) type Ticket = mpsc::UnboundedSender<Verdict>;

/// Something to tell a server.
pub(super) struct Task {
    pub(super) key: Key,
    /// The number of the registration.
    pub(super) number: u64,
    pub(super) change: Change,
    pub(super) ticket: Option<Ticket>,
}

pub(super) struct Roll {
    state: Mutex<State>,
    /// One for each server: there is something to tell, or it is to be tried now.
    news: Vec<Notify>,
}

struct State {
    /// That of the data, higher with each change.
    version: u64,
    entries: BTreeMap<Key, Entry>,
    servers: Vec<Server>,
    /// Nothing more will be announced.
    closed: bool,
}

#[derive(Default)]
struct Server {
    /// What is still to be told; `None` while it is not attended, for then all is.
    outbox: Option<Vec<Task>>,
    /// The last attempt to attend it has failed.
    away: bool,
}

struct Entry {
    instance: Instance,
    number: u64,
    /// Whether nobody may have the id where it is announced first.
    new: bool,
    /// Proves to the servers that the registration belongs to this provider.
    secret: Secret,
    /// The servers that have it.
    holders: BTreeSet<usize>,
    /// When a server last confirmed it.
    confirmed: Instant,
    /// For servers that are not attended yet.
    tickets: BTreeMap<usize, Ticket>,
    /// Told if it is refused and no server has it.
    lost: Option<oneshot::Sender<RegistryError>>,
}

impl Entry {
    /// What a server is told, and who waits for its verdict. Once it is announced, the id is this
    /// provider's.
    fn task(&self, key: &Key, ticket: Option<Ticket>) -> Task {
        let new = self.new && ticket.is_some();
        let change = Change::Register {
            instance: self.instance.clone(),
            new,
            secret: Some(self.secret.clone()),
        };
        Task { key: key.clone(), number: self.number, change, ticket }
    }
}

/// What [`Roll::enter`] gives.
pub(super) struct Entered {
    pub(super) number: u64,
    /// Ends when every server that can be told has been.
    pub(super) verdicts: mpsc::UnboundedReceiver<Verdict>,
    pub(super) lost: oneshot::Receiver<RegistryError>,
}

impl Roll {
    pub(super) fn new(servers: usize) -> Self {
        let state = State {
            version: 0,
            entries: BTreeMap::new(),
            servers: (0..servers).map(|_| Server::default()).collect(),
            closed: false,
        };
        Self { state: Mutex::new(state), news: (0..servers).map(|_| Notify::new()).collect() }
    }

    /// Every change under this lock is made in one piece, so a poisoned one is still whole.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn notify(&self) {
        self.news.iter().for_each(Notify::notify_one);
    }

    /// Waits until there is something to tell the server, or it is to be tried now.
    pub(super) async fn news(&self, server: usize) {
        match self.news.get(server) {
            Some(news) => news.notified().await,
            None => std::future::pending().await,
        }
    }

    /// Announces an instance to all servers. `None` if this process has the id already.
    pub(super) fn enter(&self, instance: Instance, new: bool, secret: Secret) -> Option<Entered> {
        let key = (instance.service().to_owned(), instance.id().to_owned());
        let (ticket, verdicts) = mpsc::unbounded_channel();
        let (lost_sender, lost) = oneshot::channel();
        let mut state = self.lock();
        if state.entries.contains_key(&key) {
            return None;
        }
        let number = state.next_version();
        let mut entry = Entry {
            instance,
            number,
            new,
            secret,
            holders: BTreeSet::new(),
            confirmed: Instant::now(),
            tickets: BTreeMap::new(),
            lost: Some(lost_sender),
        };
        let all_away = state.servers.iter().all(|server| server.away);
        for (index, server) in state.servers.iter_mut().enumerate() {
            match &mut server.outbox {
                Some(outbox) => outbox.push(entry.task(&key, Some(ticket.clone()))),
                // One that is known to be away is not waited for, unless there is no other.
                None if server.away && !all_away => {}
                None => drop(entry.tickets.insert(index, ticket.clone())),
            }
        }
        state.entries.insert(key, entry);
        drop(state);
        self.notify();
        Some(Entered { number, verdicts, lost })
    }

    /// Takes a registration back, unless there is another one in its place. The verdicts are those
    /// of the servers that had it or may have.
    pub(super) fn leave(&self, key: &Key, number: u64) -> mpsc::UnboundedReceiver<Verdict> {
        let (ticket, verdicts) = mpsc::unbounded_channel();
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
                    ticket: Some(ticket.clone()),
                });
            }
            drop(state);
            self.notify();
        }
        verdicts
    }

    /// A server is attended from now on: all that it is to be told.
    pub(super) fn begin(&self, server: usize) -> (u64, Vec<Task>) {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(it) = state.servers.get_mut(server) {
            *it = Server { outbox: Some(Vec::new()), away: false };
        }
        let tell = |(key, entry): (&Key, &mut Entry)| {
            let ticket = entry.tickets.remove(&server);
            entry.task(key, ticket)
        };
        (state.data_version(), state.entries.iter_mut().map(tell).collect())
    }

    /// What there is to tell a server since the last time, and the version of the data after it.
    pub(super) fn take(&self, server: usize) -> (u64, Vec<Task>) {
        let mut state = self.lock();
        let version = state.data_version();
        let outbox = state.servers.get_mut(server).and_then(|it| it.outbox.as_mut());
        (version, outbox.map(std::mem::take).unwrap_or_default())
    }

    /// What a server made of a task, sent at `at`.
    pub(super) fn told(&self, server: usize, task: Task, verdict: Verdict, at: Instant) {
        let mut state = self.lock();
        let entry = state.entries.get_mut(&task.key).filter(|it| it.number == task.number);
        match (entry, &verdict) {
            (Some(entry), Verdict::Done) => {
                entry.holders.insert(server);
                entry.confirmed = entry.confirmed.max(at);
            }
            (Some(entry), Verdict::Refused(why)) => {
                entry.holders.remove(&server);
                // While it is being announced, that decides what comes of it.
                if task.ticket.is_none()
                    && entry.holders.is_empty()
                    && let Some(lost) = entry.lost.take()
                {
                    // Who is not there any more needs not to be told.
                    let _ = lost.send(why.clone());
                }
            }
            _ => {}
        }
        drop(state);
        if let Some(ticket) = task.ticket {
            let _ = ticket.send(verdict);
        }
    }

    /// A server has confirmed all that it has.
    pub(super) fn renewed(&self, server: usize, at: Instant) {
        let mut state = self.lock();
        for entry in state.entries.values_mut().filter(|it| it.holders.contains(&server)) {
            entry.confirmed = entry.confirmed.max(at);
        }
    }

    /// A server is not attended any more, or could not be.
    pub(super) fn failed(&self, server: usize, why: &RegistryError) {
        let mut state = self.lock();
        let state = &mut *state;
        if let Some(it) = state.servers.get_mut(server) {
            it.away = true;
            let unsent = it.outbox.take().into_iter().flatten();
            let tickets = unsent.filter_map(|task| task.ticket);
            tickets.for_each(|ticket| drop(ticket.send(Verdict::Failed(why.clone()))));
        }
        for entry in state.entries.values_mut() {
            entry.holders.remove(&server);
            if let Some(ticket) = entry.tickets.remove(&server) {
                let _ = ticket.send(Verdict::Failed(why.clone()));
            }
        }
    }

    /// When a registration is lost unless a server confirms it; `None` if it is not there.
    pub(super) fn due(&self, key: &Key, number: u64, expiry: Duration) -> Option<Instant> {
        let state = self.lock();
        let entry = state.entries.get(key).filter(|entry| entry.number == number)?;
        entry.confirmed.checked_add(expiry)
    }

    /// The secret of a registration that this process has announced.
    pub(super) fn secret(&self, key: &Key) -> Option<Secret> {
        self.lock().entries.get(key).map(|entry| entry.secret.clone())
    }

    /// Nobody announces anything any more.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.notify();
    }

    /// Whether a server needs not to be attended any more.
    pub(super) fn is_done(&self, server: usize) -> bool {
        let state = self.lock();
        let outbox = state.servers.get(server).and_then(|it| it.outbox.as_ref());
        state.closed && state.entries.is_empty() && outbox.is_none_or(Vec::is_empty)
    }
}

impl State {
    fn next_version(&mut self) -> u64 {
        self.version = self.version.wrapping_add(1);
        self.version
    }

    /// Never 0, which says that the data is not whole.
    fn data_version(&self) -> u64 {
        self.version.max(1)
    }
}

#[cfg(test)]
#[path = "roll_tests.rs"]
mod tests;
