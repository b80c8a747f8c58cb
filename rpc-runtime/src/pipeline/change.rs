//! [`Change`]: handlers added, removed and replaced while the connection lives.

use std::time::Instant;

use super::context::ChannelContext;
use super::handler::{ChannelHandler, Flow};
use super::traverse::{Cursor, guarded};
use super::{Entry, Pipeline, Tail};
use crate::error::RpcError;

/// A change of the pipeline, made with [`Pipeline::change`](super::Pipeline::change), from within a
/// handler with [`ChannelContext::change`](super::ChannelContext::change).
///
/// Names are unique within a pipeline. A handler added without a name (`None`) is named after its
/// type: `Idle#0`, `Idle#1`, …
pub struct Change(Kind);

enum Kind {
    Add { place: Place, new: New },
    Remove { name: String },
    Replace { old: String, new: New },
}

enum Place {
    First,
    Last,
    Before(String),
    After(String),
}

struct New {
    name: Option<String>,
    type_name: &'static str,
    handler: Box<dyn ChannelHandler>,
}

impl New {
    fn of<'n, H: ChannelHandler>(name: impl Into<Option<&'n str>>, handler: H) -> Self {
        Self {
            name: name.into().map(str::to_owned),
            type_name: short_name(std::any::type_name::<H>()),
            handler: Box::new(handler),
        }
    }
}

/// `a::b::Idle<c::D>` → `Idle`, and `a::<impl b::B for c::C<D>>::method::Idle`, too.
fn short_name(path: &'static str) -> &'static str {
    let (mut start, mut depth, mut before) = (0, 0_usize, ' ');
    for (at, char) in path.char_indices() {
        match char {
            '<' => depth += 1,
            '>' if before != '-' => depth = depth.saturating_sub(1),
            ':' if depth == 0 => start = at + 1,
            _ => {}
        }
        before = char;
    }
    path.get(start..).and_then(|name| name.split('<').next()).unwrap_or(path)
}

impl Change {
    /// Adds a handler next to the head, where bytes come in.
    pub fn add_first<'n>(name: impl Into<Option<&'n str>>, handler: impl ChannelHandler) -> Self {
        Self(Kind::Add { place: Place::First, new: New::of(name, handler) })
    }

    /// Adds a handler next to the tail, where calls are.
    pub fn add_last<'n>(name: impl Into<Option<&'n str>>, handler: impl ChannelHandler) -> Self {
        Self(Kind::Add { place: Place::Last, new: New::of(name, handler) })
    }

    /// Adds a handler in front of the one called `base`.
    pub fn add_before<'n>(
        base: &str,
        name: impl Into<Option<&'n str>>,
        handler: impl ChannelHandler,
    ) -> Self {
        Self(Kind::Add { place: Place::Before(base.to_owned()), new: New::of(name, handler) })
    }

    /// Adds a handler behind the one called `base`.
    pub fn add_after<'n>(
        base: &str,
        name: impl Into<Option<&'n str>>,
        handler: impl ChannelHandler,
    ) -> Self {
        Self(Kind::Add { place: Place::After(base.to_owned()), new: New::of(name, handler) })
    }

    /// Removes the handler called `name`.
    pub fn remove(name: &str) -> Self {
        Self(Kind::Remove { name: name.to_owned() })
    }

    /// Puts a handler in the place of the one called `old`. The new one is added before the old one
    /// hears of its removal, so what the old one then passes on reaches the new one first.
    pub fn replace<'n>(
        old: &str,
        name: impl Into<Option<&'n str>>,
        handler: impl ChannelHandler,
    ) -> Self {
        Self(Kind::Replace { old: old.to_owned(), new: New::of(name, handler) })
    }
}

impl Pipeline {
    /// Adds, removes or replaces a handler.
    ///
    /// # Errors
    /// The name is taken, or there is no handler of the name that the change refers to. Nothing was
    /// changed.
    pub fn change<'a>(
        &mut self,
        change: Change,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) -> Result<(), RpcError> {
        match change.0 {
            Kind::Add { place, new } => {
                let at = match place {
                    Place::First => 0,
                    Place::Last => self.entries.len(),
                    Place::Before(base) => self.position(&base)?,
                    Place::After(base) => self.position(&base)? + 1,
                };
                let entry = self.entry(new, None)?;
                self.insert(at, entry);
                self.welcome(at, now, tail);
            }
            Kind::Remove { name } => {
                let at = self.position(&name)?;
                let removed = self.take(at);
                self.farewell(removed, Cursor { inbound: at, outbound: at }, now, tail);
            }
            Kind::Replace { old, new } => {
                let at = self.position(&old)?;
                let mut entry = self.entry(new, Some(&old))?;
                if let Some(place) = self.entries.get_mut(at) {
                    std::mem::swap(place, &mut entry);
                }
                let removed = entry;
                self.cursors.iter_mut().for_each(|cursor| cursor.replaced(at));
                let cursor = self.while_at(Cursor::replaced_at(at), |pipeline| {
                    pipeline.welcome(at, now, tail);
                });
                self.farewell(removed, cursor, now, tail);
            }
        }
        Ok(())
    }

    fn position(&self, name: &str) -> Result<usize, RpcError> {
        self.entries.iter().position(|entry| entry.name == name).ok_or_else(|| {
            RpcError::invalid(format!(
                "there is no handler called `{name}` in the pipeline [{}]",
                self.names().collect::<Vec<_>>().join(", ")
            ))
        })
    }

    /// An entry under a free name; the name of the one being `replaced` counts as free.
    fn entry(&mut self, new: New, replaced: Option<&str>) -> Result<Entry, RpcError> {
        let taken = |name: &str| Some(name) != replaced && self.names().any(|other| other == name);
        let name = match new.name {
            Some(name) if taken(&name) => {
                return Err(RpcError::invalid(format!(
                    "there is a handler called `{name}` in the pipeline already"
                )));
            }
            Some(name) => name,
            None => (0..=self.entries.len())
                .map(|number| format!("{}#{number}", new.type_name))
                .find(|name| !taken(name))
                .unwrap_or_default(),
        };
        let serial = self.next_serial;
        self.next_serial += 1;
        Ok(Entry { name, serial, handler: new.handler })
    }

    fn insert(&mut self, at: usize, entry: Entry) {
        self.entries.insert(at, entry);
        self.cursors.iter_mut().for_each(|cursor| cursor.inserted(at));
    }

    fn take(&mut self, at: usize) -> Entry {
        self.cursors.iter_mut().for_each(|cursor| cursor.removed(at));
        self.entries.remove(at)
    }

    /// Tells the handler at `at` that it was added.
    fn welcome<'a>(&mut self, at: usize, now: Instant, tail: &mut dyn Tail<'a>) {
        let _ = self.call(at, now, tail, |handler, ctx| {
            handler.handler_added(ctx);
            Ok(Flow::Next)
        });
    }

    /// Tells a handler that it was removed; what it passes on starts at `cursor`.
    fn farewell<'a>(
        &mut self,
        mut entry: Entry,
        cursor: Cursor,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) {
        let mut ctx = ChannelContext {
            now,
            name: &entry.name,
            writable: self.writable,
            pending_bytes: self.pending_bytes,
            heartbeat_bytes: self.out.heartbeat_bytes(),
            ops: &mut self.ops,
        };
        let _ = guarded(&mut self.closing, &mut *entry.handler, &mut ctx, |handler, ctx| {
            handler.handler_removed(ctx);
            Ok(Flow::Next)
        });
        if !self.ops.is_empty() {
            self.run_ops(cursor, now, tail);
        }
    }
}
