//! The ends of a channel. From the mildest to the hardest:
//!
//! | method | new calls here | the peer is told | calls and requests under way | the connection ends |
//! | --- | --- | --- | --- | --- |
//! | [`goaway`](Channel::goaway) | are sent | to send none | go on | by the peer |
//! | [`drain`](Channel::drain) | are refused | nothing | go on | once nothing is under way |
//! | [`drain_and_goaway`](Channel::drain_and_goaway) | are refused | to send none | go on | once nothing is under way |
//! | [`fail`](Channel::fail) | are refused | why | fail | once that has left |
//! | [`abort`](Channel::abort) | are refused | why, if that needs no waiting | fail | at once |
//! | [`close`](Channel::close) | are refused | nothing | fail | at once |

use std::task::Waker;

use super::channel::Channel;
use super::clock::clock;
use crate::error::RpcError;
use crate::pipeline::Change;
use crate::protocol::error_frame;

impl Channel {
    /// Why no new calls may be sent here; `None` while they may.
    pub(crate) fn why_not_open(&self) -> Option<RpcError> {
        self.look(|state| state.refused().cloned())
    }

    /// Wakes `waker`, outside of the lock, as soon as no new calls are taken here. One waker is
    /// kept. If it is so already, it is not woken, and this returns why.
    pub(crate) fn await_end(&self, waker: Waker) -> Option<RpcError> {
        self.update(|state, _| state.watch_end(waker))
    }

    /// Whether the connection has ended: nothing is under way any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.look(|state| state.closed().is_some())
    }

    /// Tells the peer to send no new calls here. The peer ends the connection once nothing is under
    /// way; one that has not greeted by then is given up after a second without a request.
    pub(crate) fn goaway(&self) {
        let now = clock();
        self.update(|state, effects| state.goaway(now, effects));
    }

    /// No new calls are sent here; the connection ends once nothing is under way.
    pub(crate) fn drain(&self) {
        self.update(|state, effects| state.drain(effects));
    }

    /// The same, and the peer is told. Nothing is done if no new calls are sent already.
    pub(crate) fn drain_and_goaway(&self) {
        let now = clock();
        self.update(|state, effects| {
            // In one change: the peer may close once it has answered what came before the goaway.
            if state.drain(effects) {
                state.goaway(now, effects);
            }
        });
    }

    /// Tells the peer why, and closes once that has left.
    pub(crate) fn fail(&self, error: RpcError) {
        let now = clock();
        self.update(|state, effects| state.fail(error, now, effects));
    }

    /// Ends the connection now, and tells the peer why if that needs no waiting.
    pub(crate) fn abort(&self, cause: RpcError) {
        self.send(error_frame(0, &cause));
        self.close(cause);
    }

    /// Ends the connection now. Whatever waits on it fails with `cause`.
    pub(crate) fn close(&self, cause: RpcError) {
        let now = clock();
        self.update(|state, effects| state.close(cause, now, effects));
    }

    /// See [`ChannelHandle::change`](super::ChannelHandle::change).
    pub(super) fn change_pipeline(&self, change: Change) -> Result<(), RpcError> {
        let now = clock();
        self.update(|state, effects| {
            let result = state.pipeline(|pipeline, tail| pipeline.change(change, now, tail));
            state.flush_gathered(now, effects);
            result
        })
    }
}
