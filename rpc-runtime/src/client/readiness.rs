//! Waiting for a connection.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::time::Instant;

use tokio::time::timeout_at;

use super::handle::Client;
use super::pick::Pick;
use crate::call::Call;
use crate::error::RpcError;

/// A connection, within the deadline.
pub(super) async fn connect(
    client: &Client,
    call: &Call<'_>,
    deadline: Instant,
) -> Result<Pick, RpcError> {
    let mut last = None;
    let connected = {
        let attempts =
            async { timeout_at(deadline.into(), attempts(client, call, &mut last)).await };
        let mut attempts = pin!(attempts);
        poll_fn(|cx| {
            // The caller need not be in a runtime.
            let _inside = client.picker.settings().runtime.enter();
            attempts.as_mut().poll(cx)
        })
        .await
    };
    match connected {
        Ok(result) => result.map_err(RpcError::unexecuted),
        Err(_) => {
            let to = client.picker.describe();
            let passed = format!("the deadline passed before there was a connection to {to}");
            Err(match last {
                Some(error) => RpcError::timeout(format!("{passed}: {error}")).with_source(&error),
                None => RpcError::timeout(passed),
            }
            .unexecuted())
        }
    }
}

/// A connection, after as many attempts as the client's settings allow. `last` is why the last one
/// that failed did.
async fn attempts(
    client: &Client,
    call: &Call<'_>,
    last: &mut Option<RpcError>,
) -> Result<Pick, RpcError> {
    let all = &client.picker.settings().all;
    loop {
        // Subscribed before the attempt, so no change in between is missed.
        let mark = all.mark();
        if let Some(closed) = all.why_closed() {
            return Err(closed);
        }
        match client.picker.connect(call).await {
            Err(error) if client.wait_for_ready && !error.is_invalid() => *last = Some(error),
            settled => return settled,
        }
        all.change_after(mark).await;
    }
}
