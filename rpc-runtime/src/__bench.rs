//! Internals for the benchmarks. Not part of the public interface: they change without notice and
//! exist only with the feature `__bench`.

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

/// Clears an output and keeps its buffer.
#[inline]
pub fn clear(output: &mut Output) {
    output.truncate(0);
}

/// Reads a value.
#[inline]
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, RpcError> {
    payload::decode(bytes)
}

/// Traces a type and hashes its shape; 0 if it has none. The result is not cached.
pub fn fingerprint<T: Serialize + DeserializeOwned>() -> u64 {
    shape::of::<T>().map_or(0, |shape| shape.fingerprint())
}

/// The in-flight calls of a connection.
pub struct Waiting {
    table: InFlight,
    wakers: Vec<Waker>,
    buffer: Vec<u8>,
}

impl Waiting {
    /// A table with `calls` calls in flight, all with this deadline.
    pub fn new(calls: usize, deadline: Instant) -> Self {
        let mut table = InFlight::new(usize::MAX);
        for _ in 0..calls {
            table.insert(Waker::noop().clone(), deadline);
        }
        Self { table, wakers: Vec::with_capacity(calls), buffer: Vec::new() }
    }

    /// Adds a call.
    pub fn enter(&mut self, deadline: Instant) {
        self.table.insert(Waker::noop().clone(), deadline);
    }

    /// Adds a call, answers it with this body and takes the response. Returns whether there was
    /// one.
    #[inline]
    pub fn round(&mut self, deadline: Instant, body: &[u8]) -> bool {
        let id = self.table.insert(Waker::noop().clone(), deadline);
        drop(self.table.answer(Header::response(id, Status::Ok), body, None));
        self.table.poll(id, Waker::noop(), &mut self.buffer).is_some()
    }

    /// Ends the calls whose deadlines have passed, and returns their number.
    #[inline]
    pub fn expire(&mut self, now: Instant) -> usize {
        self.table.expire(now, &mut self.wakers);
        self.wakers.len()
    }
}
