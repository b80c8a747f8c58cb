use crate::instance::check_service;
use crate::{BoxFuture, Instance, Lease, Registry, RegistryError, RegistryUri, Watch};

/// The `file:` back end.
pub(crate) struct FileRegistry {
    uri: String,
}

impl FileRegistry {
    pub(crate) async fn connect(uri: &RegistryUri) -> Result<Self, RegistryError> {
        Ok(Self { uri: uri.as_str().to_owned() })
    }

    fn not_yet<T>(&self) -> Result<T, RegistryError> {
        Err(RegistryError::unavailable("the file back end is not there yet")
            .with_registry(&self.uri))
    }
}

impl Registry for FileRegistry {
    fn uri(&self) -> &str {
        &self.uri
    }

    fn register<'a>(&'a self, _: Instance) -> BoxFuture<'a, Result<Lease, RegistryError>> {
        Box::pin(async move { self.not_yet() })
    }

    fn lookup<'a>(
        &'a self,
        service: &'a str,
    ) -> BoxFuture<'a, Result<Vec<Instance>, RegistryError>> {
        Box::pin(async move {
            check_service(service)?;
            self.not_yet()
        })
    }

    fn watch<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<Watch, RegistryError>> {
        Box::pin(async move { self.not_yet() })
    }

    fn unregister<'a>(
        &'a self,
        _: &'a str,
        _: &'a str,
    ) -> BoxFuture<'a, Result<bool, RegistryError>> {
        Box::pin(async move { self.not_yet() })
    }

    fn services<'a>(&'a self) -> BoxFuture<'a, Result<Vec<String>, RegistryError>> {
        Box::pin(async move { self.not_yet() })
    }
}
