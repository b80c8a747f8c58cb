//! [`IncomingStream`]: the items of a stream that the peer sends.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::channel::Channel;
use super::clock::clock;
use super::streams::{Incoming, Taken};
use crate::call::Items;
use crate::error::RpcError;
use crate::protocol::{DecodeLimits, Flags, Header};

/// The items of a stream that the peer sends. Dropping it and its clones tells the peer to stop.
///
/// A clone is for arguments that are decoded a second time. Only one of them is to be polled.
#[derive(Clone)]
pub(crate) struct IncomingStream {
    open: Arc<Open>,
    ended: bool,
}

struct Open {
    channel: Arc<Channel>,
    id: u64,
    incoming: Arc<Incoming>,
}

impl fmt::Debug for IncomingStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IncomingStream").field("id", &self.open.id).finish_non_exhaustive()
    }
}

impl Items for IncomingStream {
    fn limits(&self) -> DecodeLimits {
        self.open.channel.settings().decode
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, RpcError>>> {
        match self.open.incoming.poll_take(cx.waker()) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(Taken::Item { item, grant }) => {
                self.open.item_taken(grant);
                Poll::Ready(Some(Ok(item)))
            }
            Poll::Ready(Taken::End(_)) if self.ended => Poll::Ready(None),
            Poll::Ready(Taken::End(end)) => {
                self.ended = true;
                Poll::Ready(end.err().map(|error| Err(error.with_peer(self.open.channel.peer()))))
            }
        }
    }
}

impl Open {
    /// Updates memory and credit after an item was taken.
    fn item_taken(&self, grant: u32) {
        let window = self.incoming.is_grant_due();
        if grant == 0 && !window && !self.channel.account().is_charged() {
            return;
        }
        let now = clock();
        self.channel.update(|state, effects| {
            if window {
                state.grant_window(now, effects);
            }
            if grant > 0 {
                state.grant(self.id, grant, now, effects);
            }
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let ended = self.incoming.has_ended();
        self.incoming.drop_items();
        self.item_taken(0);
        if !ended {
            let now = clock();
            self.channel.update(|state, effects| {
                state.drop_incoming(self.id, &self.incoming, now, effects);
            });
        }
    }
}

impl Channel {
    /// The stream whose items follow a request or an answer, if its header says that there is one.
    pub(crate) fn incoming_stream(self: &Arc<Self>, header: &Header) -> Option<IncomingStream> {
        match header.flags.contains(Flags::STREAM) {
            true => self.take_incoming(header.id),
            false => None,
        }
    }

    pub(super) fn take_incoming(self: &Arc<Self>, id: u64) -> Option<IncomingStream> {
        let incoming = self.update(|state, _| state.take_incoming(id))?;
        let open = Open { channel: Arc::clone(self), id, incoming };
        Some(IncomingStream { open: Arc::new(open), ended: false })
    }
}
