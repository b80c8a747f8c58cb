//! [`RequestError`]: the meaning of a failed request to etcd.

use std::error::Error;

use tonic::{Code, Status};

use super::settings::root_cause;
use crate::RegistryError;

/// The texts of etcd begin with its name. They are more specific than the codes.
const FROM_ETCD: &str = "etcdserver: ";
const TOKEN: [&str; 3] = ["invalid auth token", "auth store is old", "user name is empty"];

#[derive(Debug)]
pub(super) enum RequestError {
    /// Any other server would respond in the same way.
    Refused(RegistryError),
    /// The server is temporarily not available, for example during an election, or the connection
    /// broke, for example by a restart.
    Busy(String),
    /// No connection can be made.
    Unreachable(String),
}

impl RequestError {
    pub(super) fn of(status: &Status) -> Self {
        let text = status.message();
        match status.code() {
            Code::PermissionDenied | Code::Unauthenticated => Self::Refused(denied(text)),
            Code::InvalidArgument if is_about_credentials(text) => Self::Refused(denied(text)),
            Code::Unavailable | Code::Unknown | Code::DeadlineExceeded
                if text.starts_with(FROM_ETCD) =>
            {
                Self::Busy(text.to_owned())
            }
            Code::Unavailable | Code::Unknown | Code::Internal | Code::Cancelled => {
                let why = root_cause(status);
                match is_about_connecting(status) {
                    true => Self::Unreachable(why),
                    false => Self::Busy(why),
                }
            }
            Code::Unimplemented => Self::Refused(
                RegistryError::unavailable(format!("it is no etcd that can be used: {text}"))
                    .with_hint("check the address, and that etcd is 3.4 or newer"),
            ),
            code => Self::Refused(RegistryError::unavailable(format!(
                "etcd refused: {text} ({code:?})"
            ))),
        }
    }

    /// The error of a stream that etcd has cancelled.
    pub(super) fn of_reason(reason: &str) -> RegistryError {
        match is_about_credentials(reason) || reason.contains("permission denied") {
            true => denied(reason),
            false => RegistryError::unavailable(format!("etcd ended the watch: {reason}")),
        }
    }
}

/// Whether a new token may help. A token ends with time, with the server, and with each change of
/// users and roles.
pub(super) fn is_about_the_token(status: &Status) -> bool {
    TOKEN.iter().any(|about| status.message().contains(about))
}

fn is_about_connecting(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

fn is_about_credentials(text: &str) -> bool {
    text.contains("authentication failed") || TOKEN.iter().any(|about| text.contains(about))
}

fn denied(text: &str) -> RegistryError {
    RegistryError::permission_denied(format!("etcd refused: {text}"))
        .with_hint("give the URI a user and password whose role may read and write its prefix")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_another_server_may_serve_is_told_from_what_none_will() {
        let of = |code, text: &str| RequestError::of(&Status::new(code, text));
        let failed = "etcdserver: authentication failed, invalid user ID or password";
        for denied in [
            of(Code::InvalidArgument, failed),
            of(Code::PermissionDenied, "etcdserver: permission denied"),
            of(Code::InvalidArgument, "etcdserver: user name is empty"),
        ] {
            assert!(matches!(denied, RequestError::Refused(error) if error.is_permission_denied()));
        }
        assert!(matches!(of(Code::Unavailable, "etcdserver: no leader"), RequestError::Busy(_)));
        assert!(matches!(
            of(Code::Unavailable, "etcdserver: leader changed"),
            RequestError::Busy(_)
        ));
        assert!(matches!(of(Code::Unknown, "broken pipe"), RequestError::Busy(_)));
        let connect = Status::from_error(Box::new(tonic::ConnectError("refused".into())));
        assert!(
            matches!(RequestError::of(&connect), RequestError::Unreachable(why) if why == "refused")
        );
        let other = of(Code::Unimplemented, "no such method");
        let RequestError::Refused(other) = other else { panic!("{other:?}") };
        assert!(other.to_string().contains("no etcd that can be used: no such method; check the"));
        let full = of(Code::ResourceExhausted, "etcdserver: mvcc: database space exceeded");
        assert!(matches!(full, RequestError::Refused(error) if error.is_unavailable()));
    }

    #[test]
    fn a_token_that_has_ended_is_told_from_a_wrong_password() {
        let of = |code, text: &str| is_about_the_token(&Status::new(code, text));
        assert!(of(Code::Unauthenticated, "etcdserver: invalid auth token"));
        assert!(of(Code::InvalidArgument, "etcdserver: revision of auth store is old"));
        assert!(!of(Code::InvalidArgument, "etcdserver: authentication failed, invalid user ID"));
        assert!(!of(Code::PermissionDenied, "etcdserver: permission denied"));
    }
}
