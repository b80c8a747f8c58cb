//! A contract with a method for each way to misbehave.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rpc_runtime::{
    Blob, Context, Dispatch, MethodDescriptor, Result, RpcError, Server, rpc_service,
};
use serde::{Deserialize, Serialize};

/// A value that may be nested without end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nested {
    /// What is inside.
    pub inner: Option<Box<Nested>>,
}

/// The service that the tests call.
#[rpc_service(name = "e2e.Probe", version = "1.4.0")]
pub trait Probe {
    /// The sum.
    async fn add(&self, a: i64, b: i64) -> Result<i64>;
    /// The very same text.
    async fn echo(&self, text: String) -> Result<String>;
    /// The very same bytes, behind a text and in front of one.
    async fn blob(
        &self,
        before: String,
        blob: Blob,
        behind: String,
    ) -> Result<(String, Blob, String)>;
    /// A text of so many bytes.
    async fn make(&self, bytes: usize) -> Result<String>;
    /// The name of this provider.
    async fn who(&self) -> Result<String>;
    /// Answers after so many milliseconds.
    async fn sleep(&self, milliseconds: u64) -> Result<u64>;
    /// Never answers; counted while it waits.
    async fn wait(&self) -> Result<()>;
    /// How many calls wait, sleep or block now.
    async fn waiting(&self) -> Result<usize>;
    /// Holds its thread for so many milliseconds.
    #[rpc(blocking)]
    async fn block(&self, milliseconds: u64) -> Result<u64>;
    /// Panics with this text; with an empty one, with something that is no text.
    async fn panic(&self, text: String) -> Result<()>;
    /// Fails outside of the contract, with this text.
    async fn fail(&self, text: String) -> Result<()>;
    /// How many milliseconds the caller still waits.
    async fn remaining(&self) -> Result<Option<u64>>;
    /// How deep the value is.
    async fn depth(&self, value: Nested) -> Result<usize>;
    /// Counted.
    #[rpc(oneway)]
    async fn note(&self, text: String) -> Result<()>;
}

/// What a provider has seen.
#[derive(Debug, Default)]
pub struct Seen {
    /// Calls of any method that began.
    pub started: AtomicUsize,
    /// Calls of [`Probe::wait`], [`Probe::sleep`] and [`Probe::block`] that are under way.
    pub waiting: AtomicUsize,
    /// Calls of those that were dropped before their end.
    pub dropped: AtomicUsize,
    /// Calls of [`Probe::note`].
    pub notes: AtomicUsize,
}

impl Seen {
    /// Calls that began.
    pub fn started(&self) -> usize {
        self.started.load(Ordering::SeqCst)
    }

    /// Waiting calls under way.
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Waiting calls that were dropped.
    pub fn dropped(&self) -> usize {
        self.dropped.load(Ordering::SeqCst)
    }

    /// Notes taken.
    pub fn notes(&self) -> usize {
        self.notes.load(Ordering::SeqCst)
    }
}

/// Provides [`Probe`].
#[derive(Clone, Debug)]
pub struct Provider {
    name: String,
    seen: Arc<Seen>,
}

impl Provider {
    /// A provider of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), seen: Arc::default() }
    }

    /// What it has seen so far.
    pub fn seen(&self) -> Arc<Seen> {
        Arc::clone(&self.seen)
    }

    fn waits(&self) -> Waiting {
        self.seen.waiting.fetch_add(1, Ordering::SeqCst);
        Waiting { seen: self.seen(), done: false }
    }

    fn starts(&self) {
        self.seen.started.fetch_add(1, Ordering::SeqCst);
    }
}

/// A waiting call, counted until its end.
struct Waiting {
    seen: Arc<Seen>,
    done: bool,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.seen.waiting.fetch_sub(1, Ordering::SeqCst);
        if !self.done {
            self.seen.dropped.fetch_add(1, Ordering::SeqCst);
        }
    }
}

impl Probe for Provider {
    async fn add(&self, a: i64, b: i64) -> Result<i64> {
        self.starts();
        a.checked_add(b).ok_or_else(|| RpcError::internal("overflow"))
    }

    async fn echo(&self, text: String) -> Result<String> {
        self.starts();
        Ok(text)
    }

    async fn blob(
        &self,
        before: String,
        blob: Blob,
        behind: String,
    ) -> Result<(String, Blob, String)> {
        Ok((before, blob, behind))
    }

    async fn make(&self, bytes: usize) -> Result<String> {
        self.starts();
        Ok("m".repeat(bytes.min(64 << 20)))
    }

    async fn who(&self) -> Result<String> {
        self.starts();
        Ok(self.name.clone())
    }

    async fn sleep(&self, milliseconds: u64) -> Result<u64> {
        self.starts();
        let mut waiting = self.waits();
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        waiting.done = true;
        Ok(milliseconds)
    }

    async fn wait(&self) -> Result<()> {
        self.starts();
        let _waiting = self.waits();
        std::future::pending().await
    }

    async fn waiting(&self) -> Result<usize> {
        self.starts();
        Ok(self.seen.waiting())
    }

    async fn block(&self, milliseconds: u64) -> Result<u64> {
        self.starts();
        let mut waiting = self.waits();
        std::thread::sleep(Duration::from_millis(milliseconds));
        waiting.done = true;
        Ok(milliseconds)
    }

    async fn panic(&self, text: String) -> Result<()> {
        self.starts();
        if text.is_empty() {
            std::panic::panic_any(7_u8);
        }
        panic!("{text}")
    }

    async fn fail(&self, text: String) -> Result<()> {
        self.starts();
        Err(RpcError::internal(text))
    }

    async fn remaining(&self) -> Result<Option<u64>> {
        self.starts();
        let left = Context::current().remaining();
        Ok(left.map(|left| left.as_millis().try_into().unwrap_or(u64::MAX)))
    }

    async fn depth(&self, value: Nested) -> Result<usize> {
        self.starts();
        let mut depth = 0;
        let mut next = value.inner.as_deref();
        while let Some(value) = next {
            depth += 1;
            next = value.inner.as_deref();
        }
        Ok(depth)
    }

    async fn note(&self, _text: String) -> Result<()> {
        self.starts();
        self.seen.notes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

/// The method of [`Probe`] with this name.
pub fn method(name: &str) -> &'static MethodDescriptor {
    PROBE_DESCRIPTOR.methods().iter().find(|method| method.name() == name).unwrap()
}

/// A server of [`Probe`] with all settings at their defaults, and what it sees.
pub async fn serve(uri: &str) -> (Server, Arc<Seen>) {
    let provider = Provider::new("probe");
    let seen = provider.seen();
    let server = Server::builder().provide(ProbeServer::new(provider)).bind(uri).await.unwrap();
    (server, seen)
}

/// Each way in which a method may be run.
pub const DISPATCHES: [Dispatch; 3] = [Dispatch::Inline, Dispatch::Spawn, Dispatch::Blocking];
