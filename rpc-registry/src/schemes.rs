use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

use crate::backends::{file, memory};
use crate::suggest::nearest;
use crate::sync::RwLock;
use crate::uri::is_scheme;
use crate::{BoxFuture, Registry, RegistryError, RegistryUri};

/// Connects to the registries of one URI scheme.
///
/// Every `Fn(RegistryUri) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>>` is
/// one; see [`register_scheme`].
pub trait SchemeFactory: Send + Sync + 'static {
    /// Connects to the registry that `uri` names.
    fn connect(
        &self,
        uri: RegistryUri,
    ) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>>;
}

impl<F> SchemeFactory for F
where
    F: Fn(RegistryUri) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>>
        + Send
        + Sync
        + 'static,
{
    fn connect(
        &self,
        uri: RegistryUri,
    ) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>> {
        self(uri)
    }
}

type Schemes = BTreeMap<String, Arc<dyn SchemeFactory>>;

static SCHEMES: LazyLock<RwLock<Schemes>> = LazyLock::new(|| RwLock::new(built_in()));

fn built_in() -> Schemes {
    fn file(uri: RegistryUri) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(async move { Ok(Arc::new(file::connect(&uri).await?) as _) })
    }
    fn memory(uri: RegistryUri) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(async move { Ok(Arc::new(memory::connect(&uri).await?) as _) })
    }
    #[cfg(feature = "etcd")]
    fn etcd(uri: RegistryUri) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(async move { Ok(Arc::new(crate::etcd::connect(uri).await?) as _) })
    }
    #[cfg(feature = "zookeeper")]
    fn zookeeper(uri: RegistryUri) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(async move { Ok(Arc::new(crate::zookeeper::connect(uri).await?) as _) })
    }
    let mut schemes = Schemes::new();
    schemes.insert("file".to_owned(), Arc::new(file));
    schemes.insert("memory".to_owned(), Arc::new(memory));
    #[cfg(feature = "etcd")]
    schemes.insert("etcd".to_owned(), Arc::new(etcd));
    #[cfg(feature = "zookeeper")]
    schemes.insert("zookeeper".to_owned(), Arc::new(zookeeper));
    schemes
}

/// Connects to the registry that `uri` names; its scheme chooses the back end.
///
/// No request is sent to servers, so that a consumer can start without them. The first operation
/// shows whether they can be reached.
///
/// # Errors
///
/// `is_invalid_uri` or `is_unsupported_scheme` (the message lists the known schemes); otherwise the
/// error of the back end.
///
/// # Cancel safety
///
/// Dropping the future leaves nothing behind, except for an empty folder with `file:`.
pub async fn connect(uri: impl AsRef<str>) -> Result<Arc<dyn Registry>, RegistryError> {
    let uri = RegistryUri::parse(uri.as_ref())?;
    // Cloned out, so that the table is not locked while a back end connects.
    let factory = {
        let schemes = SCHEMES.read();
        schemes.get(uri.scheme()).cloned()
    };
    match factory {
        Some(factory) => factory.connect(uri).await,
        None => Err(unsupported(&uri)),
    }
}

/// The schemes that [`connect`] knows, sorted.
pub fn supported_schemes() -> Vec<String> {
    SCHEMES.read().keys().cloned().collect()
}

/// Adds a back end: [`connect`] passes URIs of this scheme to `factory`. For the whole process; it
/// cannot be removed.
///
/// ```
/// use std::sync::Arc;
/// use rpc_registry::{Registry, RegistryError, RegistryUri, connect, register_scheme};
///
/// # async fn demo() -> Result<(), RegistryError> {
/// register_scheme("local", |_uri: RegistryUri| {
///     Box::pin(connect("memory:local")) as rpc_registry::BoxFuture<'static, _>
/// })?;
/// let registry = connect("local:").await?;
/// # Ok(()) }
/// # tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(demo()).unwrap();
/// ```
///
/// # Errors
///
/// `is_already_exists` when the scheme is taken, whatever its case; `is_invalid_uri` when it is
/// not a scheme (a letter, then letters, digits, `+`, `-` or `.`).
pub fn register_scheme(scheme: &str, factory: impl SchemeFactory) -> Result<(), RegistryError> {
    if !is_scheme(scheme) {
        return Err(RegistryError::invalid_uri(format!("{scheme:?} is not a URI scheme"))
            .with_hint("use a letter, then letters, digits, '+', '-' or '.', without the colon"));
    }
    let scheme = scheme.to_ascii_lowercase();
    let mut schemes = SCHEMES.write();
    if schemes.contains_key(&scheme) {
        return Err(RegistryError::already_exists(format!(
            "the registry scheme {scheme:?} is taken already"
        ))
        .with_hint("register each scheme once, and choose another name for another back end"));
    }
    schemes.insert(scheme, Arc::new(factory));
    Ok(())
}

fn unsupported(uri: &RegistryUri) -> RegistryError {
    let known = supported_schemes();
    let mut hint = format!("supported are {}", known.join(", "));
    if let Some(missing) = missing(uri.scheme()) {
        hint = format!("{missing}; {hint}");
    } else if let Some(near) = nearest(uri.scheme(), &known) {
        hint.push_str(&format!("; did you mean {near:?}?"));
    }
    RegistryError::unsupported_scheme(format!(
        "no registry back end for the scheme {:?} of {:?}",
        uri.scheme(),
        uri.as_str()
    ))
    .with_hint(hint)
}

/// How to add a back end of this framework that the program does not contain.
fn missing(scheme: &str) -> Option<String> {
    match scheme {
        "etcd" | "zookeeper" => {
            Some(format!("build with the feature {scheme:?} of the crate rpc-registry"))
        }
        "etcds" => Some("write etcd:// and, for TLS, the parameter ca=".to_owned()),
        "nameserver" => Some("call rpc_nameserver::register_scheme() first".to_owned()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_back_end_that_was_left_out_is_not_taken_for_a_mistyped_one() {
        let error = fails("nameserver://127.0.0.1").await.to_string();
        assert!(error.contains("call rpc_nameserver::register_scheme() first; supp"), "{error}");
        let error = fails("etcds://127.0.0.1").await.to_string();
        assert!(error.contains("write etcd:// and, for TLS, the parameter ca="), "{error}");
        for scheme in ["etcd", "zookeeper"] {
            let hint = missing(scheme).unwrap();
            assert!(hint.contains(&format!("feature {scheme:?} of the crate rpc-registry")));
        }
    }

    async fn fails(uri: &str) -> RegistryError {
        match connect(uri).await {
            Ok(registry) => panic!("{} was accepted", registry.uri()),
            Err(error) => error,
        }
    }

    fn to_memory(_: RegistryUri) -> BoxFuture<'static, Result<Arc<dyn Registry>, RegistryError>> {
        Box::pin(connect("memory:plugged-in"))
    }

    #[tokio::test]
    async fn an_unknown_scheme_is_answered_with_the_known_ones_and_a_suggestion() {
        let error = fails("fiel:///tmp/x").await;
        assert!(error.is_unsupported_scheme());
        let message = error.to_string();
        for part in ["\"fiel\"", "fiel:///tmp/x", "file, memory", "did you mean \"file\"?"] {
            assert!(message.contains(part), "{message}");
        }
        assert!(fails("no-uri").await.is_invalid_uri());
    }

    #[tokio::test]
    async fn a_third_crate_can_add_a_scheme_once() {
        register_scheme("Plug-In", to_memory).unwrap();
        assert_eq!(connect("plug-in:").await.unwrap().uri(), "memory:plugged-in");
        assert!(supported_schemes().contains(&"plug-in".to_owned()));
        assert!(register_scheme("plug-in", to_memory).unwrap_err().is_already_exists());
        assert!(register_scheme("FILE", to_memory).unwrap_err().is_already_exists());
        assert!(register_scheme("no:scheme", to_memory).unwrap_err().is_invalid_uri());
    }
}
