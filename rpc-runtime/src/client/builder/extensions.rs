//! User code that runs for each call or on each connection.

use std::sync::Arc;

use super::ClientBuilder;
use crate::call::Interceptor;
use crate::pipeline::Change;

impl ClientBuilder {
    /// Adds an interceptor, which runs before and after each call. The first one added is the
    /// outermost: it sees a call first and its outcome last. See [`Interceptor`].
    ///
    /// Interceptors run in the task of the caller. The deadline of the call also ends their own
    /// waits. Metrics and the call's span include them: a call is counted with the outcome that its
    /// caller gets.
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use rpc_runtime::{Call, Client, Interceptor, Next, Reply, Result};
    ///
    /// /// Sends a token along with each call.
    /// struct Bearer(&'static str);
    ///
    /// impl Interceptor for Bearer {
    ///     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
    ///         call.set_metadata("authorization", format!("Bearer {}", self.0));
    ///         next.run(call).await
    ///     }
    /// }
    ///
    /// # async fn connect() -> Result<()> {
    /// let client = Client::builder()
    ///     .timeout(Duration::from_millis(300))
    ///     .interceptor(Bearer("s3cret"))
    ///     .connect("tcp://127.0.0.1:9000")
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn interceptor(mut self, interceptor: impl Interceptor) -> Self {
        self.interceptors = self.interceptors.with(interceptor);
        self
    }

    /// Adds handlers to the pipeline of each new connection.
    pub fn pipeline(mut self, handlers: impl Fn() -> Vec<Change> + Send + Sync + 'static) -> Self {
        self.initializer = Some(Arc::new(handlers));
        self
    }
}
