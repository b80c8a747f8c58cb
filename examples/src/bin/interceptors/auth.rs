//! Who calls, and what they may call.

use rpc_runtime::{Call, Interceptor, Next, Reply, Result, RpcError};

/// At the client: sends a token with each call.
pub(crate) struct Bearer(pub(crate) &'static str);

impl Interceptor for Bearer {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply, RpcError> {
        call.set_metadata("authorization", format!("Bearer {}", self.0));
        let reply = next.run(call).await?;
        tracing::debug!(method = %call.method(), peer = ?reply.peer(), served_by = ?reply.metadata("served-by"));
        Ok(reply)
    }
}

/// The user who calls. Methods read it with `Context::current().extension::<User>()`.
pub(crate) struct User(pub(crate) String);

/// At the server: refuses calls without the token. Arguments are decoded only behind it.
///
/// Use TLS between machines: whoever reads the connection has the token. A real server looks the
/// token up and compares it in constant time.
pub(crate) struct RequireBearer(pub(crate) &'static str);

impl Interceptor for RequireBearer {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply, RpcError> {
        match call.metadata("authorization").and_then(|v| v.strip_prefix("Bearer ")) {
            Some(token) if token == self.0 => {
                call.extensions_mut().insert(User("ada".into())); // typed, for the method
                next.run(call).await.map(|reply| reply.with_metadata("served-by", "node-7"))
            }
            _ => Err(RpcError::unauthenticated("a bearer token is needed")), // also: permission_denied
        }
    }
}

/// At the server, for a service: refuses users without the role. Runs behind [`RequireBearer`].
pub(crate) struct RequireRole(pub(crate) &'static str);

impl Interceptor for RequireRole {
    async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply, RpcError> {
        match call.extension::<User>() {
            Some(user) if has_role(user, self.0) => next.run(call).await,
            Some(user) => {
                let refused = format!("{} does not have the role {}", user.0, self.0);
                Err(RpcError::permission_denied(refused))
            }
            None => Err(RpcError::unauthenticated("the user is not known")),
        }
    }
}

fn has_role(user: &User, role: &str) -> bool {
    [("ada", "clerk"), ("grace", "admin")].contains(&(user.0.as_str(), role))
}
