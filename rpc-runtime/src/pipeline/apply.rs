//! Adds, removes and replaces the handlers of a pipeline.

use std::time::Instant;

use super::change::{Kind, New, Place};
use super::cursor::Cursor;
use super::handler::{Change, ChannelContext, ChannelHandler, Flow};
use super::traverse::guarded;
use super::{Entry, Pipeline, Tail};
use crate::error::RpcError;

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
    fn entry(
        &mut self,
        new: New<Box<dyn ChannelHandler>>,
        replaced: Option<&str>,
    ) -> Result<Entry, RpcError> {
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
