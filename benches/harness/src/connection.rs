//! The interface to a contestant's client.

use std::net::SocketAddr;

use tokio::task::{JoinHandle, spawn_local};

use crate::load::Caller;
use crate::work::Call;
use crate::{Args, Histogram, Result, Role, idle, load};

/// A connection for any number of concurrent callers. Clones share it.
pub trait Connection: Clone + Send + Sync + 'static {
    /// Makes one call, and checks that the answer is its answer.
    fn call(&self, call: Call) -> impl Future<Output = Result<()>> + Send;
}

/// A [`Connection`] that stays on its thread. It needs a `LocalSet` around it.
pub trait LocalConnection: Clone + 'static {
    /// Makes one call, and checks that the answer is its answer.
    fn call(&self, call: Call) -> impl Future<Output = Result<()>>;
}

/// Runs the role of a client, on connections that `connect` opens.
pub async fn drive<C: Connection>(
    args: &Args,
    connect: impl AsyncFn(SocketAddr) -> Result<C>,
) -> Result<()> {
    let spawn = |caller: Caller, connection: C| {
        tokio::spawn(caller.run(async move |call| connection.call(call).await))
    };
    drive_with(args, connect, async |connection| connection.call(Call::Text).await, spawn).await
}

/// Like [`drive`], on the current thread only.
pub async fn drive_local<C: LocalConnection>(
    args: &Args,
    connect: impl AsyncFn(SocketAddr) -> Result<C>,
) -> Result<()> {
    let spawn = |caller: Caller, connection: C| {
        spawn_local(caller.run(async move |call| connection.call(call).await))
    };
    drive_with(args, connect, async |connection| connection.call(Call::Text).await, spawn).await
}

async fn drive_with<C: Clone>(
    args: &Args,
    connect: impl AsyncFn(SocketAddr) -> Result<C>,
    call_once: impl AsyncFn(&C) -> Result<()>,
    spawn: impl Fn(Caller, C) -> JoinHandle<Result<Histogram>>,
) -> Result<()> {
    if args.role == Role::Idle {
        let open = async || {
            let connection = connect(args.address).await?;
            call_once(&connection).await?;
            Ok(connection)
        };
        return idle::run(args, open).await;
    }
    let mut connections = Vec::new();
    for _ in 0..args.connections.max(1) {
        connections.push(connect(args.address).await?);
    }
    load::run(args, &connections, spawn).await
}
