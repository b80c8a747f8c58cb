use std::pin::Pin;

/// A boxed future, so that traits with asynchronous methods can be used as `dyn`.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
