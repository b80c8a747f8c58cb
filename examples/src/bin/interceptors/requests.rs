//! A name for each request, and a log of them.

use std::process;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use rpc_runtime::{Call, Interceptor, Next, Reply, Result};

use crate::auth::User;

/// At the client: gives each call an id, unless it has inherited one. Only the first client of a
/// request makes one.
#[derive(Default)]
pub(crate) struct RequestId(AtomicU64);

impl Interceptor for RequestId {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        if call.metadata("request-id").is_none() {
            let number = self.0.fetch_add(1, Ordering::Relaxed);
            call.set_metadata("request-id", format!("{}-{number}", process::id()));
        }
        next.run(call).await
    }
}

/// At the server: prints a line for each call, with what came of it.
pub(crate) struct AccessLog;

impl Interceptor for AccessLog {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
        let begun = Instant::now();
        let outcome = next.run(call).await;
        let status = match &outcome {
            Ok(reply) => reply.status(),
            Err(error) => error.status(),
        };
        println!(
            "request {} by {}: {}, {status}, {} µs",
            call.metadata("request-id").unwrap_or("without id"),
            // Attached by an interceptor behind this one.
            call.extension::<User>().map_or("a stranger", |user| &user.0),
            call.method(),
            begun.elapsed().as_micros(),
        );
        outcome
    }
}
