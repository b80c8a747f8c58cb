//! The lists of a service, each time there is a sign that it has changed.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;
use tokio::sync::broadcast::error::RecvError;
use tokio::time::{Instant, sleep_until};

use super::format::Entry;
use super::signs::{Lookout, News};
use super::store::{Seen, Store};
use crate::back_end::{Feed, Update};
use crate::{BoxFuture, Instance, RegistryError};

/// A beat is looked at so much later than it may have become too old.
const LATER: Duration = Duration::from_millis(10);

/// Follows one service.
pub(super) struct FileFeed {
    store: Arc<Store>,
    service: String,
    news: broadcast::Receiver<News>,
    /// Gives the news.
    _lookout: Arc<Lookout>,
    due: Due,
    /// The entries of the service at the last look.
    entries: Vec<Arc<Entry>>,
    /// When the first of them may lapse.
    lapses: Option<Instant>,
    /// What was told last; at first nothing.
    told: Option<Vec<Instance>>,
    /// Those of which was told that they have lapsed.
    lapsed: HashSet<String>,
}

/// Whether to look.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Due {
    No,
    /// Only if the list says something else of this service.
    IfListed,
    Yes,
}

impl FileFeed {
    pub(super) fn new(store: Arc<Store>, service: String, lookout: Arc<Lookout>) -> Self {
        let news = lookout.subscribe();
        let (entries, lapses, told, lapsed) = Default::default();
        Self {
            store,
            service,
            news,
            _lookout: lookout,
            due: Due::Yes,
            entries,
            lapses,
            told,
            lapsed,
        }
    }

    async fn look(&mut self) -> Result<Option<Update>, RegistryError> {
        let only_if_changed = self.due == Due::IfListed;
        let known = self.entries.clone();
        let seen = self.store.see(&self.service, known, only_if_changed).await?;
        self.due = Due::No;
        Ok(seen.and_then(|seen| self.compare(seen)))
    }

    /// What there is to tell.
    fn compare(&mut self, seen: Seen) -> Option<Update> {
        let Seen { living, lapsed, entries, is_list_missing, is_faulty, lapses_in } = seen;
        self.entries = entries;
        self.lapses = lapses_in.and_then(|left| Instant::now().checked_add(left + LATER));
        let lapsed: HashSet<_> = lapsed.into_iter().collect();
        let told = self.told.as_deref().unwrap_or_default();
        let known = told.iter().map(Instance::id).chain(self.lapsed.iter().map(String::as_str));
        let there: HashSet<_> = living.iter().map(Instance::id).collect();
        let departed: Vec<_> = known
            .filter(|id| !there.contains(id) && !lapsed.contains(*id))
            .filter(|_| !is_list_missing)
            .map(str::to_owned)
            .collect();
        let is_new = self.told.as_ref() != Some(&living) || !departed.is_empty();
        self.lapsed = lapsed;
        self.told = Some(living.clone());
        is_new.then_some(Update { instances: living, departed, after_fault: is_faulty })
    }

    /// Takes note of what may have happened.
    fn hear(&mut self, news: Result<News, RecvError>) -> Result<(), RegistryError> {
        let heard = match news {
            Ok(news) if news.anything => Due::Yes,
            Ok(news) if self.names_any(&news.beats) => Due::Yes,
            Ok(news) if news.list => Due::IfListed,
            Ok(_) => Due::No,
            Err(RecvError::Lagged(_)) => Due::Yes,
            Err(RecvError::Closed) => {
                return Err(RegistryError::unavailable("the registry is not watched any more")
                    .with_registry(self.store.folder().uri()));
            }
        };
        self.due = match (self.due, heard) {
            (Due::Yes, _) | (_, Due::Yes) => Due::Yes,
            (Due::No, other) | (other, Due::No) => other,
            (Due::IfListed, Due::IfListed) => Due::IfListed,
        };
        Ok(())
    }

    fn names_any(&self, beats: &HashSet<String>) -> bool {
        let of = |entry: &Arc<Entry>| entry.beat.as_ref().is_some_and(|b| beats.contains(&b.name));
        !beats.is_empty() && self.entries.iter().any(of)
    }
}

impl Feed for FileFeed {
    fn next(&mut self) -> BoxFuture<'_, Result<Update, RegistryError>> {
        Box::pin(async move {
            loop {
                if self.due != Due::No
                    && let Some(update) = self.look().await?
                {
                    return Ok(update);
                }
                let lapses = self.lapses;
                tokio::select! {
                    news = self.news.recv() => self.hear(news)?,
                    () = sleep_until(lapses.unwrap_or_else(Instant::now)), if lapses.is_some() => {
                        self.due = Due::Yes;
                    }
                }
            }
        })
    }
}
