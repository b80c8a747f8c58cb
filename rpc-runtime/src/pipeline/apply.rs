//! Adds, removes and replaces the handlers of a pipeline.

use std::time::Instant;

use super::change::{Kind, NewHandler, Position};
use super::cursor::Cursor;
use super::handler::{Change, ChannelContext, ChannelHandler, Flow};
use super::traverse::catch_panic;
use super::{NamedHandler, Pipeline, Tail};
use crate::error::RpcError;

impl Pipeline {
    /// Adds, removes or replaces a handler.
    ///
    /// # Errors
    /// The name is already in use, or the change refers to a handler that does not exist. Nothing
    /// was changed.
    pub fn change<'a>(
        &mut self,
        change: Change,
        now: Instant,
        tail: &mut dyn Tail<'a>,
    ) -> Result<(), RpcError> {
        match change.0 {
            Kind::Add { position, new } => {
                let at = match position {
                    Position::First => 0,
                    Position::Last => self.entries.len(),
                    Position::Before(base) => self.position(&base)?,
                    Position::After(base) => self.position(&base)? + 1,
                };
                let entry = self.entry(new, None)?;
                self.insert(at, entry);
                self.call_handler_added(at, now, tail);
            }
            Kind::Remove { name } => {
                let at = self.position(&name)?;
                let removed = self.take(at);
                self.call_handler_removed(removed, Cursor { inbound: at, outbound: at }, now, tail);
            }
            Kind::Replace { old, new } => {
                let at = self.position(&old)?;
                let mut entry = self.entry(new, Some(&old))?;
                if let Some(position) = self.entries.get_mut(at) {
                    std::mem::swap(position, &mut entry);
                }
                let removed = entry;
                self.cursors.iter_mut().for_each(|cursor| cursor.replaced(at));
                let cursor = self.with_cursor(Cursor::replaced_at(at), |pipeline| {
                    pipeline.call_handler_added(at, now, tail);
                });
                self.call_handler_removed(removed, cursor, now, tail);
            }
        }
        Ok(())
    }

    fn position(&self, name: &str) -> Result<usize, RpcError> {
        self.entries.iter().position(|entry| entry.name == name).ok_or_else(|| {
            RpcError::invalid(format!(
                "the pipeline has no handler `{name}`; it has [{}]",
                self.names().collect::<Vec<_>>().join(", ")
            ))
        })
    }

    /// Names the handler. The name of the handler being `replaced` counts as free.
    fn entry(
        &mut self,
        new: NewHandler<Box<dyn ChannelHandler>>,
        replaced: Option<&str>,
    ) -> Result<NamedHandler, RpcError> {
        let taken = |name: &str| Some(name) != replaced && self.names().any(|other| other == name);
        let name = match new.name {
            Some(name) if taken(&name) => {
                return Err(RpcError::invalid(format!(
                    "the pipeline already has a handler `{name}`"
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
        Ok(NamedHandler { name, serial, handler: new.handler })
    }

    fn insert(&mut self, at: usize, entry: NamedHandler) {
        self.entries.insert(at, entry);
        self.cursors.iter_mut().for_each(|cursor| cursor.inserted(at));
    }

    fn take(&mut self, at: usize) -> NamedHandler {
        self.cursors.iter_mut().for_each(|cursor| cursor.removed(at));
        self.entries.remove(at)
    }

    /// Calls `handler_added` of the handler at `at`.
    fn call_handler_added<'a>(&mut self, at: usize, now: Instant, tail: &mut dyn Tail<'a>) {
        let _ = self.call(at, now, tail, |handler, ctx| {
            handler.handler_added(ctx);
            Ok(Flow::Next)
        });
    }

    /// Calls `handler_removed` of a handler. Operations that it requests start at `cursor`.
    fn call_handler_removed<'a>(
        &mut self,
        mut entry: NamedHandler,
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
        let _ = catch_panic(&mut self.closing, &mut *entry.handler, &mut ctx, |handler, ctx| {
            handler.handler_removed(ctx);
            Ok(Flow::Next)
        });
        if !self.ops.is_empty() {
            self.run_ops(cursor, now, tail);
        }
    }
}
