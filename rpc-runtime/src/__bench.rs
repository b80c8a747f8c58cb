//! What the benchmarks reach of the inside. No part of the public interface: it changes without
//! notice, and is there only with the feature `__bench`.

use std::task::Waker;
use std::time::Instant;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use crate::protocol::payload::{Arguments, Form};
pub use crate::server::bench::Dispatching;

use crate::connection::in_flight::InFlight;
use crate::error::RpcError;
use crate::protocol::{Header, Output, payload};
use crate::shape;
use crate::status::Status;

/// Appends a value to `out`.
#[inline]
pub fn encode<T: Serialize>(value: &T, form: Form, out: &mut Vec<u8>) -> Result<Form, RpcError> {
    payload::encode(value, form, out)
}

/// Makes it empty, with the buffer that it has.
#[inline]
pub fn clear(output: &mut Output) {
    output.truncate(0);
}

/// Reads a value.
#[inline]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    payload::decode(bytes)
}

/// Traces a type and hashes its shape; 0 if it has none. What is found out is not kept.
pub fn fingerprint<T: Serialize + DeserializeOwned>() -> u64 {
    shape::of::<T>().map_or(0, |shape| shape.fingerprint())
}

/// The calls of a connection that wait.
pub struct Waiting {
    table: InFlight,
    wakers: Vec<Waker>,
    buffer: Vec<u8>,
}

impl Waiting {
    /// With so many calls under way, all with this deadline.
    pub fn new(calls: usize, deadline: Instant) -> Self {
        let mut table = InFlight::new(usize::MAX);
        for _ in 0..calls {
            table.insert(Waker::noop().clone(), deadline);
        }
        Self { table, wakers: Vec::with_capacity(calls), buffer: Vec::new() }
    }

    /// One more call that waits.
    pub fn enter(&mut self, deadline: Instant) {
        self.table.insert(Waker::noop().clone(), deadline);
    }

    /// One more call from its entry to the answer with this body. Says whether it got that.
    #[inline]
    pub fn round(&mut self, deadline: Instant, body: &[u8]) -> bool {
        let id = self.table.insert(Waker::noop().clone(), deadline);
        drop(self.table.answer(Header::response(id, Status::Ok), body, None));
        self.table.poll(id, Waker::noop(), &mut self.buffer).is_some()
    }

    /// Ends the calls whose deadlines have passed, and says how many those were.
    #[inline]
    pub fn expire(&mut self, now: Instant) -> usize {
        self.table.expire(now, &mut self.wakers);
        self.wakers.len()
    }
}
