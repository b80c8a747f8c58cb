//! [`Interceptors`]: a list of interceptors.

use std::fmt;
use std::sync::Arc;

use super::interceptor::{DynInterceptor, End, Interceptor, Next};

/// A list of interceptors in the order in which they run: the first is the outermost.
///
/// Use [`with`](Self::with) for interceptors of different types. An array or a vector of one type
/// converts into a list.
///
/// ```
/// use rpc_runtime::{Call, Interceptor, Interceptors, Next, Reply, Result};
///
/// struct Audit;
/// # impl Interceptor for Audit {
/// #     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
/// #         next.run(call).await
/// #     }
/// # }
/// struct RequireRole(&'static str);
/// # impl Interceptor for RequireRole {
/// #     async fn intercept(&self, call: &mut Call<'_>, next: Next<'_>) -> Result<Reply> {
/// #         next.run(call).await
/// #     }
/// # }
/// let one_type = Interceptors::from([RequireRole("admin")]);
/// let two_types = Interceptors::new().with(Audit).with(RequireRole("admin"));
/// ```
#[derive(Clone, Default)]
pub struct Interceptors(
    /// `None` if there are none, so that an empty list costs nothing.
    Option<Arc<[Arc<dyn DynInterceptor>]>>,
);

impl Interceptors {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an interceptor as the innermost one.
    #[must_use]
    pub fn with(self, interceptor: impl Interceptor) -> Self {
        let added: Arc<dyn DynInterceptor> = Arc::new(interceptor);
        let list = self.as_slice().iter().cloned().chain([added]);
        Self(Some(list.collect()))
    }

    /// Appends the interceptors of `inner`, which run inside those of this list.
    #[must_use]
    pub fn and(self, inner: impl Into<Self>) -> Self {
        let inner = inner.into();
        if self.is_empty() {
            return inner;
        }
        if inner.is_empty() {
            return self;
        }
        Self(Some(self.as_slice().iter().chain(inner.as_slice()).cloned().collect()))
    }

    /// Whether the list is empty.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Number of interceptors.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    fn as_slice(&self) -> &[Arc<dyn DynInterceptor>] {
        self.0.as_deref().unwrap_or_default()
    }

    /// The chain of these interceptors and `end`.
    pub(crate) fn before<'n>(&'n self, end: &'n mut dyn End) -> Next<'n> {
        Next::new(self.as_slice(), end)
    }
}

impl<I: Interceptor> FromIterator<I> for Interceptors {
    fn from_iter<T: IntoIterator<Item = I>>(interceptors: T) -> Self {
        let list = interceptors.into_iter().map(|one| Arc::new(one) as Arc<dyn DynInterceptor>);
        let list: Arc<[_]> = list.collect();
        Self(Some(list).filter(|list| !list.is_empty()))
    }
}

impl<I: Interceptor, const N: usize> From<[I; N]> for Interceptors {
    fn from(interceptors: [I; N]) -> Self {
        interceptors.into_iter().collect()
    }
}

impl<I: Interceptor> From<Vec<I>> for Interceptors {
    fn from(interceptors: Vec<I>) -> Self {
        interceptors.into_iter().collect()
    }
}

impl fmt::Debug for Interceptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Interceptors").field("len", &self.len()).finish()
    }
}
