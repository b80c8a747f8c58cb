//! Errors of ZooKeeper as errors of the registry.

use zookeeper_client::Error;

use crate::RegistryError;

/// `what` is the failed operation, such as "cannot read the node /rpc/svc".
pub(super) fn failed(what: impl Into<String>, error: Error, uri: &str) -> RegistryError {
    let what = format!("{}: {error}", what.into());
    let failure = match &error {
        Error::NoAuth | Error::AuthFailed | Error::InvalidAcl => {
            RegistryError::permission_denied(what)
                .with_hint("check the user and the password of the URI, and the ACL of the node")
        }
        Error::NoHosts => RegistryError::unavailable(what)
            .with_hint("check that the names can be resolved, and that ZooKeeper listens there"),
        Error::Timeout => RegistryError::timeout(what),
        Error::Unimplemented => {
            RegistryError::unavailable(what).with_hint("it takes ZooKeeper 3.6 or later")
        }
        Error::BadArguments(_) => RegistryError::invalid_uri(what)
            .with_hint("ZooKeeper's paths have no control characters and no private ones"),
        _ => RegistryError::unavailable(what),
    };
    failure.with_registry(uri).with_source(error)
}

/// Whether the connection was lost during the request, so that its result is not known.
pub(super) fn is_lost(error: &Error) -> bool {
    // The client returns errors of the socket and the silence of a server in this way.
    matches!(error, Error::ConnectionLoss | Error::SessionMoved | Error::Custom(_))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_where_and_what_to_do() {
        let of = |error| failed("cannot read the node /x", error, "zookeeper://h/");
        assert!(of(Error::NoAuth).is_permission_denied() && of(Error::Timeout).is_timeout());
        assert!(of(Error::ConnectionLoss).is_unavailable());
        let message = of(Error::NoHosts).to_string();
        for part in ["cannot read the node /x", "(registry zookeeper://h/)", "; check that"] {
            assert!(message.contains(part), "{message}");
        }
    }
}
