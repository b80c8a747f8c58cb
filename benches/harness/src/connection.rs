//! What a contestant's client is to the harness.

use std::net::SocketAddr;

use crate::work::Call;
use crate::{Args, Result, idle, load};

/// One connection, used by any number of callers at a time. Clones are the same connection.
pub trait Connection: Clone + Send + Sync + 'static {
    /// Makes one call, and checks that the answer is its answer.
    fn call(&self, call: Call) -> impl Future<Output = Result<()>> + Send;
}

/// A [`Connection`] that stays on its thread. It needs a `LocalSet` around it.
pub trait LocalConnection: Clone + 'static {
    /// Makes one call, and checks that the answer is its answer.
    fn call(&self, call: Call) -> impl Future<Output = Result<()>>;
}

/// Does what the role asks of a client, on connections that `connect` opens.
pub async fn drive<C: Connection>(
    args: &Args,
    connect: impl AsyncFn(SocketAddr) -> Result<C>,
) -> Result<()> {
    let call = |connection: C| async move |call| connection.call(call).await;
    if args.role == crate::Role::Idle {
        return idle::run(args, async || {
            let connection = connect(args.address).await?;
            connection.call(Call::Text).await?;
            Ok(connection)
        })
        .await;
    }
    let mut connections = Vec::new();
    for _ in 0..args.connections.max(1) {
        connections.push(connect(args.address).await?);
    }
    load::run(args, &connections, |caller, connection| tokio::spawn(caller.run(call(connection))))
        .await
}

/// As [`drive`], all on this thread.
pub async fn drive_local<C: LocalConnection>(
    args: &Args,
    connect: impl AsyncFn(SocketAddr) -> Result<C>,
) -> Result<()> {
    let call = |connection: C| async move |call| connection.call(call).await;
    if args.role == crate::Role::Idle {
        return idle::run(args, async || {
            let connection = connect(args.address).await?;
            connection.call(Call::Text).await?;
            Ok(connection)
        })
        .await;
    }
    let mut connections = Vec::new();
    for _ in 0..args.connections.max(1) {
        connections.push(connect(args.address).await?);
    }
    load::run(args, &connections, |caller, connection| {
        tokio::task::spawn_local(caller.run(call(connection)))
    })
    .await
}
